// SPDX-License-Identifier: BSL-1.0
#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include <dirent.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <ksm/scanner.hpp>

#include "linux_children.hpp"

using namespace linux_test;

namespace {

/// Surveys from end to end.
void walk(linux_provider& p) {
    page_run out[64];
    page_number from;
    for (bool end = false; !end;) {
        survey_result const r = p.survey(p.space(), from, coverage::every_page, out);
        from = r.next;
        end = r.end;
    }
}

/// Memory of all files that are named like ours.
std::size_t bytes_of_memory_files() {
    std::size_t bytes = 0;
    DIR* const d = ::opendir("/proc/self/fd");
    REQUIRE(d != nullptr);
    while (dirent const* const e = ::readdir(d)) {
        char target[64] = {};
        struct stat s;
        if (::readlinkat(::dirfd(d), e->d_name, target, sizeof target - 1) > 0 &&
            std::string{target}.rfind("/memfd:ksm frames", 0) == 0 &&
            ::fstatat(::dirfd(d), e->d_name, &s, 0) == 0) {
            bytes += static_cast<std::size_t>(s.st_blocks) * 512;
        }
    }
    ::closedir(d);
    return bytes;
}

/// Pages in every state, on 32 frames, in memory that outlives its provider.
class every_state {
  public:
    static constexpr std::size_t size = 56;
    static constexpr std::size_t frames = 32;

