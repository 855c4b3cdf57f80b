// SPDX-License-Identifier: BSL-1.0
#include <cstdlib>
#include <thread>

#include <ksm/scanner.hpp>

#include "linux_support.hpp"
#include "linux_watching.hpp"

using namespace linux_test;

namespace {

bool application_works() {
    void* volatile p = std::malloc(64 << 20);
    bool ran = false;
    std::thread{[&] { ran = true; }}.join();
    bool const works = p != nullptr && ran;
    std::free(p);
    return works;
}

/// Merges runs of pages, with one page between them, onto the frames from `first` on, as far as it
/// goes.
progress merge_runs(linux_provider& p, memory& m, std::size_t run, frame_id first) {
    std::size_t n = 0;
    for (std::size_t i = run + 1; i + run <= m.size(); i += run + 1, ++n) {
        for (std::size_t k = 0; k < run; ++k) {
            m.fill(i + k, k);
        }
        progress const one = p.merge(p.space(), m.page(i), pages(run), first);
        if (one.why != status::ok) {
            return {pages(n), one.why};
        }
    }
    return {pages(n), status::ok};
}

frame_id promote_run(linux_provider& p, memory& m, std::size_t run) {
    for (std::size_t k = 0; k < run; ++k) {
        m.fill(k, k);
    }
    promotion const made = p.promote(p.space(), m.page(0), pages(run));
    REQUIRE(made.made.done == pages(run));
    return made.first;
}

/// Uses up the mappings of the process, or so many. \returns The pages that it took, or null if it
/// cannot.
std::byte* use_up(std::size_t max_map_count, std::size_t page,
                  std::size_t mappings = ~std::size_t{0}) {
    void* const p = ::mmap(nullptr, 2 * (max_map_count + 64) * page, PROT_NONE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        return nullptr;
    }
    auto* const at = static_cast<std::byte*>(p);
    for (std::size_t k = 1; k < mappings && ::mprotect(at + k * page, page, PROT_READ) == 0;
         k += 2) {
    }
    return at;
}

} // namespace

TEST_CASE("no page becomes a frame that scarce mappings forbid to share", "[linux]") {
    linux_options o = GENERATE(quiescent(), by_move());
    KSM_NEEDS_USERFAULTFD(o);
    o.max_mappings = 64;
    linux_provider p{o};
    memory m{p, 400};
    for (std::size_t i = 0; i < m.size(); ++i) {
        m.fill(i, i % 2 == 0 ? i / 4 : 1000 + i); // a hundred pairs
    }
    scanner s{p};
    REQUIRE(s.enter(p.space()) == status::ok);
    static_cast<void>(s.scan_pass());
    for (int pass = 0; pass < 4; ++pass) {
        watching const now{detail::os::call::pwrite};
        std::uint64_t const before = s.statistics().pages_shared;
        static_cast<void>(s.scan_pass());
        CHECK(static_cast<std::uint64_t>(watched.seen) == s.statistics().pages_shared - before);
    }
    CHECK(s.statistics().pages_shared > 5);
}

TEST_CASE("merging stops at the budget of mappings that the options set", "[linux]") {
    linux_options o = GENERATE(quiescent(), by_mprotect());
    o.max_mappings = 100;
    linux_provider p{o};
    memory m{p, 1000};
    frame_id const f = promote_run(p, m, 16);
    std::size_t const before = detail::os::count_mappings();
    progress const done = merge_runs(p, m, 16, f);
    CHECK(done.why == status::out_of_mappings);
    CHECK(done.done >= pages(45));
    CHECK(p.usage().mappings_used <= 100);
    // The page table's own memory may be one more.
    CHECK(detail::os::count_mappings() <= before + 101);
    std::size_t const refused = 17 * (done.done.value() + 1);
    CHECK(m.holds(refused, 0));
    CHECK(is_private(p, m.page(refused)));
    CHECK(look(p, m.page(refused)).state == page_state::unknown);
    CHECK(p.promote(p.space(), m.page(refused), pages(16)).made.why == status::out_of_mappings);
    // What joins a run costs nothing, and mappings that are given back can be used again.
    CHECK(application_works());
    REQUIRE(p.unmerge(p.space(), m.page(17), pages(16)).why == status::ok);
    CHECK(p.merge(p.space(), m.page(refused), pages(16), f).why == status::ok);
}

