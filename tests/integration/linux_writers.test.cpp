// SPDX-License-Identifier: BSL-1.0
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <thread>

#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "linux_support.hpp"

using namespace linux_test;

namespace {

/// Writes to random pages, and knows what it wrote.
class writer {
  public:
    writer(std::byte* memory, std::size_t page, std::size_t n, std::size_t offset,
           std::uint64_t seed)
        : memory_(memory), page_(page), offset_(offset), x_(seed), mine_(n, 0) {}

    void run(std::atomic<bool> const& stop) {
        while (!stop.load(std::memory_order_relaxed)) {
            x_ = x_ * 6364136223846793005U + 1442695040888963407U;
            std::size_t const i = (x_ >> 33) % mine_.size();
            wrong += *counter(i) != mine_[i];
            mine_[i] = (mine_[i] + 1) % 4;
            *counter(i) = mine_[i];
            if (++writes % 64 == 0) {
                ::usleep(1);
            }
        }
    }
    std::size_t lost() {
        std::size_t n = 0;
        for (std::size_t i = 0; i < mine_.size(); ++i) {
            n += *counter(i) != mine_[i];
        }
        return n;
    }

    std::uint64_t writes = 0;
    std::uint64_t wrong = 0;

  private:
    std::uint64_t volatile* counter(std::size_t i) {
        return reinterpret_cast<std::uint64_t volatile*>(memory_ + i * page_ + offset_);
    }
    std::byte* memory_;
    std::size_t page_;
    std::size_t offset_;
    std::uint64_t x_;
    std::vector<std::uint64_t> mine_;
};

void exit_42(int) { ::_exit(42); }

struct {
    unsigned nth;
    unsigned seen;
} silent_move;
detail::os::call refused_call;
/// As Linux 6.18 was seen to do.
int move_silently(detail::os::call c) noexcept {
    return c == detail::os::call::uffd_move && ++silent_move.seen == silent_move.nth ? -EEXIST : 0;
}

void write_byte(std::byte volatile* p) { *p = std::byte{1}; }

std::byte volatile* stored_by_signal = nullptr;
std::atomic<bool> signal_came{false};
void store_by_signal(int) {
    signal_came = true;
    write_byte(stored_by_signal);
}

} // namespace