    explicit every_state(linux_provider& p) : page_(p.page_size()) {
        void* const m =
            ::mmap(nullptr, bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        REQUIRE(m != MAP_FAILED);
        at_ = static_cast<std::byte*>(m);
        range_ = p.adopt(at_, bytes());
        for (std::size_t i = 0; i < size; ++i) {
            std::memset(at(i), static_cast<int>(10 + i), page_);
        }
        // From 0 on: home. From 8 and 16: merged with each other.
        for (std::size_t i = 8; i < 16; ++i) {
            std::memset(at(i + 8), static_cast<int>(10 + i), page_);
        }
        first_[0] = promote(p, 8, 8);
        REQUIRE(p.merge(p.space(), page(16), pages(8), first_[0]).done == pages(8));
        // From 24 and 32: broken, as the survey has seen and as it has not.
        first_[1] = promote(p, 24, 16);
        // From 40: zero. From 48: merged once, displaced.
        std::memset(at(40), 0, 8 * page_);
        REQUIRE(p.merge_zero(p.space(), page_set::run(page(40), pages(8))).done == pages(8));
        first_[2] = promote(p, 48, 8);
        REQUIRE(p.unmerge(p.space(), page(48), pages(8)).done == pages(8));
        scribble(24);
        walk(p);
        scribble(32);
        snapshot_.assign(at_, at_ + bytes());
    }
    ~every_state() { ::munmap(at_, bytes()); }
    every_state(every_state const&) = delete;
    every_state& operator=(every_state const&) = delete;

    std::byte* at(std::size_t i) const { return at_ + i * page_; }
    page_number page(std::size_t i) const { return range_.first + pages(i); }
    std::size_t bytes() const { return size * page_; }
    /// The first page that is not as it was when all was set up, or `size`.
    int first_wrong() const {
        for (std::size_t i = 0; i < size; ++i) {
            if (std::memcmp(at(i), snapshot_.data() + i * page_, page_) != 0) {
                return static_cast<int>(i);
            }
        }
        return size;
    }
    void overwrite(int value) { std::memset(at_, value, bytes()); }
    void release(linux_provider& p) const {
        p.release(first_[0], pages(8));
        p.release(first_[1], pages(16));
        p.release(first_[2], pages(8));
    }

  private:
    frame_id promote(linux_provider& p, std::size_t i, std::size_t n) {
        promotion const made = p.promote(p.space(), page(i), pages(n));
        REQUIRE(made.made.done == pages(n));
        return made.first;
    }
    void scribble(std::size_t from) {
        for (std::size_t i = from; i < from + 8; ++i) {
            at(i)[i] = std::byte{1};
        }
    }

    std::size_t page_;
    std::byte* at_;
    page_range range_;
    frame_id first_[3];
    std::vector<std::byte> snapshot_;
};

/// What the parent does while the child waits.
enum class action { write, unmerge, reuse, write_and_end };

/// Promotes pages of new content.
frame_id promote_new(linux_provider& p, memory& m, std::uint64_t seed) {
    for (std::size_t i = 0; i < m.size(); ++i) {
        m.fill(i, seed + i);
    }
    promotion const made = p.promote(p.space(), m.page(0), m.range.count);
    REQUIRE(made.made.done == m.range.count);
    return made.first;
}

/// Makes the frames of a region dead.
void bury(linux_provider& p, memory& m, frame_id first) {
    std::memset(m.at(0), 0xee, m.size() * p.page_size());
    walk(p);
    p.release(first, m.range.count);
}

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

TEST_CASE("a child keeps the content of every page whatever its parent does", "[linux]") {
    linux_options const options = GENERATE(quiescent(), by_mprotect(), by_move(), by_wp());
    KSM_NEEDS_USERFAULTFD(options);
    birth const b = GENERATE(birth::fork, birth::raw_clone, birth::fork_without_handlers);
    action const a = GENERATE(action::write, action::unmerge, action::reuse, action::write_and_end);
    auto p = std::make_unique<linux_provider>(options);
    every_state m{*p};
    CAPTURE(b, a);
    child c{b, [&m] { return m.first_wrong(); }};
    if (a == action::write_and_end) {
        m.release(*p);
        walk(*p);
        p.reset();
        m.overwrite(3);
        CHECK(c.ask() == every_state::size);
        return;
    }
    if (a == action::write) {
        m.overwrite(3);
    } else {
        REQUIRE(p->unmerge(p->space(), m.page(0), pages(every_state::size)).why == status::ok);
    }
    walk(*p);
    m.release(*p);
    CHECK(p->usage().frames_dead == every_state::frames);
    walk(*p);
    if (a == action::reuse) {
        memory other{*p, 4 * every_state::frames};
        bury(*p, other, promote_new(*p, other, 1000));
        walk(*p);
    }
    CHECK(p->usage().frames_dead == every_state::frames); // later ones are not the child's
    CHECK(c.ask() == every_state::size);
    walk(*p);
    CHECK(p->usage().frames_dead == 0);
    CHECK(p->usage().frames_punched >= every_state::frames);
    CHECK(bytes_of_memory_files() == 0);
}

TEST_CASE("a child that is born at any moment of merging and reclaiming sees whole pages",
          "[linux]") {
    linux_options const options = GENERATE(quiescent(), by_mprotect(), by_wp());
    KSM_NEEDS_USERFAULTFD(options);
    linux_provider p{options};
    memory m{p, 64};
    for (std::size_t i = 0; i < 64; ++i) {
        m.fill(i, i % 32);
    }
    void* const shared =
        ::mmap(nullptr, p.page_size(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(shared != MAP_FAILED);
    auto& rounds = *::new (shared) std::atomic<unsigned>{0};
    std::atomic<bool> over{false};
    int wrong = 0;
    std::thread mother{[&] {
        for (int i = 0; i < 60; ++i) {
            pid_t const pid =
                give_birth(threads_may_clone && i % 2 != 0 ? birth::raw_clone : birth::fork);
            if (pid == 0) {
                ::alarm(60);
                unsigned const now = rounds.load();
                while (rounds.load() - now < 3) { // until its parent has reclaimed and reused
                    ::sched_yield();
                }
                for (std::size_t k = 0; k < 64; ++k) {
                    if (!m.holds(k, k % 32)) {
                        ::_exit(1);
                    }
                }
                ::_exit(0);
            }
            int state = -1;
            ::waitpid(pid, &state, 0);
            wrong += state != 0;
        }
        over.store(true);
    }};
    bool complete = true;
    while (!over.load()) {
        promotion const f = p.promote(p.space(), m.page(0), pages(32));
        complete = complete && f.made.done == pages(32) &&
                   p.merge(p.space(), m.page(32), pages(32), f.first).done == pages(32) &&
                   p.unmerge(p.space(), m.page(0), pages(64)).done == pages(64);
        p.release(f.first, pages(32));
        walk(p);
        rounds.fetch_add(1);
    }
    mother.join();
    CHECK(complete);
    CHECK(wrong == 0);
    CHECK(p.usage().frames_punched != 0);
    ::munmap(shared, p.page_size());
}

TEST_CASE("a child that runs another program holds nothing back", "[linux]") {
    birth const b = GENERATE(birth::vfork_exec, birth::posix_spawn);
    linux_provider p{quiescent()};
    every_state m{p};
    child c{b, nothing_to_do};
    CHECK(m.first_wrong() == every_state::size);
    m.overwrite(3);
    walk(p);
    m.release(p);
    walk(p);
    CAPTURE(b);
    CHECK(p.usage().frames_punched == every_state::frames);
    CHECK(p.usage().frames_dead == 0);
    CHECK(c.wait() == 0);
}

TEST_CASE("a child holds back the frames that it may read, and no later ones", "[linux]") {
    linux_provider p{quiescent()};
    memory early{p, 8};
    memory late{p, 16};
    frame_id const of_early = promote_new(p, early, 1);
    child c{birth::fork, [&early] { return early.holds(3, 4) ? 0 : 1; }};
    bury(p, early, of_early);
    walk(p); // the canary that has seen the child retires
    CHECK(p.usage().frames_dead == 8);
    bury(p, late, promote_new(p, late, 100));
    walk(p);
    CHECK(p.usage().frames_dead == 8);
    CHECK(p.usage().frames_punched == 16);
    CHECK(c.ask() == 0);
    walk(p);
    CHECK(p.usage().frames_dead == 0);
}

TEST_CASE("a child that was born after the frame and before it was dead holds it back", "[linux]") {
    // The canary of the frame's birth has retired, and is alone, before the child is born.
    linux_provider p{quiescent()};
    memory m{p, 8};
    memory other{p, 8};
    frame_id const f = promote_new(p, m, 1);
    bury(p, other, promote_new(p, other, 50));
    walk(p);
    REQUIRE(p.usage().frames_punched == 8);
    child c{birth::raw_clone, [&m] { return m.holds(7, 8) ? 0 : 1; }};
    bury(p, m, f);
    walk(p);
    CHECK(p.usage().frames_dead == 8);
    CHECK(c.ask() == 0);
    walk(p);
    CHECK(p.usage().frames_dead == 0);
    CHECK(p.usage().frames_punched == 16);
}

TEST_CASE("a child holds back a frame that dies long after the canary of its birth has retired",
          "[linux]") {
    linux_provider p{quiescent()};
    memory m{p, 8};
    memory other{p, 8};
    frame_id const f = promote_new(p, m, 1);
    frame_id const g = promote_new(p, other, 50);
    child c{birth::fork, [&m] { return m.holds(7, 8) ? 0 : 1; }};
    bury(p, other, g);
    walk(p); // retires the canary that has seen the child
    bury(p, m, f);
    walk(p); // retires one that has seen nobody
    CHECK(p.usage().frames_dead == 16);
    CHECK(c.ask() == 0);
    walk(p);
    CHECK(p.usage().frames_dead == 0);
}

TEST_CASE("when many children live, frames wait, and go when the children go", "[linux]") {
    linux_provider p{quiescent()};
    memory m{p, 4};
    constexpr std::size_t n = detail::os::fork_canaries::max_retired + 8;
    std::optional<child> children[n];
    for (std::size_t i = 0; i < n; ++i) {
        frame_id const f = promote_new(p, m, 10 * i);
        children[i].emplace(birth::fork, [&m, i] { return m.holds(2, 10 * i + 2) ? 0 : 1; });
        bury(p, m, f);
        walk(p);
    }
    CHECK(p.usage().frames_dead == 4 * n);
    CHECK(p.usage().frames_punched == 0);
    for (std::size_t i = n; i-- > 1;) {
        CHECK(children[i]->ask() == 0);
    }
    walk(p); // those that had no canary of their own share one that retires now
    walk(p);
    CHECK(p.usage().frames_dead == 4); // of the child that is left
    CHECK(children[0]->ask() == 0);
    walk(p);
    CHECK(p.usage().frames_dead == 0);
}

TEST_CASE("nothing is given back in a forked child", "[linux]") {
    auto p = std::make_unique<linux_provider>(quiescent());
    every_state m{*p};
    birth const b = GENERATE(birth::fork, birth::raw_clone);
    child c{b, [&] {
                m.overwrite(3);
                walk(*p);
                m.release(*p);
                walk(*p);
                bool const none = p->usage().frames_punched == 0;
                p.reset();
                return none ? 0 : 1;
            }};
    CAPTURE(b);
    CHECK(c.ask() == 0);
    CHECK(m.first_wrong() == every_state::size);
}

TEST_CASE("a child that destroys its provider keeps what it inherited", "[linux]") {
    auto p = std::make_unique<linux_provider>(quiescent());
    every_state m{*p};
    int line[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, line) == 0);
    char byte = 0;
    child c{birth::fork, [&] {
                p.reset();
                bool const told = ::write(line[1], "x", 1) == 1 && ::read(line[1], &byte, 1) == 1;
                return told ? m.first_wrong() : 100;
            }};
    c.go();
    REQUIRE(::read(line[0], &byte, 1) == 1);
    m.overwrite(3);
    walk(*p);
    m.release(*p);
    walk(*p);
    CHECK(p->usage().frames_dead == every_state::frames);
    REQUIRE(::write(line[0], "x", 1) == 1);
    CHECK(c.wait() == every_state::size);
    ::close(line[0]);
    ::close(line[1]);
}

TEST_CASE("a forked child merges anew, forks, and gives its own frames back", "[linux]") {
    linux_options const options = GENERATE(quiescent(), by_mprotect(), by_move(), by_wp());
    KSM_NEEDS_USERFAULTFD(options);
    birth const b = GENERATE(birth::fork, birth::raw_clone);
    linux_provider of_the_parent{options};
    every_state inherited{of_the_parent};
    child c{b, [&] {
                int wrong = 0;
                linux_provider p{options};
                {
                    memory m{p, 32};
                    for (std::size_t i = 0; i < 32; ++i) {
                        m.fill(i, i % 16);
                    }
                    promotion const f = p.promote(p.space(), m.page(0), pages(16));
                    wrong |= f.made.done != pages(16);
                    wrong |= p.merge(p.space(), m.page(16), pages(16), f.first).done != pages(16);
                    pid_t const grandchild = ::fork();
                    if (grandchild == 0) {
                        ::pause();
                    }
                    std::memset(m.at(0), 1, 32 * p.page_size());
                    walk(p);
                    p.release(f.first, pages(16));
                    walk(p);
                    wrong |= p.usage().frames_punched != 0;
                    ::kill(grandchild, SIGKILL);
                    ::waitpid(grandchild, nullptr, 0);
                    walk(p);
                    wrong |= p.usage().frames_punched != 16;
                }
                return wrong != 0 ? 100 : inherited.first_wrong();
            }};
    inherited.overwrite(3);
    walk(of_the_parent);
    inherited.release(of_the_parent);
    walk(of_the_parent);
    CHECK(c.ask() == every_state::size);
}

TEST_CASE("a page that still maps a released frame keeps it", "[linux]") {
    linux_provider p{quiescent()};
    memory m{p, 8};
    m.fill(0, 1);
    m.fill(4, 1);
    promotion const f = p.promote(p.space(), m.page(0), pages(1));
    REQUIRE(p.merge(p.space(), m.page(4), pages(1), f.first).why == status::ok);
    m.fill(0, 2);
    walk(p);
    p.release(f.first, pages(1));
    walk(p);
    walk(p);
    CHECK(p.usage().frames_live == 1);
    CHECK(m.holds(4, 1));
    m.fill(4, 3);
    walk(p);
    CHECK(p.usage().frames_live == 0);
    CHECK(p.usage().frames_punched == 1);
    CHECK(p.usage().frame_bytes == 0);
    CHECK(m.holds(0, 2));
    CHECK(m.holds(4, 3));
}

TEST_CASE("the places of frames are used again, and runs stay in one piece", "[linux]") {
    linux_options o = quiescent();
    o.arena_pages = 64;
    linux_provider p{o};
    memory m{p, 64};
    memory other{p, 16};
    CHECK(promote_new(p, m, 1) == frame_id{0});
    std::size_t const mappings = p.usage().mappings_used;
    for (std::size_t i = 8; i < 40; ++i) {
        m.fill(i, 500 + i);
    }
    walk(p);
    p.release(frame_id{8}, pages(32));
    walk(p);
    CHECK(p.usage().frames_punched == 32);
    CHECK(promote_new(p, other, 700) == frame_id{8});
    CHECK(p.usage().frames_punched == 16);
    CHECK(p.usage().frames_live == 48);
    CHECK(p.usage().mappings_used <= mappings + 3); // no arena more: a run, and the run around it
    for (std::size_t i = 0; i < 64; ++i) {
        CHECK(m.holds(i, i >= 8 && i < 40 ? 500 + i : 1 + i));
    }
    for (std::size_t i = 0; i < 16; ++i) {
        CHECK(other.holds(i, 700 + i));
    }
}

TEST_CASE("a store with holes grows only when a quarter of it is not free", "[linux]") {
    linux_options o = quiescent();
    o.arena_pages = 64;
    linux_provider p{o};
    memory m{p, 64};
    memory other{p, 8};
    REQUIRE(promote_new(p, m, 1) == frame_id{0});
    for (std::size_t i = 0; i < 64; i += 2) { // every other one
        m.fill(i, 900);
        walk(p);
        p.release(frame_id{i}, pages(1));
    }
    walk(p);
    REQUIRE(p.usage().frames_punched == 32);
    for (std::size_t i = 0; i < 8; ++i) {
        other.fill(i, i);
    }
    for (std::size_t i = 0; i < 8; ++i) {
        promotion const made = p.promote(p.space(), other.page(i), pages(8 - i));
        REQUIRE(made.made.done == pages(1));
        CHECK(made.first < frame_id{64});
    }
}

TEST_CASE("what the kernel still references of a dead frame does not change", "[linux]") {
    linux_options o = quiescent();
    o.arena_pages = 64;
    linux_provider p{o};
    memory m{p, 64};
    frame_id const f = promote_new(p, m, 1);
    std::vector<std::byte> const before(m.at(5), m.at(6));
    int pipe[2];
    REQUIRE(::pipe(pipe) == 0);
    iovec page{m.at(5), p.page_size()};
    REQUIRE(::vmsplice(pipe[1], &page, 1, 0) == static_cast<ssize_t>(p.page_size()));
    bury(p, m, f);
    walk(p);
    REQUIRE(p.usage().frames_punched == 64);
    memory other{p, 64};
    REQUIRE(promote_new(p, other, 900) == f);
    std::vector<std::byte> after(p.page_size());
    REQUIRE(::read(pipe[0], after.data(), after.size()) == static_cast<ssize_t>(after.size()));
    CHECK(after == before);
    ::close(pipe[0]);
    ::close(pipe[1]);
}

TEST_CASE("a page that gave its copy back is not taken for one of the frame there now", "[linux]") {
    linux_options o = quiescent();
    o.arena_pages = 64;
    linux_provider p{o};
    memory m{p, 64};
    memory other{p, 64};
    bury(p, m, promote_new(p, m, 1));
    walk(p);
    REQUIRE(promote_new(p, other, 900) == frame_id{0});
    ::madvise(m.at(3), p.page_size(), MADV_DONTNEED); // against the contract
    page_run const seen = look(p, m.page(3));
    CHECK(seen.state == page_state::unknown);
    walk(p);
    m.fill(3, 3);
    CHECK(other.holds(3, 903));
    bury(p, other, frame_id{0});
    walk(p);
    CHECK(p.usage().frames_live == 0);
    CHECK(m.holds(3, 3));
}

TEST_CASE("behind a region that was released no other frame appears", "[linux]") {
    bool works = true;
    linux_options o;
    o.strategy = write_exclusion::quiescent;
    o.arena_pages = 64;
    o.freeze_context = &works;
    o.freeze = [](void* x) noexcept { return *static_cast<bool*>(x); };
    o.thaw = [](void*) noexcept {};
    linux_provider p{o};
    memory other{p, 64};
    page_range const range = p.map(pages(4));
    std::byte* const at = p.address(range.first);
    std::memset(at, 7, 4 * p.page_size());
    promotion const made = p.promote(p.space(), range.first, pages(4));
    REQUIRE(made.made.done == pages(4));
    bool const punched_before = GENERATE(false, true);
    if (punched_before) {
        std::memset(at, 8, 4 * p.page_size());
        walk(p);
        p.release(made.first, pages(4));
        walk(p);
        REQUIRE(p.usage().frames_punched == 4);
    }
    works = false; // so the pages stay mappings of the frames
    p.release(range);
    works = true;
    if (!punched_before) {
        p.release(made.first, pages(4));
        walk(p);
    }
    CHECK(p.usage().frames_punched == 4);
    for (int round = 0; round < 3; ++round) {
        for (std::size_t i = 0; i < 60; ++i) {
            other.fill(i, 100 + i);
        }
        promotion const f = p.promote(p.space(), other.page(0), pages(60));
        REQUIRE(f.made.done == pages(60));
        CHECK(f.first != made.first);
        REQUIRE(::madvise(at, 4 * p.page_size(), MADV_DONTNEED) == 0);
        CHECK(std::count(at, at + 4 * p.page_size(), std::byte{0}) ==
              static_cast<std::ptrdiff_t>(4 * p.page_size()));
        std::memset(other.at(0), 0xee, 60 * p.page_size());
        walk(p);
        p.release(f.first, pages(60));
        walk(p);
    }
    ::munmap(at, 4 * p.page_size());
}

TEST_CASE("a merged page that the application has moved away keeps its frame", "[linux]") {
    linux_provider p{quiescent()};
    memory m{p, 8};
    frame_id const f = promote_new(p, m, 1);
    void* const elsewhere =
        ::mmap(nullptr, p.page_size(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(::mremap(m.at(3), p.page_size(), p.page_size(), MREMAP_MAYMOVE | MREMAP_FIXED,
                     elsewhere) == elsewhere); // against the contract
    std::vector<std::byte> const before(static_cast<std::byte*>(elsewhere),
                                        static_cast<std::byte*>(elsewhere) + p.page_size());
    static_cast<void>(p.try_release(m.range));
    p.release(f, pages(8));
    walk(p);
    walk(p);
    CHECK(std::memcmp(elsewhere, before.data(), before.size()) == 0);
    CHECK(p.usage().frames_live == 1);
    ::munmap(elsewhere, p.page_size());
}

TEST_CASE("a promotion that fails keeps no memory", "[linux]") {
    linux_provider p{quiescent()};
    memory m{p, 64};
    frame_id const f = promote_new(p, m, 1);
    CHECK(bytes_of_memory_files() == 64 * p.page_size());
    {
        failing const mapping{detail::os::call::mmap, ENOMEM};
        progress const done = p.promote(p.space(), m.page(0), pages(64)).made;
        CHECK(done.why == status::out_of_mappings);
        CHECK(done.done == pages(0));
    }
    CHECK(m.holds(40, 41));
    CHECK(look(p, m.page(40)).frame == f + pages(40));
    CHECK(bytes_of_memory_files() == 64 * p.page_size());
}

TEST_CASE("frames that cannot be punched wait, or stay", "[linux]") {
    linux_provider p{quiescent()};
    memory m{p, 16};
    bury(p, m, promote_new(p, m, 1));
    SECTION("a passing trouble") {
        int const error = GENERATE(EINTR, ENOMEM, ENOSPC);
        {
            failing const f{detail::os::call::fallocate, error};
            walk(p);
            CHECK(p.usage().frames_dead == 16);
        }
        walk(p);
        CHECK(p.usage().frames_dead == 0);
    }
    SECTION("a lasting one") {
        int const error = GENERATE(EPERM, EOPNOTSUPP, EBADF, EINVAL);
        {
            failing const f{detail::os::call::fallocate, error};
            walk(p);
        }
        walk(p);
        CHECK(p.usage().frames_dead == 16);
        memory other{p, 16};
        CHECK(promote_new(p, other, 50) == frame_id{16}); // never over a frame that is there
    }
    SECTION("no successor of the canary") {
        {
            failing const f{detail::os::call::memfd_create, EMFILE};
            walk(p);
            CHECK(p.usage().frames_dead == 16);
        }
        walk(p);
        CHECK(p.usage().frames_dead == 0);
    }
}

TEST_CASE("frames made without a canary are kept", "[linux]") {
    linux_provider p{quiescent()};
    memory m{p, 16};
    memory later{p, 16};
    static bool canary;
    canary = true;
    detail::os::fault_hook = [](detail::os::call c) noexcept {
        // The first file is the canary's.
        return c == detail::os::call::memfd_create && std::exchange(canary, false) ? EMFILE : 0;
    };
    frame_id const f = promote_new(p, m, 1);
    detail::os::fault_hook = nullptr;
    CHECK_FALSE(canary);
    bury(p, m, f);
    bury(p, later, promote_new(p, later, 50));
    walk(p);
    CHECK(p.usage().frames_dead == 16);
    CHECK(p.usage().frames_punched == 16);
}

TEST_CASE("memory that is merged and written again and again costs what is merged now", "[linux]") {
    linux_options options = GENERATE(quiescent(), by_mprotect(), by_move(), by_wp());
    KSM_NEEDS_USERFAULTFD(options);
    options.no_pinned_io = true; // else copies of merged pages are not merged again
    linux_provider p{options};
    memory m{p, 256};
    scanner engine{p};
    REQUIRE(engine.enter(p.space()) == status::ok);
    std::size_t most = 0;
    std::memset(m.at(0), 0xee, m.size() * p.page_size());
    for (std::size_t round = 0; round < 100; ++round) {
        for (std::size_t i = 0; i < m.size(); ++i) {
            std::size_t const content = round * 1000 + i % 128;
            std::memcpy(m.at(i), &content, sizeof content);
        }
        for (int pass = 0; pass < 3; ++pass) {
            REQUIRE(engine.scan_pass().why == status::ok);
        }
        if (!p.capabilities().tracks_changes) { // they rest from having been written so often
            page_range const all{m.page(0), pages(m.size())};
            REQUIRE(engine.merge_now(p.space(), all).why == status::ok);
        }
        linux_usage const u = p.usage();
        REQUIRE(u.frames_live >= 125);
        most = std::max(most, u.frame_bytes);
        CHECK(u.frame_bytes * 10 <= u.frames_live * p.page_size() * 11);
        CHECK(bytes_of_memory_files() * 10 <= u.frames_live * p.page_size() * 11);
        CHECK(u.frames_punched <= 2 * u.frames_live);
    }
    CHECK(most <= 140 * p.page_size());
    REQUIRE(engine.unmerge_all() == status::ok);
    walk(p);
    CHECK(p.usage().frame_bytes == 0);
    CHECK(bytes_of_memory_files() == 0);
}

TEST_CASE("a child that is there all the time does not make the frames pile up", "[linux]") {
    linux_provider p{quiescent()};
    memory m{p, 256};
    scanner engine{p};
    REQUIRE(engine.enter(p.space()) == status::ok);
    std::optional<child> c;
    for (std::size_t round = 0; round < 20; ++round) {
        for (std::size_t i = 0; i < m.size(); ++i) {
            m.fill(i, round * 1000 + i % 128);
        }
        for (int pass = 0; pass < 3; ++pass) {
            REQUIRE(engine.scan_pass().why == status::ok);
        }
        if (round == 4) {
            c.emplace(birth::fork, [&m] { return m.holds(200, 4072) ? 0 : 1; });
        }
    }
    CHECK(p.usage().frames_dead == 128); // those of its birth
    CHECK(c->ask() == 0);
    walk(p);
    CHECK(p.usage().frames_dead == 0);
}

TEST_CASE("a child that releases a region leaves its parent's registrations alone", "[linux]") {
    linux_provider p{by_move()};
    KSM_NEEDS_USERFAULTFD(by_move());
    KSM_NEEDS_TRACKING(p);
    memory m{p, 64};
    for (std::size_t i = 0; i < 64; ++i) {
        m.fill(i, i);
    }
    std::array<page_run, 8> runs;
    static_cast<void>(p.survey(p.space(), page_number{0}, coverage::every_page, runs));
    CHECK(in_child([&] { return p.try_release(m.range) ? 1 : 0; }) == 0);
    static_cast<void>(p.survey(p.space(), page_number{0}, coverage::changes, runs));
    m.at(7)[0] = std::byte{1};
    survey_result const r = p.survey(p.space(), page_number{0}, coverage::changes, runs);
    REQUIRE(r.given == coverage::changes);
    REQUIRE(r.runs == 1);
    CHECK(runs[0].first == m.page(7));
    CHECK(runs[0].pages == pages(1));
}