TEST_CASE("the fewer mappings are left, the longer a run must be", "[linux]") {
    linux_options o = quiescent();
    o.max_mappings = 802; // the frames take two
    linux_provider p{o};
    memory m{p, 8000};
    frame_id const f = promote_run(p, m, 32);
    std::size_t part = 4;
    for (std::size_t const run : {1U, 2U, 4U, 8U}) {
        progress const done = merge_runs(p, m, run, f);
        CAPTURE(run);
        // Not the end of merging: longer runs go on.
        CHECK(done.why == status::busy);
        CHECK(p.usage().mappings_used >= part * 100);
        CHECK(p.usage().mappings_used <= part * 100 + 3);
        ++part;
        std::size_t const refused = (run + 1) * (done.done.value() + 1);
        CHECK(p.promote(p.space(), m.page(refused), pages(run)).made.why == status::busy);
        CHECK(m.holds(refused, 0));
        REQUIRE(p.unmerge(p.space(), m.page(0), pages(m.size())).why == status::ok);
        CHECK(p.usage().mappings_used == 2);
    }
    CHECK(merge_runs(p, m, 16, f).why == status::out_of_mappings);
}

TEST_CASE("merging leaves the application its mappings", "[linux]") {
    linux_provider p{quiescent()};
    if (p.capabilities().max_map_count > 200000 || p.capabilities().max_map_count < 20000) {
        KSM_SKIP("vm.max_map_count is not near its default");
    }
    std::size_t const budget = p.capabilities().mapping_budget;
    CHECK(budget <= p.capabilities().max_map_count / 2);
    memory m{p, 9 * budget};
    frame_id const f = promote_run(p, m, 16);
    progress const done = merge_runs(p, m, 16, f);
    CHECK(done.why == status::out_of_mappings);
    CHECK(done.done.value() >= budget * 2 / 5);
    CHECK(detail::os::count_mappings() <= p.capabilities().max_map_count - 8192);
    CHECK(application_works());
    CHECK(m.holds(17 * done.done.value(), 0));
}

TEST_CASE("mappings that the application comes to need are given back", "[linux]") {
    linux_options o = GENERATE(quiescent(), by_mprotect(), by_move());
    KSM_NEEDS_USERFAULTFD(o);
    o.mapping_share = 1;
    o.count_mappings_seconds = 0;
    int const result = in_child([&] {
        linux_provider p{o};
        std::size_t const most = p.capabilities().max_map_count;
        if (most > 200000 || most < 20000) {
            return 77;
        }
        memory m{p, 1200};
        auto const content = [](std::size_t i) { return i % 3 == 0 ? i % 4 : i; };
        for (std::size_t i = 0; i < m.size(); ++i) {
            m.fill(i, content(i));
        }
        scanner s{p};
        if (s.enter(p.space()) != status::ok) {
            return 1;
        }
        auto const passes = [&](int n) {
            while (n-- > 0) {
                static_cast<void>(s.scan_pass());
            }
        };
        passes(4);
        std::size_t const used = p.usage().mappings_used;
        if (used < 700 || s.statistics().pages_sharing < 390) {
            return 2;
        }
        // All but 8192, which are not merging's, and 300.
        std::size_t const others = detail::os::count_mappings() - used;
        std::byte* const taken = use_up(most, p.page_size(), most - 8192 - 300 - others);
        if (taken == nullptr) {
            return 77;
        }
        passes(6);
        linux_usage const u = p.usage();
        std::size_t const all = detail::os::count_mappings();
        ::munmap(taken, 2 * (most + 64) * p.page_size());
        if (u.mappings_used > u.mapping_budget || u.mapping_budget > 300) {
            return 3;
        }
        if (u.mappings_used < 200 || all > most - 8192 + 8) { // no more than necessary
            return 4;
        }
        std::size_t merged = 0;
        for (std::size_t i = 0; i < m.size(); ++i) {
            if (!m.holds(i, content(i))) {
                return 5;
            }
            merged += is_private(p, m.page(i)) ? 0U : 1U;
        }
        if (merged != s.statistics().pages_sharing + s.statistics().pages_shared) {
            return 6;
        }
        passes(8);
        return s.statistics().pages_sharing >= 390 ? 0 : 7; // there is room again
    });
    if (result == 77) {
        KSM_SKIP("vm.max_map_count is not near its default");
    }
    CHECK(result == 0);
}

