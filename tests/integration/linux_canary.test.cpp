// SPDX-License-Identifier: BSL-1.0
#include <optional>

#include "linux_children.hpp"

using namespace linux_test;
using detail::os::fork_canaries;
using detail::os::fork_canary;
using detail::os::fork_marker;

namespace {

constexpr std::size_t none = fork_canaries::none;

/// Closes itself.
struct canary : fork_canary {
    canary() { REQUIRE_FALSE(create()); }
    ~canary() {
        retire();
        close();
    }
};

/// A line of canaries, the first of which exists.
struct line {
    line() { all.begin(); }
    fork_marker marker;
    fork_canaries all{marker};
};

void close_all_from(unsigned first) { ::syscall(SYS_close_range, first, ~0U, 0U); }

/// As long as one of these exists, every call of a kind fails.
struct failing {
    failing(detail::os::call c, int error) {
        which = c;
        with = error;
        detail::os::fault_hook = [](detail::os::call x) noexcept { return x == which ? with : 0; };
    }
    ~failing() { detail::os::fault_hook = nullptr; }
    static inline detail::os::call which{};
    static inline int with = 0;
};

} // namespace

TEST_CASE("a canary that nobody else maps is alone once it has retired", "[linux]") {
    canary c;
    CHECK_FALSE(c.alone());
    c.retire();
    CHECK(c.alone());
    CHECK(c.alone());
}

TEST_CASE("a canary sees a child until it ends, also one that has closed everything", "[linux]") {
    birth const b = GENERATE(birth::fork, birth::raw_clone, birth::fork_without_handlers);
    canary c;
    int ready[2];
    REQUIRE(::pipe(ready) == 0);
    ::fflush(nullptr);
    pid_t const pid = give_birth(b);
    if (pid == 0) {
        ::alarm(60);
        ::dup2(ready[1], 0);
        close_all_from(1);
        static_cast<void>(::write(0, "x", 1) == 1);
        for (;;) {
            ::pause();
        }
    }
    char byte;
    REQUIRE(::read(ready[0], &byte, 1) == 1);
    c.retire();
    CAPTURE(b);
    CHECK_FALSE(c.alone());
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    CHECK(c.alone());
    ::close(ready[0]);
    ::close(ready[1]);
}

TEST_CASE("a canary sees the child of a child that has ended", "[linux]") {
    canary c;
    int life[2]; // the grandchild lives until we close our end
    int gone[2]; // reads as ended when the grandchild has
    REQUIRE(::pipe(life) == 0);
    REQUIRE(::pipe(gone) == 0);
    CHECK(in_child([&] {
              pid_t const grandchild = ::fork();
              if (grandchild == 0) {
                  ::alarm(60);
                  char byte;
                  ::close(life[1]);
                  ::_exit(static_cast<int>(::read(life[0], &byte, 1)));
              }
              return grandchild < 0 ? 1 : 0;
          }) == 0);
    c.retire();
    CHECK_FALSE(c.alone());
    ::close(life[0]);
    ::close(gone[1]);
    ::close(life[1]);
    char byte;
    CHECK(::read(gone[0], &byte, 1) == 0);
    // Its descriptors are closed after its memory is gone.
    CHECK(c.alone());
    ::close(gone[0]);
}

TEST_CASE("a canary does not see a child that runs another program", "[linux]") {
    birth const b = GENERATE(birth::vfork_exec, birth::posix_spawn);
    canary c;
    child other{b, nothing_to_do};
    c.retire();
    CAPTURE(b);
    CHECK(c.alone());
    CHECK(other.wait() == 0);
}

TEST_CASE("a canary sees neither the children before it nor those after it", "[linux]") {
    child before{birth::fork, nothing_to_do};
    canary c;
    c.retire();
    child after{birth::fork, nothing_to_do};
    CHECK(c.alone());
}

TEST_CASE("a canary whose descriptor somebody closed is never alone", "[linux]") {
    CHECK(in_child([] {
              fork_canary c;
              if (c.create()) {
                  return 1;
              }
              c.retire();
              close_all_from(3);
              int const foreign = ::memfd_create("foreign", MFD_ALLOW_SEALING);
              for (int fd = 3; fd < 64; ++fd) {
                  if (fd != foreign) {
                      ::dup2(foreign, fd);
                  }
              }
              bool const alone = c.alone();
              bool const untouched = ::fcntl(foreign, F_GET_SEALS) == 0;
              return !alone && untouched ? 0 : 2;
          }) == 0);
}

TEST_CASE("a canary that cannot be asked is never alone", "[linux]") {
    canary c;
    c.retire();
    int const error = GENERATE(EBUSY, EPERM, EINVAL, EBADF, EINTR, ENOMEM);
    failing const seal{detail::os::call::fcntl, error};
    CHECK_FALSE(c.alone());
}