namespace {

/// Page `i`, and of the next fifteen those whose counters are zero.
page_set zeros_near(linux_provider& p, memory const& m, std::size_t i) {
    page_set zeros{m.page(i), 1};
    for (std::size_t k = 1; k < 16 && i + k < m.size(); ++k) {
        auto const bytes = p.view(p.space(), m.page(i + k));
        std::uint64_t a, b;
        std::memcpy(&a, bytes.data() + 64, sizeof a);
        std::memcpy(&b, bytes.data() + 2048, sizeof b);
        zeros.mask |= std::uint64_t{a == 0 && b == 0} << k;
    }
    return zeros;
}

/// For so long, or longer on a slow machine.
void write_while_merging(linux_options const& options, std::chrono::seconds how_long,
                         bool broken_pages_stay = false) {
    linux_provider p{options};
    REQUIRE(p.capabilities().strategy == options.strategy);
    constexpr std::size_t n = 1024;
    memory m{p, n + 16};
    std::size_t const page = p.page_size();
    std::memset(m.at(0), 0, (n + 16) * page);
    // Both counters of a page take four values: sixteen contents, each a frame.
    for (std::size_t c = 0; c < 16; ++c) {
        std::uint64_t const a = c / 4;
        std::uint64_t const b = c % 4;
        std::memcpy(m.at(n + c) + 64, &a, sizeof a);
        std::memcpy(m.at(n + c) + 2048, &b, sizeof b);
    }
    promotion const f = p.promote(p.space(), m.page(n), pages(16));
    REQUIRE(f.made.done == pages(16));

    writer first{m.at(0), page, n, 64, 1};
    writer second{m.at(0), page, n, 2048, 2};
    std::atomic<bool> stop{false};
    std::thread one{[&] { first.run(stop); }};
    std::thread two{[&] { second.run(stop); }};
    std::uint64_t merged = 0, changed = 0, promoted = 0, unmerged = 0, zeroed = 0, other = 0;
    std::uint64_t x = 3;
    std::uint64_t const enough = broken_pages_stay ? 500 : 5000;
    auto const began = std::chrono::steady_clock::now();
    auto const elapsed = [&] { return std::chrono::steady_clock::now() - began; };
    while (elapsed() < how_long || (merged <= enough && elapsed() < 20 * how_long)) {
        x = x * 6364136223846793005U + 1442695040888963407U;
        std::size_t const i = (x >> 33) % n;
        std::uint64_t a, b;
        std::memcpy(&a, p.view(p.space(), m.page(i)).data() + 64, sizeof a);
        std::memcpy(&b, p.view(p.space(), m.page(i)).data() + 2048, sizeof b);
        std::uint64_t const choice = (x >> 20) % 64;
        if (choice == 0 && promoted < 4000) {
            promoted += p.promote(p.space(), m.page(i), pages(1)).made.done.value();
        } else if (choice < 8) {
            unmerged += p.unmerge(p.space(), m.page(i), pages(std::min<std::size_t>(8, n - i)))
                            .done.value();
        } else if (a == 0 && b == 0 && choice < 40) {
            zeroed += p.merge_zero(p.space(), zeros_near(p, m, i)).done.value();
        } else {
            progress const done =
                p.merge(p.space(), m.page(i), pages(1), f.first + pages((a * 4 + b) % 16));
            merged += done.done.value();
            changed += done.why == status::changed;
            other += done.why != status::changed && done.why != status::ok && !broken_pages_stay;
        }
    }
    stop = true;
    one.join();
    two.join();
    INFO("merged " << merged << ", changed " << changed << ", promoted " << promoted
                   << ", unmerged " << unmerged << ", zeroed " << zeroed << "; writes "
                   << first.writes + second.writes);
    CHECK(first.wrong + second.wrong == 0);
    CHECK(first.lost() + second.lost() == 0);
    CHECK(merged > enough);
    CHECK(zeroed > (broken_pages_stay ? 5U : 50U));
    CHECK(other <= merged / 1000); // the kernel itself may have hold of a page for a moment
    CHECK(first.writes > 10000);
}

} // namespace

TEST_CASE("no store is lost while two threads write to pages that mprotect guards", "[linux]") {
    write_while_merging(by_mprotect(), std::chrono::seconds{10});
}

TEST_CASE("no store is lost while two threads write to pages that are moved", "[linux]") {
    KSM_NEEDS_USERFAULTFD(by_move());
    linux_options o = by_move();
    o.no_pinned_io = true;
    write_while_merging(o, std::chrono::seconds{5});
}

TEST_CASE("no store is lost to moving when nothing is promised", "[linux]") {
    KSM_NEEDS_USERFAULTFD(by_move());
    write_while_merging(by_move(), std::chrono::seconds{5}, true);
}

TEST_CASE("no store is lost while two threads write to write-protected pages", "[linux]") {
    KSM_NEEDS_USERFAULTFD(by_wp());
    write_while_merging(by_wp(), std::chrono::seconds{5});
}