TEST_CASE("the count of mappings is the kernel's", "[linux]") {
    linux_provider p{quiescent()};
    memory m{p, 256};
    for (std::size_t i = 0; i < 256; ++i) {
        m.fill(i, i % 16);
    }
    REQUIRE(p.promote(p.space(), m.page(0), pages(16)).made.done == pages(16));
    std::size_t const kernel = detail::os::count_mappings();
    std::size_t const ours = p.usage().mappings_used;
    std::uint64_t x = 1;
    std::size_t merged = 0;
    for (std::size_t k = 0; k < 2000; ++k) {
        x = x * 6364136223846793005U + 1442695040888963407U;
        std::size_t const i = 17 + (x >> 33) % 220;
        std::size_t const n = 1 + (x >> 50) % (16 - i % 16);
        merged += p.merge(p.space(), m.page(i), pages(n), frame_id{i % 16}).done.value();
    }
    CHECK(merged > 2000);
    CHECK(detail::os::count_mappings() - kernel == p.usage().mappings_used - ours);
}

TEST_CASE("at the kernel's limit of mappings nothing is merged, and unmerging works", "[linux]") {
    linux_options const o = GENERATE(quiescent(), by_mprotect(), by_move());
    KSM_NEEDS_USERFAULTFD(o);
    int const result = in_child([&] {
        linux_options generous = o;
        generous.mapping_share = 1;
        linux_provider p{generous};
        if (p.capabilities().max_map_count > 200000 || p.capabilities().max_map_count < 20000) {
            return 77;
        }
        memory m{p, 64};
        for (std::size_t i = 0; i < 64; ++i) {
            m.fill(i, i % 2);
        }
        promotion const f = p.promote(p.space(), m.page(0), pages(2));
        if (p.merge(p.space(), m.page(20), pages(2), f.first).why != status::ok) {
            return 1;
        }
        std::byte* const taken = use_up(p.capabilities().max_map_count, p.page_size());
        if (taken == nullptr) {
            return 77;
        }
        progress const merged = p.merge(p.space(), m.page(40), pages(2), f.first);
        promotion const made = p.promote(p.space(), m.page(50), pages(1));
        progress const back = p.unmerge(p.space(), m.page(20), pages(2));
        ::munmap(taken, 2 * (p.capabilities().max_map_count + 64) * p.page_size());
        if (merged.why != status::out_of_mappings || merged.done != pages(0) ||
            made.made.why != status::out_of_mappings) {
            return 2;
        }
        if (back.done != pages(2) || !is_private(p, m.page(20)) || !is_private(p, m.page(21))) {
            return 3;
        }
        for (std::size_t i = 0; i < 64; ++i) {
            if (!m.holds(i, i % 2)) {
                return 4;
            }
        }
        return application_works() ? 0 : 5;
    });
    if (result == 77) {
        KSM_SKIP("vm.max_map_count is not near its default");
    }
    CHECK(result == 0);
}