TEST_CASE("there is no canary without a file or a mapping, and nothing is left behind", "[linux]") {
    auto const refused = [](detail::os::call what, int error) {
        std::size_t const mappings = detail::os::count_mappings();
        int const free = ::dup(0);
        ::close(free);
        fork_canary c;
        {
            failing const f{what, error};
            CHECK(c.create().error == error);
        }
        CHECK_FALSE(c.exists());
        CHECK(detail::os::count_mappings() == mappings);
        int const still = ::dup(0);
        ::close(still);
        CHECK(still == free);
    };
    for (int error : {EMFILE, ENFILE, ENOMEM, EACCES, EPERM, ENOSYS}) {
        refused(detail::os::call::memfd_create, error);
    }
    refused(detail::os::call::mmap, ENOMEM);
    refused(detail::os::call::mmap, EPERM);
}

TEST_CASE("a child that lives across a hand-over is seen by the canary of its birth only",
          "[linux]") {
    line l;
    child first{birth::fork, nothing_to_do};
    std::size_t const a = l.all.hand_over();
    child second{birth::fork, nothing_to_do};
    std::size_t const b = l.all.hand_over();
    std::size_t const c = l.all.hand_over();
    REQUIRE(a != none);
    REQUIRE(b != none);
    REQUIRE(c != none);
    l.all.ask();
    CHECK_FALSE(l.all.alone(a));
    CHECK_FALSE(l.all.alone(b));
    CHECK(l.all.alone(c));
    // Canaries have the numbers 1, 2, 3; the current one is 4.
    CHECK(l.all.current() == 4);
    CHECK(l.all.next_obstacle(1, c) == b);
    CHECK(l.all.next_obstacle(2, c) == b);
    CHECK(l.all.next_obstacle(3, c) == none);
    first.kill();
    l.all.ask();
    CHECK(l.all.alone(a));
    CHECK(l.all.next_obstacle(1, c) == b);
    second.kill();
    l.all.ask();
    CHECK(l.all.alone(b));
    CHECK(l.all.next_obstacle(1, c) == none);
}

TEST_CASE("an older child holds back what was there at its birth, a younger one does not",
          "[linux]") {
    line l;
    child old{birth::fork, nothing_to_do};
    std::size_t const a = l.all.hand_over(); // canary 1 is busy
    std::size_t const b = l.all.hand_over();
    l.all.ask();
    REQUIRE(l.all.alone(b));
    CHECK(l.all.next_obstacle(1, b) == a);
    CHECK(l.all.next_obstacle(2, b) == none);
}

TEST_CASE("without a successor the current canary stays, and its children are seen", "[linux]") {
    line l;
    child seen{birth::fork, nothing_to_do};
    {
        failing const f{detail::os::call::memfd_create, EMFILE};
        CHECK(l.all.hand_over() == none);
    }
    CHECK(l.all.current() == 1);
    std::size_t const a = l.all.hand_over();
    REQUIRE(a != none);
    l.all.ask();
    CHECK_FALSE(l.all.alone(a));
}

TEST_CASE("as many canaries are busy as there are slots, and then none retires", "[linux]") {
    line l;
    std::optional<child> children[fork_canaries::max_retired];
    for (auto& c : children) {
        c.emplace(birth::fork, nothing_to_do);
        REQUIRE(l.all.hand_over() != none);
    }
    CHECK(l.all.hand_over() == none);
    children[5]->kill();
    l.all.ask();
    CHECK(l.all.alone(5));
    CHECK(l.all.hand_over() == none); // somebody has yet to look after what waits for it
    l.all.forget(5);
    CHECK(l.all.hand_over() == 5);
}

TEST_CASE("what is made without a canary is not watched", "[linux]") {
    fork_marker marker;
    fork_canaries all{marker};
    CHECK(all.current() == fork_canaries::unwatched);
    CHECK(all.hand_over() == none);
    {
        failing const f{detail::os::call::memfd_create, EMFILE};
        all.begin();
        CHECK(all.current() == fork_canaries::unwatched);
    }
    all.begin();
    CHECK(all.current() == 1);
    CHECK(all.mappings() == 1);
}

TEST_CASE("a child that destroys its canaries is still seen by its parent", "[linux]") {
    std::optional<line> l{std::in_place};
    int done[2];
    REQUIRE(::pipe(done) == 0);
    ::fflush(nullptr);
    pid_t const pid = ::fork();
    if (pid == 0) {
        ::alarm(60);
        l.reset();
        static_cast<void>(::write(done[1], "x", 1) == 1);
        for (;;) {
            ::pause();
        }
    }
    char byte;
    REQUIRE(::read(done[0], &byte, 1) == 1);
    std::size_t const a = l->all.hand_over();
    l->all.ask();
    CHECK_FALSE(l->all.alone(a));
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    l->all.ask();
    CHECK(l->all.alone(a));
    ::close(done[0]);
    ::close(done[1]);
}