// Runs in a program of its own, in which no provider has been before.
TEST_CASE("fault in a child program", "[.fault]") {
    char const* const kind = std::getenv("KSM_TEST_FAULT");
    if (kind == nullptr) {
        return;
    }
    ::alarm(10);
    ::signal(SIGSEGV, kind[0] == 'h' ? exit_42 : SIG_DFL);
    linux_provider p{by_mprotect()};
    memory below{p, 1};
    void* const protected_page =
        ::mmap(nullptr, p.page_size(), PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memory above{p, 1};
    below.fill(0, 1);
    if (p.promote(p.space(), below.page(0), pages(1)).made.why != status::ok) {
        ::_exit(1);
    }
    if (kind[1] == 's') {
        ::kill(::getpid(), SIGSEGV);
    } else if (kind[1] == 'r') { // in a region that the application protected itself
        ::mprotect(above.at(0), p.page_size(), PROT_READ);
        write_byte(above.at(0));
    } else { // where a late fault of a window might be
        write_byte(static_cast<std::byte*>(protected_page));
    }
    ::_exit(2);
}

TEST_CASE("a fault that is none of ours does what it would have done without us", "[linux]") {
    auto const fault = [](char const* kind) {
        return in_child([=] {
            rlimit const no_core{0, 0};
            ::setrlimit(RLIMIT_CORE, &no_core);
            ::setenv("KSM_TEST_FAULT", kind, 1);
            ::execl("/proc/self/exe", "ksm", "fault in a child program", nullptr);
            return 3;
        });
    };
    CHECK(fault("ho") == 42);
    CHECK(fault("hr") == 42);
    CHECK(fault("hs") == 42);
    CHECK(fault("do") == 1000 + SIGSEGV);
    CHECK(fault("dr") == 1000 + SIGSEGV);
    CHECK(fault("ds") == 1000 + SIGSEGV);
}

TEST_CASE("a handler of the application over ours ends merging", "[linux]") {
    linux_provider p{by_mprotect()};
    memory m{p, 2};
    m.fill(0, 1);
    struct sigaction ours;
    struct sigaction theirs {};
    theirs.sa_handler = exit_42;
    ::sigaction(SIGSEGV, &theirs, &ours);
    CHECK(p.promote(p.space(), m.page(0), pages(1)).made.why == status::refused);
    CHECK(p.capabilities().strategy == write_exclusion::off);
    ::sigaction(SIGSEGV, &ours, nullptr);
    CHECK(p.promote(p.space(), m.page(0), pages(1)).made.why == status::ok);
    CHECK(m.holds(0, 1));
}

TEST_CASE("several providers have windows of their own", "[linux]") {
    std::vector<std::unique_ptr<linux_provider>> many;
    for (std::size_t i = 0; i < detail::os::segv_handler::max_windows; ++i) {
        many.push_back(std::make_unique<linux_provider>(by_mprotect()));
        CHECK(many.back()->capabilities().strategy == write_exclusion::mprotect);
    }
    linux_provider one_too_many{by_mprotect()};
    CHECK(one_too_many.capabilities().strategy == write_exclusion::off);
    CHECK(one_too_many.capabilities().refusal.error == EUSERS);
    many.pop_back();
    linux_provider in_its_place{by_mprotect()};
    memory m{in_its_place, 2};
    m.fill(0, 1);
    CHECK(in_its_place.promote(in_its_place.space(), m.page(0), pages(1)).made.why == status::ok);
}

namespace {

/// An open window on pages 2 and 3 of a region, for what happens inside of one.
struct open_window {
    linux_provider provider;
    memory region{provider, 8};
    detail::os::machinery machine;
    std::optional<detail::os::write_window> window;

    explicit open_window(linux_options const& options = by_mprotect())
        : provider(only_regions()), machine(options) {
        machine.writers.watch(region.at(0), 8 * provider.page_size());
        for (std::size_t i = 0; i < 8; ++i) {
            region.fill(i, i);
        }
        REQUIRE(machine.writers.enter() == status::ok);
        detail::os::place there{region.page(2), region.at(2), 2};
        there.anonymous = true;
        window.emplace(machine.writers, there, provider.page_size());
        REQUIRE(window->why() == status::ok);
    }
    static linux_options only_regions() {
        linux_options o;
        o.strategy = write_exclusion::off;
        return o;
    }
};

} // namespace

TEST_CASE("a write of the merging thread into its own window aborts it and is not lost",
          "[linux]") {
    open_window w;
    CHECK(w.window->sound());
    write_byte(w.region.at(2));
    CHECK_FALSE(w.window->sound());
    w.window->close();
    CHECK(w.region.at(2)[0] == std::byte{1});
    write_byte(w.region.at(3));
}

namespace {

/// A thread writes to an open window, and its store is there only after the window is closed.
bool a_writer_waits(linux_options const& options = by_mprotect()) {
    open_window w{options};
    std::atomic<bool> started{false};
    std::atomic<bool> written{false};
    std::thread writer{[&] {
        started = true;
        write_byte(w.region.at(3));
        written = true;
    }};
    while (!started) {
        ::sched_yield();
    }
    bool early = false;
    for (int i = 0; i < 1000; ++i) {
        ::sched_yield();
        early = early || written;
    }
    w.window->close();
    writer.join();
    return !early && w.region.at(3)[0] == std::byte{1};
}

} // namespace

TEST_CASE("a writer waits until the window is closed", "[linux]") {
    CHECK(a_writer_waits());
    KSM_NEEDS_USERFAULTFD(by_move());
    CHECK(a_writer_waits(by_move()));
    CHECK(a_writer_waits(by_wp()));
}

namespace {

/// A system call writes into an open window; what it returned, and whether it waited.
struct written_by_the_kernel {
    ssize_t result = -1;
    bool early = false;
};
written_by_the_kernel read_into_a_window(linux_options const& options) {
    open_window w{options};
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    std::byte const one{1};
    REQUIRE(::write(ends[1], &one, 1) == 1);
    written_by_the_kernel r;
    std::atomic<bool> started{false};
    std::atomic<bool> returned{false};
    std::thread reader{[&] {
        started = true;
        r.result = ::read(ends[0], w.region.at(3), 1);
        returned = true;
    }};
    while (!started) {
        ::sched_yield();
    }
    for (int i = 0; i < 1000; ++i) {
        ::sched_yield();
        r.early = r.early || returned;
    }
    w.window->close();
    reader.join();
    ::close(ends[0]);
    ::close(ends[1]);
    CHECK(w.region.at(3)[0] == (r.result == 1 ? one : w.region.at(3)[0]));
    return r;
}

} // namespace

TEST_CASE("a system call that writes waits, too, for pages that are moved or write-protected",
          "[linux]") {
    KSM_NEEDS_USERFAULTFD(by_move());
    for (linux_options const& o : {by_move(), by_wp()}) {
        written_by_the_kernel const r = read_into_a_window(o);
        CHECK(r.result == 1);
        CHECK_FALSE(r.early);
    }
}

namespace {

bool asleep(pid_t thread) {
    char name[64];
    std::snprintf(name, sizeof name, "/proc/self/task/%d/stat", thread);
    std::FILE* const f = std::fopen(name, "r");
    char state = 'R';
    if (f == nullptr || std::fscanf(f, "%*d (%*[^)]) %c", &state) != 1) {
        FAIL("no state of a thread");
    }
    std::fclose(f);
    return state == 'S' || state == 'D';
}

} // namespace

TEST_CASE("windows are counted, how long they were, and who waited for them", "[linux]") {
    linux_options o = GENERATE(by_move(), by_wp(), by_mprotect());
    if (o.strategy != write_exclusion::mprotect) {
        KSM_NEEDS_USERFAULTFD(o);
    }
    o.count_waits = true;
    open_window w{o};
    std::atomic<pid_t> id{0};
    std::thread writer{[&] {
        id = static_cast<pid_t>(::syscall(SYS_gettid));
        write_byte(w.region.at(2));
    }};
    while (id == 0 || !asleep(id)) {
        ::sched_yield();
    }
    w.window->close();
    writer.join();
    linux_windows const t = w.machine.writers.windows().totals();
    CHECK(t.opened == 1);
    CHECK(t.refused == 0);
    CHECK(t.waits == 1);
    CHECK(t.longest_ns > 0);
    CHECK(t.p99_ns == t.longest_ns);
    CHECK(t.total_ns == t.longest_ns);
}

TEST_CASE("when somebody had to wait for too long the next windows are smaller", "[linux]") {
    linux_options const options = GENERATE(by_move(), by_wp(), by_mprotect());
    KSM_NEEDS_USERFAULTFD(options);
    bool const somebody_waits = GENERATE(true, false);
    linux_provider p{options};
    constexpr std::size_t run = 128;
    memory m{p, 3 * run};
    for (std::size_t i = 0; i < m.size(); ++i) {
        m.fill(i, i % run);
    }
    frame_id const f = p.promote(p.space(), m.page(0), pages(run)).first;
    static std::atomic<pid_t> writer_id;
    static std::atomic<bool> waits, in_window;
    writer_id = 0;
    waits = somebody_waits;
    in_window = false;
    std::thread writer{[&] {
        writer_id = static_cast<pid_t>(::syscall(SYS_gettid));
        while (!in_window) { // not asleep
            ::sched_yield();
        }
        if (somebody_waits) {
            write_byte(m.at(run));
        }
    }};
    while (writer_id == 0) {
        ::sched_yield();
    }
    auto const windows_of_merge = [&](std::size_t i) {
        std::uint64_t const before = p.windows().opened;
        CHECK(p.merge(p.space(), m.page(i), pages(run), f).done == pages(run));
        return p.windows().opened - before;
    };
    detail::os::fault_hook.store([](detail::os::call c) noexcept {
        if (c == detail::os::call::mmap && !in_window.exchange(true)) {
            auto const began = std::chrono::steady_clock::now();
            while ((waits && !asleep(writer_id)) ||
                   std::chrono::steady_clock::now() - began < std::chrono::milliseconds{1}) {
                ::sched_yield();
            }
        }
        return 0;
    });
    CHECK(windows_of_merge(run) == 1);
    detail::os::fault_hook.store(nullptr);
    writer.join();
    CHECK(windows_of_merge(2 * run) == (somebody_waits ? 2 : 1));
}

TEST_CASE("fork goes on after moving was tried in vain", "[linux]") {
    detail::os::call const which =
        GENERATE(detail::os::call::uffd_move, detail::os::call::uffd_register);
    refused_call = which;
    CHECK(in_child([] {
              detail::os::fault_hook.store(
                  [](detail::os::call c) noexcept { return c == refused_call ? EINVAL : 0; });
              linux_provider const p{by_move()};
              detail::os::fault_hook.store(nullptr);
              if (p.capabilities().strategy == write_exclusion::move) {
                  return 1;
              }
              pid_t const child = ::fork();
              if (child == 0) {
                  ::_exit(0);
              }
              return ::waitpid(child, nullptr, 0) == child ? 0 : 2;
          }) == 0);
}

TEST_CASE("windows that the kernel refuses are counted by errno", "[linux]") {
    KSM_NEEDS_USERFAULTFD(by_move());
    linux_provider p{by_move()};
    memory m{p, 1};
    m.fill(0, 1);
    detail::os::fault_hook.store([](detail::os::call c) noexcept {
        return c == detail::os::call::uffd_register ? EBUSY : 0;
    });
    promotion const made = p.promote(p.space(), m.page(0), pages(1));
    detail::os::fault_hook.store(nullptr);
    CHECK(made.made.why == status::refused);
    CHECK(p.windows().opened == 0);
    CHECK(p.windows().refused == 1);
    CHECK(p.windows().errors[EBUSY] == 1);
}

TEST_CASE("where a kernel protects only one mapping by a call, windows over more are opened, too",
          "[linux]") {
    KSM_NEEDS_USERFAULTFD(by_wp());
    linux_provider p{by_wp()};
    memory m{p, 4};
    for (std::size_t i = 0; i < m.size(); ++i) {
        m.fill(i, 1);
    }
    frame_id const f = p.promote(p.space(), m.page(0), pages(1)).first;
    for (std::size_t i = 1; i < m.size(); ++i) { // each page is a mapping
        REQUIRE(p.merge(p.space(), m.page(i), pages(1), f).why == status::ok);
    }
    static std::atomic<int> calls;
    calls.store(0);
    detail::os::fault_hook.store([](detail::os::call c) noexcept { // as Linux before 6.4
        return c == detail::os::call::uffd_write_protect && calls.fetch_add(1) == 0 ? ENOENT : 0;
    });
    CHECK(p.unmerge(p.space(), m.page(0), pages(4)).done == pages(4));
    detail::os::fault_hook.store(nullptr);
    CHECK(calls.load() >= 5);
    CHECK(mappings_in(m.at(0), m.size() * p.page_size()) == 1);
    CHECK(m.holds(3, 1));
}

TEST_CASE("moved pages that are not replaced come back with their content", "[linux]") {
    KSM_NEEDS_USERFAULTFD(by_move());
    open_window w{by_move()};
    CHECK(w.window->vacated());
    CHECK(w.window->pages() == 2);
    w.window->close();
    CHECK(w.region.holds(2, 2));
    CHECK(w.region.holds(3, 3));
}

TEST_CASE("moved pages come back although the application closes all descriptors", "[linux]") {
    KSM_NEEDS_USERFAULTFD(by_move());
    bool const number_is_taken = GENERATE(false, true);
    static int answer; // of a file that has the number by now: 0 is what this one answers
    answer = number_is_taken ? GENERATE(0, EAGAIN, ENOMEM, EEXIST, ENOENT, EBUSY) : 0;
    linux_options o = by_move();
    o.count_waits = true;
    CHECK(in_child([&] {
              open_window w{o};
              for (int fd = 3; fd < 100; ++fd) {
                  ::close(fd);
              }
              detail::os::fault_hook.store([](detail::os::call c) noexcept {
                  return c >= detail::os::call::uffd_register ? answer : 0;
              });
              int ends[2]; // reading from a pipe waits
              if (::pipe(ends) != 0) {
                  return 2;
              }
              for (int fd = 5; number_is_taken && fd < 100; ++fd) {
                  ::dup2(ends[0], fd);
              }
              w.window->close();
              return w.region.holds(2, 2) && w.region.holds(3, 3) ? 0 : 1;
          }) == 0);
}

TEST_CASE("pages that are still there stay when the application closes all descriptors",
          "[linux]") {
    KSM_NEEDS_USERFAULTFD(by_move());
    static int before;
    before = GENERATE(1, 2); // the first call that moves pages, or the one that puts them back
    CHECK(in_child([] {
              linux_provider p{by_move()};
              memory m{p, 8};
              for (std::size_t i = 0; i < 8; ++i) {
                  m.fill(i, i);
              }
              promotion const made = p.promote(p.space(), m.page(0), pages(4));
              static int seen;
              seen = 0;
              detail::os::fault_hook.store([](detail::os::call c) noexcept {
                  if (c == detail::os::call::uffd_move && ++seen == before) {
                      for (int fd = 3; fd < 100; ++fd) {
                          ::close(fd);
                      }
                  }
                  return 0;
              });
              static_cast<void>(p.merge(p.space(), m.page(4), pages(4), made.first));
              detail::os::fault_hook.store(nullptr);
              for (std::size_t i = 0; i < 8; ++i) {
                  if (!m.holds(i, i)) {
                      return 1;
                  }
              }
              return seen >= before ? 0 : 2;
          }) == 0);
}

TEST_CASE("a page that the kernel moves and says that it did not is not lost", "[linux]") {
    KSM_NEEDS_USERFAULTFD(by_move());
    // The call in question: one of those that take the pages away, or that put them back.
    silent_move.nth = GENERATE(1U, 2U, 3U, 4U);
    std::size_t const n = GENERATE(std::size_t{1}, std::size_t{6});
    CAPTURE(silent_move.nth, n);
    CHECK(in_child([n] {
              linux_provider p{by_move()};
              memory m{p, 2 * n};
              for (std::size_t i = 0; i < n; ++i) {
                  m.fill(i, i);
                  m.fill(n + i, i);
              }
              m.fill(2 * n - 1, 99);
              promotion const first = p.promote(p.space(), m.page(0), pages(n));
              silent_move.seen = 0;
              detail::os::fault_hook.store(&move_silently);
              static_cast<void>(p.merge(p.space(), m.page(n), pages(n), first.first));
              detail::os::fault_hook.store(nullptr);
              for (std::size_t i = 0; i + 1 < n; ++i) {
                  if (!m.holds(n + i, i)) {
                      return 1;
                  }
              }
              if (!m.holds(2 * n - 1, 99)) {
                  return 2;
              }
              // What it left where pages are moved to would be in the way of the next ones.
              m.fill(2 * n - 1, n - 1);
              progress const again =
                  p.merge(p.space(), m.page(2 * n - 1), pages(1), first.first + pages(n - 1));
              return again.why == status::ok && m.holds(2 * n - 1, n - 1) ? 0 : 3;
          }) == 0);
}

TEST_CASE("of scattered pages that the kernel moves and denies none is lost", "[linux]") {
    KSM_NEEDS_USERFAULTFD(by_move());
    silent_move.nth = GENERATE(1U, 2U, 3U, 4U, 5U, 6U);
    CAPTURE(silent_move.nth);
    CHECK(in_child([] {
              linux_provider p{by_move()};
              memory m{p, 10};
              for (std::size_t i = 0; i < 10; ++i) {
                  m.fill(i, i);
              }
              for (std::size_t i : {1U, 3U, 4U, 6U, 7U, 9U}) {
                  std::memset(m.at(i), 0, p.page_size());
              }
              // The window ends before this one, which comes back with those behind it.
              m.at(6)[p.page_size() - 1] = std::byte{7};
              silent_move.seen = 0;
              detail::os::fault_hook.store(&move_silently);
              static_cast<void>(p.merge_zero(p.space(), {m.page(1), 0b1'0110'1101}));
              detail::os::fault_hook.store(nullptr);
              for (std::size_t i : {0U, 2U, 5U, 8U}) {
                  if (!m.holds(i, i)) {
                      return 1;
                  }
              }
              bool const kept = std::exchange(m.at(6)[p.page_size() - 1], {}) == std::byte{7};
              for (std::size_t i : {1U, 3U, 4U, 6U, 7U, 9U}) {
                  if (!kept || !m.zero(i)) {
                      return 2;
                  }
              }
              return 0;
          }) == 0);
}

TEST_CASE("a forked child that merges anew has windows of its own", "[linux]") {
    linux_provider of_the_parent{by_mprotect()};
    CHECK(in_child([] { return a_writer_waits() ? 0 : 1; }) == 0);
}

TEST_CASE("a child of a raw clone that merges anew has windows of its own", "[linux]") {
    linux_provider of_the_parent{by_mprotect()};
    auto const child = static_cast<pid_t>(::syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
    if (child == 0) {
        die_in(10);
        ::_exit(a_writer_waits() ? 0 : 1);
    }
    int state = -1;
    ::waitpid(child, &state, 0);
    CHECK(state == 0);
}

TEST_CASE("a signal that comes while its thread waits may store into the window, too", "[linux]") {
    CHECK(in_child([] {
              open_window w;
              stored_by_signal = w.region.at(2);
              struct sigaction action {};
              action.sa_handler = store_by_signal;
              ::sigaction(SIGUSR1, &action, nullptr);
              std::atomic<bool> started{false};
              std::thread writer{[&] {
                  sigset_t one;
                  ::sigemptyset(&one);
                  ::sigaddset(&one, SIGUSR1);
                  ::pthread_sigmask(SIG_UNBLOCK, &one, nullptr);
                  started = true;
                  write_byte(w.region.at(3));
              }};
              while (!started) {
                  ::sched_yield();
              }
              for (int i = 0; i < 1000; ++i) {
                  ::sched_yield();
              }
              ::pthread_kill(writer.native_handle(), SIGUSR1);
              while (!signal_came) {
                  ::sched_yield();
              }
              w.window->close();
              writer.join();
              return w.region.at(2)[0] == std::byte{1} && w.region.at(3)[0] == std::byte{1} ? 0 : 1;
          }) == 0);
}

TEST_CASE("a child forked while a thread opens windows can fork itself", "[linux]") {
    linux_provider p{by_mprotect()};
    memory m{p, 4};
    for (std::size_t i = 0; i < m.size(); ++i) {
        m.fill(i, 1);
    }
    std::atomic<bool> stop{false};
    std::thread merger{[&] {
        while (!stop) {
            static_cast<void>(p.promote(p.space(), m.page(0), pages(4)));
            static_cast<void>(p.unmerge(p.space(), m.page(0), pages(4)));
        }
    }};
    int good = 0;
    for (int i = 0; i < 100; ++i) {
        pid_t const child = ::fork();
        if (child == 0) {
            die_in(10);
            ::_exit(in_child([] { return 7; }) == 7 ? 0 : 1);
        }
        int state = -1;
        ::waitpid(child, &state, 0);
        good += state == 0 ? 1 : 0;
    }
    stop = true;
    merger.join();
    CHECK(good == 100);
}

TEST_CASE("a child cloned inside a window opens its own copy of it", "[linux]") {
    open_window w;
    auto const child = static_cast<pid_t>(::syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
    if (child == 0) {
        die_in(10);
        write_byte(w.region.at(2));
        write_byte(w.region.at(3));
        ::_exit(w.region.at(2)[0] == std::byte{1} ? 0 : 1);
    }
    int state = 0;
    ::waitpid(child, &state, 0);
    CHECK(state == 0);
    CHECK(w.region.holds(2, 2)); // the window of the parent was not touched
    CHECK(w.window->sound());
    w.window->close();
}

namespace {

std::atomic<bool> fork_begins;
std::atomic<bool> fork_is_done;

} // namespace

TEST_CASE("fork waits for a window, so a child has every page and can read into it", "[linux]") {
    bool const moved = GENERATE(false, true);
    if (moved) {
        KSM_NEEDS_USERFAULTFD(by_move());
    }
    open_window w{moved ? by_move() : by_mprotect()};
    // The latest handler runs first before a fork, and last after it.
    static int const handlers =
        ::pthread_atfork([] { fork_begins = true; }, [] { fork_is_done = true; }, nullptr);
    REQUIRE(handlers == 0);
    fork_begins = false;
    fork_is_done = false;
    int state = -1;
    std::thread forker{[&] {
        pid_t const child = ::fork();
        if (child == 0) {
            int fd[2];
            bool const good = w.region.holds(2, 2) && ::pipe(fd) == 0 &&
                              ::write(fd[1], "x", 1) == 1 && ::read(fd[0], w.region.at(2), 1) == 1;
            ::_exit(good ? 0 : 1);
        }
        ::waitpid(child, &state, 0);
    }};
    while (!fork_begins) {
        ::sched_yield();
    }
    // A fork that does not wait has this long to be caught.
    for (int i = 0; i < 100 && !fork_is_done; ++i) {
        ::usleep(1000);
    }
    CHECK_FALSE(fork_is_done);
    w.window->close();
    forker.join();
    CHECK(state == 0);
}

TEST_CASE("a window that the kernel refuses for want of mappings ends", "[linux]") {
    KSM_NEEDS_USERFAULTFD(by_move());
    CHECK(in_child([] {
              linux_provider p{by_move()};
              memory m{p, 8};
              m.fill(0, 1);
              m.fill(3, 1);
              promotion const made = p.promote(p.space(), m.page(0), pages(1));
              detail::os::fault_hook.store([](detail::os::call c) noexcept {
                  return c == detail::os::call::uffd_register ||
                                 c == detail::os::call::uffd_unregister
                             ? ENOMEM
                             : 0;
              });
              status const why = p.merge(p.space(), m.page(3), pages(1), made.first).why;
              detail::os::fault_hook.store(nullptr);
              if (why != status::out_of_mappings || !m.holds(3, 1)) {
                  return 1;
              }
              return ::fork() == 0 ? (::_exit(0), 0) : 0; // it does not hang
          }) == 0);
}

TEST_CASE("where system calls cannot wait for a moved page, they are to be promised away",
          "[linux]") {
    KSM_NEEDS_USERFAULTFD(by_move());
    constexpr int not_to_be_had = 50;
    int const verdict = in_child([] {
        // Without being dumpable it could not read its own page map.
        if (::setresuid(65534, 65534, 65534) != 0 || ::prctl(PR_SET_DUMPABLE, 1) != 0) {
            return not_to_be_had;
        }
        linux_options o;
        o.allow.quiescent = false;
        linux_provider const first{o};
        if (!first.capabilities().user_mode_only) {
            return not_to_be_had; // any user may have all, or none at all
        }
        o.no_syscall_io = true;
        bool const refused = linux_provider{o}.capabilities().strategy == write_exclusion::off;
        o.no_syscall_reads = true;
        bool const moves = linux_provider{o}.capabilities().strategy == write_exclusion::move;
        o.no_syscall_reads = false;
        o.no_pinned_io = true;
        bool const protects = linux_provider{o}.capabilities().strategy == write_exclusion::wp;
        return refused && moves && protects ? 0 : 1;
    });
    if (verdict == not_to_be_had) {
        KSM_SKIP("needs to change the user to one that gets userfaultfd for user mode only");
    }
    CHECK(verdict == 0);
}
