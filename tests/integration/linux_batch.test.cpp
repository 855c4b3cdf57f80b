// SPDX-License-Identifier: BSL-1.0
// Short runs that merge many at a time, while nobody reads them.
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

#include <ksm/scanner.hpp>

#include "linux_support.hpp"
#include "linux_watching.hpp"

using namespace linux_test;
using detail::os::call;

namespace {

constexpr std::size_t many = 40;

linux_options stopped() {
    linux_options o = quiescent();
    o.no_readers = true;
    return o;
}

/// Every second page from the first on has a twin: frame `i` holds what page `2 i` holds.
struct twins {
    explicit twins(linux_options const& o) : p(o), m(p, 3 * many) {
        for (std::size_t i = 0; i < 2 * many; ++i) {
            m.fill(i, i);
        }
        for (std::size_t i = 0; i < many; ++i) {
            m.fill(2 * many + i, 2 * i);
        }
        promotion const made = p.promote(p.space(), m.page(2 * many), pages(many));
        REQUIRE(made.made.done == pages(many));
        for (std::size_t i = 0; i < many; ++i) {
            runs.push_back({m.page(2 * i), pages(1), made.first + pages(i), {}});
        }
    }

    void merge() { p.merge_batch(p.space(), runs); }

    [[nodiscard]] std::size_t merged() const {
        std::size_t n = 0;
        for (merge_request const& r : runs) {
            n += r.result.why == status::ok && r.result.done == r.pages;
        }
        return n;
    }
    /// Each page has its content, and the pages of requests that succeeded map their frames.
    [[nodiscard]] bool sound() {
        bool good = true;
        for (std::size_t i = 0; i < many; ++i) {
            page_run const is = look(p, m.page(2 * i));
            bool const done = runs[i].result.done == pages(1);
            good = good && m.holds(2 * i, 2 * i) && m.holds(2 * i + 1, 2 * i + 1) &&
                   (is.state == page_state::merged) == done && (!done || is.frame == runs[i].frame);
        }
        return good;
    }

    linux_provider p;
    memory m;
    std::vector<merge_request> runs;
};

/// Whether memory can be given back in batches here; the reason, or null.
char const* no_batches() {
    return detail::os::can_discard_at_once(detail::os::page_bytes())
               ? nullptr
               : "process_madvise does not serve the calling process before Linux 6.14";
}

} // namespace

TEST_CASE("scattered pages merge by one call that gives their memory back", "[linux]") {
    if (char const* const why = no_batches()) {
        KSM_SKIP(why);
    }
    twins t{stopped()};
    {
        watching const now{call::process_madvise};
        t.merge();
    }
    CHECK(watched.seen == 1);
    CHECK(t.merged() == many);
    CHECK(t.sound());
    t.m.at(2)[0] = std::byte{7}; // copy-on-write
    CHECK(look(t.p, t.m.page(2)).state == page_state::written);
    CHECK(t.m.holds(2 * many + 1, 2));
}

TEST_CASE("where somebody may read, no page is empty for a moment", "[linux]") {
    linux_options const options = GENERATE(quiescent(), by_mprotect(), by_move(), by_wp());
    KSM_NEEDS_USERFAULTFD(options);
    twins t{options};
    {
        watching const now{call::process_madvise};
        t.merge();
    }
    CHECK(watched.seen == 0);
    CHECK(t.merged() == many);
    CHECK(t.sound());
    CHECK_FALSE(t.p.prefers_batches());
}

TEST_CASE("a process with one thread merges in batches only by promise", "[linux]") {
    if (char const* const why = no_batches()) {
        KSM_SKIP(why);
    }
    CHECK(in_child([] {
              linux_options o;
              o.strategy = write_exclusion::quiescent;
              o.no_pinned_io = true;
              twins without{o}; // what io_uring sends may be on its way
              o.no_readers = true;
              twins with{o};
              return !without.p.prefers_batches() && with.p.prefers_batches() ? 0 : 1;
          }) == 0);
}

TEST_CASE("each run of a batch is answered for by itself", "[linux]") {
    twins t{stopped()};
    t.m.at(4)[0] = std::byte{1};
    linux_pin pin;
    REQUIRE_FALSE(t.p.try_pin({t.m.page(8), pages(1)}, pin));
    t.runs[5].first = page_number{1};
    t.merge();
    CHECK(t.runs[2].result.why == status::changed);
    CHECK(t.runs[4].result.why == status::busy);
    CHECK(t.runs[5].result.why == status::gone);
    CHECK(t.merged() == many - 3);
}

TEST_CASE("a batch joins runs of several pages as far as they are equal", "[linux]") {
    linux_provider p{stopped()};
    memory m{p, 60};
    for (std::size_t i = 0; i < 60; ++i) {
        m.fill(i, i % 20);
    }
    promotion const made = p.promote(p.space(), m.page(0), pages(20));
    REQUIRE(made.made.done == pages(20));
    m.at(27)[100] = std::byte{1};
    std::array<merge_request, 2> runs{
        {{m.page(20), pages(20), made.first, {}}, {m.page(40), pages(20), made.first, {}}}};
    p.merge_batch(p.space(), runs);
    CHECK(runs[0].result.done == pages(7));
    CHECK(runs[0].result.why == status::changed);
    CHECK(runs[1].result.done == pages(20));
    CHECK(look(p, m.page(20)).pages == pages(7));
    CHECK(m.holds(59, 19));
    CHECK(m.holds(28, 8));
}

TEST_CASE("a part of a run that costs more than the whole keeps to the budget", "[linux]") {
    constexpr std::size_t runs = 30;
    linux_options o = stopped();
    o.max_mappings = 70;
    linux_provider p{o};
    memory m{p, 40 * (runs + 1)};
    for (std::size_t i = 0; i < m.size(); ++i) {
        m.fill(i, i % 40 < 20 ? i % 40 : i);
    }
    promotion const made = p.promote(p.space(), m.page(0), pages(20));
    REQUIRE(made.made.done == pages(20));
    std::vector<merge_request> joining; // what is merged already, but for the page in between
    for (std::size_t i = 40; i < m.size(); i += 40) {
        REQUIRE(p.merge(p.space(), m.page(i + 3), pages(17), made.first + pages(3)).done ==
                pages(17));
        m.at(i + 1)[0] = std::byte{0};
        joining.push_back({m.page(i), pages(3), made.first, {}});
    }
    p.merge_batch(p.space(), joining);
    CHECK(p.usage().mappings_used <= p.usage().mapping_budget);
}

TEST_CASE("pages that were given back have their content when mapping their frames fails",
          "[linux]") {
    int const error = GENERATE(ENOMEM, EPERM, EAGAIN, EBADF);
    int const from = GENERATE(1, 5, 40);
    twins t{stopped()};
    {
        watching const now{call::mmap, error, from};
        t.merge();
    }
    CAPTURE(error, from);
    CHECK(t.merged() < many);
    CHECK(t.sound());
}

TEST_CASE("runs merge one by one where process_madvise fails", "[linux]") {
    int const from = GENERATE(1, 2); // at the start; in a batch
    watching const now{call::process_madvise, EPERM, from};
    twins t{stopped()};
    t.merge();
    CHECK(t.merged() == many);
    CHECK(t.sound());
}

TEST_CASE("a batch takes no more mappings than there are", "[linux]") {
    linux_options o = stopped();
    o.max_mappings = 33;
    twins t{o};
    t.merge();
    CHECK(t.p.usage().mappings_used <= 33);
    CHECK(t.merged() != 0);
    CHECK(t.merged() < 17);
    CHECK(t.sound());
}

TEST_CASE("threads are stopped once for a batch", "[linux]") {
    static int stops = 0;
    stops = 0;
    linux_options o;
    o.strategy = write_exclusion::quiescent;
    o.freeze = [](void*) noexcept {
        ++stops;
        return true;
    };
    o.thaw = [](void*) noexcept {};
    twins t{o};
    CHECK(t.p.prefers_batches());
    stops = 0;
    t.merge();
    CHECK(stops == 1);
    CHECK(t.merged() == many);
}

TEST_CASE("a scanner finds scattered duplicates in batches", "[linux]") {
    if (char const* const why = no_batches()) {
        KSM_SKIP(why);
    }
    linux_provider p{stopped()};
    memory m{p, 1000};
    for (std::size_t i = 0; i < 1000; ++i) {
        m.fill(i, i % 3 == 0 ? 5000 + i % 7 : i);
    }
    scanner s{p};
    REQUIRE(s.enter(p.space()) == status::ok);
    {
        watching const now{call::process_madvise};
        static_cast<void>(s.scan_pass());
        static_cast<void>(s.scan_pass());
    }
    CHECK(watched.seen < 40);
    CHECK(s.statistics().pages_shared == 7);
    CHECK(s.statistics().pages_sharing == 327);
    for (std::size_t i = 0; i < 1000; ++i) {
        CHECK(m.holds(i, i % 3 == 0 ? 5000 + i % 7 : i));
    }
}

TEST_CASE("a range that is lost amid a batch takes no page of it along", "[linux]") {
    if (!kernel_tells_of_mappings()) {
        KSM_SKIP("the kernel does not tell of mappings (PROCMAP_QUERY, Linux 6.11)");
    }
    linux_provider p{stopped()};
    memory m{p, 4096};
    m.fill(4000, 1);
    promotion const made = p.promote(p.space(), m.page(4000), pages(1));
    REQUIRE(made.made.done == pages(1));
    for (std::size_t const i : {20U, 24U, 2500U}) {
        m.fill(i, 1);
    }
    REQUIRE(::mprotect(m.at(24), p.page_size(), PROT_READ) == 0);
    std::array<merge_request, 3> runs{{{m.page(20), pages(1), made.first, {}},
                                       {m.page(24), pages(1), made.first, {}},
                                       {m.page(2500), pages(1), made.first, {}}}};
    p.merge_batch(p.space(), runs);
    CHECK(runs[0].result.done == pages(1));
    CHECK(runs[1].result.why == status::gone);
    CHECK(runs[2].result.done == pages(1));
    CHECK(look(p, m.page(20)).state == page_state::merged);
    CHECK(p.unmerge(p.space(), m.page(4000), pages(1)).why == status::ok);
    CHECK(m.holds(20, 1));
    CHECK(m.holds(2500, 1));
}

namespace {

std::atomic<int> forks{0};
std::atomic<bool> child_has_content{false};

} // namespace

TEST_CASE("a child that is forked amid a batch has every page", "[linux]") {
    if (char const* const why = no_batches()) {
        KSM_SKIP(why);
    }
    static twins* scene = nullptr;
    static std::thread forker;
    twins t{stopped()};
    scene = &t;
    forks = 0;
    child_has_content = false;
    detail::os::fault_hook.store([](call c) noexcept {
        // The first mapping after the memory was given back.
        if (c == call::mmap && forks.exchange(1) == 0) {
            forker = std::thread{[] {
                child_has_content = in_child([] { return scene->m.holds(20, 20) ? 0 : 1; }) == 0;
                forks = 2;
            }};
            for (int i = 0; i < 50 && forks != 2; ++i) { // a gate lets it wait for us
                std::this_thread::sleep_for(std::chrono::milliseconds{1});
            }
        }
        return 0;
    });
    t.merge();
    detail::os::fault_hook.store(nullptr);
    forker.join();
    CHECK(child_has_content);
    CHECK(t.merged() == many);
}
