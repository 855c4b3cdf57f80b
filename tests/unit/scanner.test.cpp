// SPDX-License-Identifier: BSL-1.0
// The rows of the original algorithm (S1 to S12, S20, S21), each with a test of its name.
#include <bit>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <ksm/providers/faulty.hpp>
#include <ksm/providers/simulated.hpp>
#include <ksm/providers/tracing.hpp>

#include "support/catch.hpp"
#include "support/scanning.hpp"

using support::at;
using support::machine;
using support::pages;
using support::range;
using support::scanning;

#define KSM_FOR_EACH_POLICY ksm::standard_policy, ksm::classic_policy

TEMPLATE_TEST_CASE("S1: a range that becomes unmergeable is private and stays so", "",
                   KSM_FOR_EACH_POLICY) {
    machine m(4);
    for (std::uint64_t p = 0; p < 4; ++p) {
        m.write(p, 7);
    }
    scanning<TestType> s(m.memory, m.space);
    s.passes(2);
    REQUIRE(m.share(0, 3));
    REQUIRE(m.memory.set_mergeable(m.space, range(0, 2), false));
    s.passes(3);
    CHECK(m.memory.is_private(m.space, at(0)));
    CHECK(m.memory.is_private(m.space, at(1)));
    CHECK(m.share(2, 3));
    CHECK(s.statistics().rmap_items == 2);
    REQUIRE(m.memory.set_mergeable(m.space, range(0, 2), true));
    s.passes(2);
    CHECK(m.share(0, 3));
}

TEMPLATE_TEST_CASE("S1: unmerge gives the pages of a range private copies, and only those", "",
                   KSM_FOR_EACH_POLICY) {
    machine m(4);
    for (std::uint64_t p = 0; p < 4; ++p) {
        m.write(p, 7);
    }
    scanning<TestType> s(m.memory, m.space);
    s.passes(2);
    auto const done = s.scanner.unmerge(m.space, range(1, 2));
    CHECK(done.why == ksm::status::ok);
    CHECK(done.done == pages(2));
    CHECK(m.memory.is_private(m.space, at(1)));
    CHECK(m.memory.is_private(m.space, at(2)));
    CHECK(m.share(0, 3));
    CHECK(m.read(1) == 7);
    CHECK(s.statistics().pages_sharing == 1);
    s.check_books();
}

TEST_CASE("S1: unmerge of a space that has not entered says so") {
    machine m;
    scanning<> s(m.memory, m.space);
    CHECK(s.scanner.unmerge(m.memory.create_space(), range(0, 1)).why == ksm::status::gone);
}

TEMPLATE_TEST_CASE("S2: a space that enters during a pass is scanned from the next one on", "",
                   KSM_FOR_EACH_POLICY) {
    machine m(8);
    scanning<TestType> s(m.memory, m.space);
    s.passes(1);
    REQUIRE_FALSE(s.scanner.scan(pages(2)).pass_complete);
    auto const late = m.memory.create_space();
    m.add_pages(late, 8);
    REQUIRE(s.scanner.enter(late) == ksm::status::ok);
    s.passes(1);
    CHECK(s.statistics().rmap_items == 8);
    s.passes(2);
    CHECK(s.statistics().rmap_items == 16);
    CHECK(m.share(m.space, 3, late, 3));
}

TEMPLATE_TEST_CASE("S2: a space may exit at every seam of a pass", "", KSM_FOR_EACH_POLICY) {
    for (int moment = 0;; ++moment) {
        machine m(3);
        m.write(1, 1);
        auto const other = m.memory.create_space();
        m.add_pages(other, 3);
        scanning<TestType> s(m.memory, m.space);
        REQUIRE(s.scanner.enter(other) == ksm::status::ok);
        s.passes(1);
        int seams = 0;
        m.memory.on_seam = [&](ksm::seam, ksm::space_id, ksm::page_number) {
            if (seams++ == moment) {
                m.memory.exit(m.space);
            }
        };
        s.passes(3);
        m.memory.on_seam = nullptr;
        s.passes(1);
        CHECK(m.memory.verify().empty());
        CHECK(m.read(other, 2) == 3);
        if (seams <= moment) {
            CHECK(moment > 10);
            break;
        }
        CHECK(s.statistics().rmap_items == 3);
        CHECK(s.scanner.statistics(m.space).rmap_items == 0);
    }
}

TEST_CASE("S2: a space without mergeable pages leaves by itself") {
    machine m(2);
    scanning<> s(m.memory, m.space);
    s.passes(1);
    CHECK(s.scanner.has_spaces());
    m.memory.unmap(m.space, range(0, 2));
    s.passes(1);
    CHECK_FALSE(s.scanner.has_spaces());
    CHECK(s.statistics().rmap_items == 0);
    CHECK(s.metadata.bytes() == s.statistics().metadata_bytes);
}

TEMPLATE_TEST_CASE("S2: leaving forgets a space and touches none of its pages", "",
                   KSM_FOR_EACH_POLICY) {
    machine m(4);
    m.write(1, 1);
    scanning<TestType> s(m.memory, m.space);
    s.passes(2);
    REQUIRE(m.share(0, 1));
    s.scanner.leave(m.space);
    CHECK(m.share(0, 1));
    CHECK(m.read(1) == 1);
    CHECK(s.statistics().rmap_items == 0);
    CHECK(s.statistics().pages_shared == 0);
    CHECK_FALSE(s.scanner.has_spaces());
    SECTION("and once it enters again its pages merge again") {
        REQUIRE(s.scanner.enter(m.space) == ksm::status::ok);
        s.passes(3);
        CHECK(s.statistics().pages_sharing == 1);
    }
}

TEST_CASE("S2: a space stays when there was no memory to track its pages") {
    machine m(2);
    m.write(1, 1);
    scanning<> s(m.memory, m.space);
    s.metadata.fail(0);
    s.passes(1);
    CHECK(s.scanner.has_spaces());
    s.metadata.succeed();
    s.passes(3);
    CHECK(m.share(0, 1));
}

TEMPLATE_TEST_CASE("S3: a scan in pieces of any size ends like one that is whole", "",
                   KSM_FOR_EACH_POLICY) {
    std::uint64_t const budget = GENERATE(1U, 2U, 3U, 5U, 17U, 64U, 1000U);
    machine m(200);
    for (std::uint64_t p = 0; p < 60; ++p) {
        m.write(100 + p, p + 1); // a copy of the first 60
        m.write(161 + p % 39, 9999);
    }
    scanning<TestType> s(m.memory, m.space);
    for (int pass = 0; pass < 3; ++pass) {
        ksm::scan_result r;
        do {
            r = s.scanner.scan(pages(budget));
            CHECK(r.visited <= pages(budget));
            s.check_books();
        } while (!r.pass_complete);
    }
    CHECK(s.statistics().full_scans == 3);
    CHECK(s.statistics().pages_shared == 61);
    CHECK(s.statistics().pages_sharing == 60 + 38);
    CHECK(s.statistics().pages_unshared == 41);
    CHECK(m.share(0, 100));
    CHECK(m.share(161, 199));
}

TEST_CASE("S3: a scan resumes at the page behind the last one that it visited") {
    machine m(100);
    ksm::tracing_provider traced(m.memory);
    scanning<ksm::classic_policy, ksm::tracing_provider<ksm::simulated_provider>> s(traced,
                                                                                    m.space);
    (void)s.scanner.scan_pass();
    for (std::uint64_t p = 0; p < 100; ++p) {
        traced.calls.clear();
        CHECK(s.scanner.scan(pages(1)).visited == pages(1));
        auto const first =
            std::ranges::find(traced.calls, ksm::operation::view_page, &ksm::traced_call::what);
        REQUIRE(first != traced.calls.end());
        CHECK(first->first == at(p));
    }
}

TEST_CASE("S3: holes between pages cost nothing") {
    machine m(1);
    std::uint64_t const far = std::uint64_t{1} << 50U;
    REQUIRE(m.memory.map(m.space, at(far), pages(1)));
    m.write(far, 1);
    scanning<> s(m.memory, m.space);
    s.passes(2);
    CHECK(m.share(0, far));
    CHECK(s.statistics().pages_scanned == 2);
}

TEMPLATE_TEST_CASE("S4: pages that are unmapped are forgotten, and so is their metadata", "",
                   KSM_FOR_EACH_POLICY) {
    machine m(300);
    scanning<TestType> s(m.memory, m.space);
    s.passes(2);
    auto const before = s.statistics();
    CHECK(before.rmap_items == 300);
    m.memory.unmap(m.space, range(10, 290));
    s.passes(2);
    CHECK(s.statistics().rmap_items == 10);
    CHECK(s.statistics().pages_unshared == 10);
    CHECK(s.statistics().metadata_bytes < before.metadata_bytes / 2);
    CHECK(s.statistics().metadata_bytes == s.metadata.bytes());
}

TEMPLATE_TEST_CASE("S5: a page that changes between two passes stays out of the unstable tree", "",
                   KSM_FOR_EACH_POLICY) {
    machine m(2);
    scanning<TestType> s(m.memory, m.space);
    for (std::uint64_t pass = 0; pass < 5; ++pass) {
        m.write(0, 100 + pass);
        s.passes(1);
    }
    CHECK(s.statistics().pages_unshared == 1);
    CHECK(s.statistics().pages_volatile == 1);
    s.passes(1);
    CHECK(s.statistics().pages_unshared == 2);
}

TEST_CASE("S5: where the provider tracks changes, a page that keeps changing costs no digest") {
    machine m(1);
    scanning<> s(m.memory, m.space);
    for (std::uint64_t pass = 0; pass < 5; ++pass) {
        m.write(0, 100 + pass);
        s.passes(1);
    }
    CHECK(s.statistics().digests == 0);
    CHECK(s.statistics().pages_scanned == 0);
}

TEST_CASE("S5: where the provider cannot track changes, a page needs the same digest twice") {
    machine m(2, {.page_size = 64, .change_tracking = false});
    m.write(1, 1);
    scanning<> s(m.memory, m.space);
    s.passes(1);
    CHECK(s.statistics().pages_volatile == 2);
    m.write(0, 2);
    m.write(1, 2);
    s.passes(1);
    CHECK(s.statistics().pages_volatile == 2);
    s.passes(1);
    CHECK(m.share(0, 1));
}

TEST_CASE("S5: the original order searches the stable tree before it tests for volatility") {
    machine m(3);
    m.write(1, 1);
    scanning<ksm::classic_policy> s(m.memory, m.space);
    s.passes(2);
    REQUIRE(m.share(0, 1));
    m.write(2, 1); // changed since its last visit
    s.passes(1);
    CHECK(m.share(0, 2));
}

TEMPLATE_TEST_CASE("S6: a frame that no page maps any more leaves the stable tree", "",
                   KSM_FOR_EACH_POLICY) {
    machine m(2);
    m.write(1, 1);
    scanning<TestType> s(m.memory, m.space);
    s.passes(2);
    auto const frame = m.memory.frame_of(m.space, at(0));
    REQUIRE(frame);
    m.write(0, 8);
    s.passes(1);
    CHECK(s.statistics().pages_shared == 1);
    CHECK(m.memory.is_live(*frame));
    m.write(1, 9);
    s.passes(1);
    CHECK(s.statistics().pages_shared == 0);
    CHECK_FALSE(m.memory.is_live(*frame));
    CHECK(m.memory.verify().empty());
}

TEMPLATE_TEST_CASE("S6: a frame whose content the stable tree has already is not inserted", "",
                   KSM_FOR_EACH_POLICY) {
    machine m(2);
    m.write(1, 1);
    auto const other = m.memory.create_space();
    m.add_pages(other, 2);
    m.write(other, 1, 1);
    {
        scanning<TestType> first(m.memory, m.space);
        first.passes(2);
    }
    REQUIRE(m.memory.is_stable(m.space, at(0)));
    scanning<TestType> second(m.memory, other);
    second.passes(2);
    if (second.statistics().pages_shared == 0) {
        second.passes(1); // an unwritten page that it has not seen before needs a digest twice
    }
    REQUIRE(m.share(other, 0, other, 1));
    REQUIRE(second.scanner.enter(m.space) == ksm::status::ok);
    second.passes(2);
    CHECK(second.statistics().pages_shared == 1);
    CHECK(m.share(m.space, 0, other, 1));
    CHECK(m.share(m.space, 1, other, 1));
}

TEST_CASE("S7: the original's unstable tree lives for one pass") {
    machine m(4);
    scanning<ksm::classic_policy> s(m.memory, m.space);
    s.passes(2);
    CHECK(s.statistics().pages_unshared == 4);
    (void)s.scanner.scan(pages(1));
    CHECK(s.statistics().pages_unshared == 1);
}

TEST_CASE("S7: unchanged pages wait in the persistent unstable tree and are not visited again") {
    machine m(4);
    scanning<> s(m.memory, m.space);
    s.passes(2);
    auto const before = s.statistics();
    CHECK(before.pages_unshared == 4);
    s.passes(5);
    CHECK(s.statistics().pages_scanned == before.pages_scanned);
    CHECK(s.statistics().digests == before.digests);
    m.write(3, 1); // equal to page 0 now, which waits
    s.passes(2);
    CHECK(m.share(0, 3));
}

TEMPLATE_TEST_CASE("S7: a tree page that has gone ends the walk without a match", "",
                   KSM_FOR_EACH_POLICY) {
    machine m(2);
    m.write(1, 1);
    scanning<TestType> s(m.memory, m.space);
    s.passes(1);
    m.once_at(ksm::seam::view_page, 1, [&] { m.memory.unmap(m.space, range(0, 1)); });
    s.passes(1);
    CHECK(m.acted);
    CHECK(m.memory.is_private(m.space, at(1)));
    CHECK(m.read(1) == 1);
    s.passes(1);
    CHECK(s.statistics().rmap_items == 1);
    CHECK(s.statistics().pages_unshared == 1);
}

TEMPLATE_TEST_CASE("S7: a tree page that was written since it entered is no match", "",
                   KSM_FOR_EACH_POLICY) {
    machine m(2);
    m.write(1, 1);
    scanning<TestType> s(m.memory, m.space);
    s.passes(1);
    m.once_at(ksm::seam::view_page, 1, [&] { m.write(0, 5); });
    s.passes(1);
    CHECK(m.memory.is_private(m.space, at(0)));
    CHECK(m.read(0) == 5);
    CHECK(m.read(1) == 1);
}

TEMPLATE_TEST_CASE("S8: a store at any seam of a pass is not lost", "", KSM_FOR_EACH_POLICY) {
    for (std::uint64_t page = 0; page < 3; ++page) {
        for (int moment = 0;; ++moment) {
            machine m(3);
            for (std::uint64_t p = 0; p < 3; ++p) {
                m.write(p, 1);
            }
            scanning<TestType> s(m.memory, m.space);
            s.passes(1);
            int seams = 0;
            m.memory.on_seam = [&](ksm::seam, ksm::space_id, ksm::page_number) {
                if (seams++ == moment) {
                    m.write(page, 77);
                }
            };
            s.passes(3);
            m.memory.on_seam = nullptr;
            s.passes(1);
            bool const stored = seams > moment;
            CHECK(m.read(page) == (stored ? 77U : 1U));
            CHECK(m.memory.verify().empty());
            CHECK(s.statistics().pages_sharing == (stored ? 1U : 2U));
            if (!stored) {
                CHECK(moment > 10);
                break;
            }
        }
    }
}

TEMPLATE_TEST_CASE("S8: a locked page is left for later", "", KSM_FOR_EACH_POLICY) {
    machine m(2);
    m.write(1, 1);
    m.memory.lock(m.space, at(0));
    scanning<TestType> s(m.memory, m.space);
    s.passes(3);
    CHECK(m.memory.is_private(m.space, at(0)));
    CHECK(m.memory.is_private(m.space, at(1)));
    m.memory.unlock(m.space, at(0));
    s.passes(2);
    CHECK(m.share(0, 1));
}

TEMPLATE_TEST_CASE("S9: when the second page changes, the first is private again", "",
                   KSM_FOR_EACH_POLICY) {
    machine m(2);
    m.write(1, 1);
    scanning<TestType> s(m.memory, m.space);
    s.passes(1);
    // Page 1 finds page 0 in the unstable tree and is promoted; then page 0 is merged into it.
    m.once_at(ksm::seam::merge_begin, 0, [&] { m.write(0, 5); });
    s.passes(1);
    CHECK(m.acted);
    CHECK(m.memory.is_private(m.space, at(0)));
    CHECK(m.memory.is_private(m.space, at(1)));
    CHECK(s.statistics().pages_shared == 0);
    CHECK(m.read(0) == 5);
    CHECK(m.read(1) == 1);
    CHECK(m.memory.verify().empty());
}

TEMPLATE_TEST_CASE("S9: without memory for the stable node both pages are private again", "",
                   KSM_FOR_EACH_POLICY) {
    machine m(2);
    m.write(1, 1);
    scanning<TestType> s(m.memory, m.space);
    s.passes(1);
    s.metadata.fail(0);
    (void)s.scanner.scan_pass();
    CHECK(s.metadata.failures() > 0);
    CHECK(m.memory.is_private(m.space, at(0)));
    CHECK(m.memory.is_private(m.space, at(1)));
    CHECK(m.memory.verify().empty());
    s.metadata.succeed();
    s.passes(2);
    CHECK(m.share(0, 1));
}

TEMPLATE_TEST_CASE("S10: a fork's copies of merged pages join their frame without any merge", "",
                   KSM_FOR_EACH_POLICY) {
    machine m(4);
    m.write(1, 1);
    ksm::tracing_provider traced(m.memory);
    scanning<TestType, ksm::tracing_provider<ksm::simulated_provider>> s(traced, m.space);
    s.passes(2);
    auto const child = m.memory.fork(m.space);
    REQUIRE(s.scanner.enter(child) == ksm::status::ok);
    traced.calls.clear();
    s.passes(1);
    CHECK(s.statistics().pages_shared == 1);
    CHECK(s.statistics().pages_sharing == 3);
    CHECK(std::ranges::count(traced.calls, ksm::operation::merge, &ksm::traced_call::what) == 0);
    SECTION("and the frame lives on in the child") {
        m.memory.exit(m.space);
        s.passes(1);
        CHECK(s.statistics().pages_sharing == 1);
        CHECK(m.read(child, 1) == 1);
        CHECK(m.memory.verify().empty());
    }
}

TEMPLATE_TEST_CASE("S11: unmerging without memory reports how far it got and loses nothing", "",
                   KSM_FOR_EACH_POLICY) {
    machine m(4);
    for (std::uint64_t p = 0; p < 4; ++p) {
        m.write(p, 1);
    }
    scanning<TestType> s(m.memory, m.space);
    s.passes(2);
    m.memory.set_frame_limit(m.memory.frames_in_use() + 2);
    auto const done = s.scanner.unmerge(m.space, range(0, 4));
    CHECK(done.done == pages(2));
    CHECK(done.why == ksm::status::out_of_memory);
    CHECK(m.memory.is_private(m.space, at(1)));
    CHECK(m.share(2, 3));
    s.check_books();
    m.memory.set_frame_limit(std::numeric_limits<std::size_t>::max());
    CHECK(s.scanner.unmerge(m.space, range(0, 4)).why == ksm::status::ok);
    CHECK(m.memory.is_private(m.space, at(3)));
    CHECK(s.statistics().pages_shared == 0);
}

TEST_CASE("S11: a page that there was no memory to track counts as not unmerged") {
    machine m(2);
    m.write(1, 1);
    scanning<> s(m.memory, m.space);
    s.passes(2);
    auto const child = m.memory.fork(m.space);
    REQUIRE(s.scanner.enter(child) == ksm::status::ok);
    s.metadata.fail(0);
    m.memory.set_frame_limit(m.memory.frames_in_use() + 1);
    auto const done = s.scanner.unmerge(child, range(0, 2));
    CHECK(done.why == ksm::status::out_of_memory);
    CHECK(done.done == pages(1));
    CHECK(m.memory.is_private(child, at(0)));
    CHECK_FALSE(m.memory.is_private(child, at(1)));
}

TEMPLATE_TEST_CASE("S12: run = 2 makes everything private, forgets all items and keeps the spaces",
                   "", KSM_FOR_EACH_POLICY) {
    machine m(4);
    m.write(1, 1);
    scanning<TestType> s(m.memory, m.space);
    s.passes(2);
    REQUIRE(s.scanner.tune("run", 2) == ksm::tunable_error::none);
    CHECK(m.memory.is_private(m.space, at(0)));
    CHECK(m.memory.is_private(m.space, at(1)));
    CHECK(s.statistics().rmap_items == 0);
    CHECK(s.statistics().full_scans == 0);
    CHECK(s.statistics().pages_shared == 0);
    CHECK(s.scanner.has_spaces());
    s.passes(3);
    CHECK(m.share(0, 1));
}

TEST_CASE("S12: run = 2 that fails stops, and merged pages stay known") {
    machine m(2);
    m.write(1, 1);
    scanning<> s(m.memory, m.space);
    s.passes(2);
    m.memory.set_frame_limit(m.memory.frames_in_use());
    CHECK(s.scanner.tune("run", 2) == ksm::tunable_error::failed);
    CHECK(s.scanner.tunables().run == ksm::run_state::stop);
    CHECK(m.share(0, 1));
    CHECK(s.statistics().pages_sharing == 1);
    s.check_books();
}

TEST_CASE("S12: run = 2 in the middle of a pass that fails ends the pass") {
    machine m(8);
    auto const other = m.memory.create_space();
    m.add_pages(other, 8);
    ksm::faulty_provider faulty(m.memory);
    scanning<ksm::classic_policy, ksm::faulty_provider<ksm::simulated_provider>> s(faulty, m.space);
    REQUIRE(s.scanner.enter(other) == ksm::status::ok);
    REQUIRE_FALSE(s.scanner.scan(pages(2)).pass_complete);
    ksm::fault second;
    second.where = ksm::operation::unmerge;
    second.first_call = 1;
    faulty.add(second);
    CHECK(s.scanner.unmerge_all() == ksm::status::busy);
    s.passes(3);
    CHECK(m.share(m.space, 5, other, 5));
}

TEMPLATE_TEST_CASE("S20: a page that is pinned after it was protected is not merged", "",
                   KSM_FOR_EACH_POLICY) {
    auto const seam =
        GENERATE(ksm::seam::promote_begin, ksm::seam::promote_protected, ksm::seam::promote_copied);
    machine m(2);
    m.write(1, 1);
    scanning<TestType> s(m.memory, m.space);
    s.passes(1);
    m.once_at(seam, 1, [&] { REQUIRE(m.memory.pin(m.space, at(1))); });
    s.passes(2);
    CHECK(m.acted);
    CHECK(m.memory.is_private(m.space, at(1)));
    CHECK(m.memory.is_private(m.space, at(0)));
    m.memory.unpin(m.space, at(1));
    s.passes(3);
    CHECK(m.share(0, 1));
}

TEMPLATE_TEST_CASE("S21: whichever allocation fails, no page is lost and none stays half merged",
                   "", KSM_FOR_EACH_POLICY) {
    std::uint64_t const count = GENERATE(1U, 3U, support::failing_resource::for_ever);
    for (std::uint64_t n = 0;; ++n) {
        machine m(150);
        for (std::uint64_t p = 0; p < 75; ++p) {
            m.write(75 + p, p + 1);
        }
        scanning<TestType> s(m.memory, m.space);
        s.metadata.fail(n, count);
        for (int pass = 0; pass < 3; ++pass) {
            (void)s.scanner.scan_pass();
            s.check_books();
            CHECK(m.memory.verify().empty());
        }
        for (std::uint64_t p = 0; p < 150; ++p) {
            CHECK(m.read(p) == p % 75 + 1);
        }
        bool const failed = s.metadata.failures() != 0;
        s.metadata.succeed();
        s.passes(3);
        CHECK(s.statistics().pages_shared == 75);
        CHECK(s.statistics().pages_sharing == 75);
        if (!failed) {
            CHECK(n > 5);
            break;
        }
    }
}

TEST_CASE("S21: a scanner without any memory merges nothing and says so") {
    machine m(4);
    m.write(1, 1);
    support::failing_resource none;
    none.fail(0);
    ksm::scanner<ksm::simulated_provider> s(m.memory, &none, 1);
    CHECK(s.enter(m.space) == ksm::status::out_of_memory);
    CHECK(s.scan_pass().visited == pages(0));
    CHECK(m.memory.is_private(m.space, at(0)));
}

// ------------------------------------------------------------------ beyond the original

namespace {

/// Two spaces of 64 equal pages that a scanner has merged, and the calls that it made.
struct merged_images {
    merged_images() {
        m.add_pages(copy, 64);
        REQUIRE(s.scanner.enter(copy) == ksm::status::ok);
        s.passes(2);
    }
    machine m{64};
    ksm::space_id copy = m.memory.create_space();
    ksm::tracing_provider<ksm::simulated_provider> traced{m.memory};
    scanning<ksm::standard_policy, ksm::tracing_provider<ksm::simulated_provider>> s{traced,
                                                                                     m.space};
};

} // namespace

TEST_CASE("Equal images merge by one promotion and one merge") {
    merged_images w;
    auto const calls = [&](ksm::operation o) {
        return std::ranges::count(w.traced.calls, o, &ksm::traced_call::what);
    };
    CHECK(calls(ksm::operation::promote) == 1);
    CHECK(calls(ksm::operation::merge) == 1);
    CHECK(w.s.statistics().longest_run == 64);
    CHECK(w.s.statistics().pages_sharing == 64);
}

TEST_CASE("A further image whose first and last pages match joins the frames in one merge") {
    merged_images w;
    auto const third = w.m.memory.create_space();
    w.m.add_pages(third, 64);
    REQUIRE(w.s.scanner.enter(third) == ksm::status::ok);
    w.s.passes(1);
    w.traced.calls.clear();
    w.s.passes(1);
    CHECK(std::ranges::count(w.traced.calls, ksm::operation::merge, &ksm::traced_call::what) == 1);
    CHECK(w.s.statistics().pages_sharing == 128);
}

TEST_CASE("A run whose last page differs is merged in calls that grow") {
    merged_images w;
    auto const third = w.m.memory.create_space();
    w.m.add_pages(third, 64);
    w.m.write(third, 63, 1000);
    REQUIRE(w.s.scanner.enter(third) == ksm::status::ok);
    w.s.passes(1);
    w.traced.calls.clear();
    w.s.passes(1);
    std::vector<std::size_t> asked;
    for (ksm::traced_call const& c : w.traced.calls) {
        if (c.what == ksm::operation::merge) {
            asked.push_back(c.pages.value());
        }
    }
    CHECK(asked == std::vector<std::size_t>{16, 48});
    CHECK(w.s.statistics().pages_sharing == 127);
}

TEST_CASE("Runs end where page numbers are multiples of a page table's") {
    machine m(1100);
    auto const copy = m.memory.create_space();
    m.add_pages(copy, 1100);
    ksm::tracing_provider traced(m.memory);
    scanning<ksm::standard_policy, decltype(traced)> s(traced, m.space);
    REQUIRE(s.scanner.enter(copy) == ksm::status::ok);
    s.passes(2);
    CHECK(s.statistics().pages_sharing == 1100);
    CHECK(s.statistics().longest_run == 512);
}

TEST_CASE("A wrong prediction costs a comparison and no data") {
    machine m(32);
    auto const copy = m.memory.create_space();
    m.add_pages(copy, 32);
    m.write(copy, 17, 999);
    scanning<> s(m.memory, m.space);
    REQUIRE(s.scanner.enter(copy) == ksm::status::ok);
    s.passes(2);
    CHECK(s.statistics().pages_sharing == 31);
    CHECK(m.read(copy, 17) == 999);
    CHECK(m.read(17) == 18);
    CHECK(m.share(m.space, 31, copy, 31));
}

TEST_CASE("A run that ends where a call ended is not asked to go on") {
    merged_images w;
    auto const third = w.m.memory.create_space();
    w.m.add_pages(third, 64);
    for (std::uint64_t p = 16; p < 64; ++p) {
        w.m.write(third, p, 1000 + p);
    }
    REQUIRE(w.s.scanner.enter(third) == ksm::status::ok);
    w.s.passes(1);
    w.traced.calls.clear();
    w.s.passes(1);
    CHECK(std::ranges::count(w.traced.calls, ksm::operation::merge, &ksm::traced_call::what) == 1);
    CHECK(w.s.statistics().pages_sharing == 80);
}

namespace {

/// What merge_zero is asked for when the pages in `zeros` are zero, a line each.
std::vector<std::string> asked_for(ksm::page_count pages, std::uint64_t zeros) {
    machine m(pages.value());
    for (std::uint64_t p = 0; p < 64; ++p) {
        if ((zeros >> p & 1U) != 0) {
            m.write(p, 0);
        }
    }
    ksm::tracing_provider traced{m.memory};
    scanning<ksm::standard_policy, decltype(traced)> s(traced, m.space);
    REQUIRE(s.scanner.tune("use_zero_pages", 1) == ksm::tunable_error::none);
    s.passes(2);
    CHECK(s.statistics().ksm_zero_pages == static_cast<std::uint64_t>(std::popcount(zeros)));
    std::vector<std::string> lines;
    for (ksm::traced_call const& c : traced.calls) {
        if (c.what == ksm::operation::merge_zero) {
            lines.push_back(to_string(c));
        }
    }
    return lines;
}

} // namespace

TEST_CASE("Scattered zero pages merge in one call, and no other page is asked for") {
    CHECK(asked_for(pages(64), 0b1101'1011'0000'0110) ==
          std::vector<std::string>{"merge_zero space 0 pages 1..2 8..9 11..12 14..15: 8 done, ok"});
}

TEST_CASE("Zero pages that are far apart merge one by one") {
    CHECK(asked_for(pages(64), 1U | 1U << 20U) ==
          std::vector<std::string>{"merge_zero space 0 pages 0: 1 done, ok",
                                   "merge_zero space 0 pages 20: 1 done, ok"});
}

TEST_CASE("A zero page that changes is left out of those that merge with it") {
    machine m(8);
    for (std::uint64_t p = 0; p < 6; ++p) {
        m.write(p, 0);
    }
    scanning<> s(m.memory, m.space);
    REQUIRE(s.scanner.tune("use_zero_pages", 1) == ksm::tunable_error::none);
    s.passes(1);
    m.once_at(ksm::seam::merge_zero_begin, 2, [&] { m.write(2, 9); });
    s.passes(1);
    CHECK(m.acted);
    CHECK(m.read(2) == 9);
    CHECK(m.memory.is_private(m.space, at(2)));
    CHECK(s.statistics().ksm_zero_pages == 5);
}

TEST_CASE("A zero page that is pinned is left for later, and those behind it merge") {
    machine m(8);
    for (std::uint64_t p = 0; p < 6; ++p) {
        m.write(p, 0);
    }
    REQUIRE(m.memory.pin(m.space, at(2)));
    scanning<> s(m.memory, m.space);
    REQUIRE(s.scanner.tune("use_zero_pages", 1) == ksm::tunable_error::none);
    s.passes(2);
    CHECK(s.statistics().ksm_zero_pages == 5);
    m.memory.unpin(m.space, at(2));
    s.passes(1);
    CHECK(s.statistics().ksm_zero_pages == 6);
}

TEST_CASE("merge_now merges a quiet range without a second pass") {
    machine m(8);
    for (std::uint64_t p = 0; p < 8; ++p) {
        m.write(p, p % 2 + 1);
    }
    scanning<> s(m.memory, m.space);
    auto const r = s.scanner.merge_now(m.space, range(0, 6));
    CHECK(r.why == ksm::status::ok);
    CHECK(r.visited == pages(6));
    s.check_books();
    CHECK(m.share(0, 4));
    CHECK(m.share(1, 5));
    CHECK(m.memory.is_private(m.space, at(6)));
    CHECK(s.statistics().full_scans == 0);
    s.passes(2);
    CHECK(m.share(1, 7));
}

TEST_CASE("merge_now of a space that has not entered says so") {
    machine m;
    scanning<> s(m.memory, m.space);
    CHECK(s.scanner.merge_now(m.memory.create_space(), range(0, 1)).why == ksm::status::gone);
}

TEMPLATE_TEST_CASE("I2: pages of different domains never merge", "", KSM_FOR_EACH_POLICY) {
    machine m(4);
    for (std::uint64_t p = 0; p < 4; ++p) {
        m.write(p, 7);
    }
    REQUIRE(m.memory.set_domain(m.space, range(2, 2), 1));
    scanning<TestType> s(m.memory, m.space);
    s.passes(3);
    CHECK(m.share(0, 1));
    CHECK(m.share(2, 3));
    CHECK_FALSE(m.share(1, 2));
    SECTION("and a page that moves takes nothing along") {
        REQUIRE(m.memory.set_domain(m.space, range(0, 1), 1));
        s.passes(2);
        CHECK(m.share(0, 2));
    }
    SECTION("also when a page moves while it is merged") {
        m.write(0, 8);
        m.write(1, 8);
        s.passes(1);
        m.once_at(ksm::seam::promote_begin, 1,
                  [&] { REQUIRE(m.memory.set_domain(m.space, range(1, 1), 1)); });
        s.passes(1);
        CHECK(m.acted);
        CHECK_FALSE(m.share(0, 1));
        s.passes(2);
        CHECK_FALSE(m.share(0, 1));
        CHECK(m.memory.verify().empty());
    }
}

TEMPLATE_TEST_CASE("M3.4: merge_across_nodes = 0 keeps merging within a node", "",
                   KSM_FOR_EACH_POLICY) {
    machine m(4);
    for (std::uint64_t p = 0; p < 4; ++p) {
        m.write(p, 7);
    }
    REQUIRE(m.memory.set_node(m.space, range(2, 2), 1));
    scanning<TestType> s(m.memory, m.space);
    s.passes(1);
    REQUIRE(s.scanner.tune("merge_across_nodes", 0) == ksm::tunable_error::none);
    s.passes(3);
    CHECK(m.share(0, 1));
    CHECK(m.share(2, 3));
    CHECK_FALSE(m.share(1, 2));
    CHECK(s.scanner.tune("merge_across_nodes", 1) == ksm::tunable_error::busy);
    REQUIRE(s.scanner.unmerge_all() == ksm::status::ok);
    REQUIRE(s.scanner.tune("merge_across_nodes", 1) == ksm::tunable_error::none);
    s.passes(3);
    CHECK(m.share(0, 3));
}

TEMPLATE_TEST_CASE("A scanner finds the merged pages of one that was destroyed", "",
                   KSM_FOR_EACH_POLICY) {
    machine m(6);
    m.write(1, 1);
    m.write(2, 1);
    {
        scanning<TestType> first(m.memory, m.space);
        first.passes(2);
    }
    CHECK(m.share(0, 2));
    scanning<TestType> second(m.memory, m.space);
    second.passes(1);
    CHECK(second.statistics().pages_shared == 1);
    CHECK(second.statistics().pages_sharing == 2);
    m.write(5, 1);
    second.passes(2);
    CHECK(m.share(0, 5));
    CHECK(second.scanner.unmerge_all() == ksm::status::ok);
    CHECK(m.memory.is_private(m.space, at(0)));
}

TEST_CASE("A page that waits is not left behind when an equal one that waits, too, merges") {
    machine m(3);
    scanning<> s(m.memory, m.space);
    s.passes(1);
    m.write(1, 1);
    m.write(2, 1);
    s.passes(1);
    // Page 0 is another while page 1 looks for a partner, and then itself again.
    m.memory.on_seam = [&, next = 1U](ksm::seam at, ksm::space_id, ksm::page_number page) mutable {
        if (at == ksm::seam::view_page && page.value() == next) {
            m.write(0, next++ == 1 ? 9 : 1);
        }
    };
    s.passes(1);
    m.memory.on_seam = nullptr;
    REQUIRE(m.share(0, 2));
    REQUIRE(s.statistics().pages_shared == 1);
    s.passes(1);
    CHECK(m.share(0, 1));
}

TEST_CASE("A page that waits is not left behind where writes are not tracked, either") {
    machine m(3, {.page_size = 64, .change_tracking = false});
    scanning<> s(m.memory, m.space);
    s.passes(3);
    m.write(1, 1);
    m.write(2, 1);
    s.passes(1);
    // Page 0 is another from then on until the pass has ended.
    m.once_at(ksm::seam::view_page, 1, [&] { m.write(0, 9); });
    s.passes(1);
    m.write(0, 1);
    REQUIRE(m.share(1, 2));
    s.passes(1);
    CHECK(m.share(0, 1));
}

TEST_CASE("Two pages of one content that wait find each other where writes are not tracked") {
    machine m(2, {.page_size = 64, .change_tracking = false});
    scanning<> s(m.memory, m.space);
    s.passes(3);
    m.write(1, 1);
    s.passes(1);
    m.once_at(ksm::seam::view_page, 1, [&] { m.write(0, 9); });
    s.passes(1);
    m.write(0, 1);
    REQUIRE(s.statistics().pages_unshared == 2);
    s.passes(1);
    CHECK(m.share(0, 1));
}

TEST_CASE("A page that waits for a partner finds one in a frame that is adopted") {
    machine m(2);
    m.write(1, 1);
    auto const other = m.memory.create_space();
    m.add_pages(other, 1);
    {
        scanning<> first(m.memory, m.space);
        first.passes(2);
    }
    scanning<> second(m.memory, other);
    second.passes(2);
    REQUIRE(second.statistics().pages_unshared == 1);
    REQUIRE(second.scanner.enter(m.space) == ksm::status::ok);
    second.passes(2);
    CHECK(m.share(other, 0, m.space, 1));
}

namespace {

/// Three pages of content 7 and two of content 9.
struct five_pages : machine {
    explicit five_pages(bool tracking)
        : machine(5, {.page_size = 64, .change_tracking = tracking}) {
        for (std::uint64_t page = 0; page < 5; ++page) {
            write(page, page < 3 ? 7 : 9);
        }
    }
    /// Writes what page 0 holds already, after every so many passes.
    /// \returns The passes at whose end it was merged.
    template <class Scanning>
    int passes_merged(Scanning& s, int passes, int period) {
        int merged = 0;
        for (int pass = 1; pass <= passes; ++pass) {
            s.passes(1);
            merged += memory.is_stable(space, at(0));
            if (pass % period == 0) {
                write(0, 7);
            }
        }
        return merged;
    }
};

} // namespace

TEST_CASE("A page whose sharing does not last rests ever longer") {
    five_pages m(false);
    scanning<> s(m.memory, m.space);
    int const at_first = m.passes_merged(s, 128, 1);
    CHECK(at_first >= 4);
    CHECK(at_first <= 8);
    int const later = m.passes_merged(s, 320, 1); // one in 25 to 40 passes
    CHECK(later >= 8);
    CHECK(later <= 13);
    CHECK(m.share(1, 2));
    s.passes(41);
    CHECK(m.share(0, 1));
}

TEST_CASE("Surveys that find a page merged make up for it") {
    five_pages m(false);
    scanning<> s(m.memory, m.space);
    static_cast<void>(m.passes_merged(s, 128, 1));
    s.passes(41 + 3);
    REQUIRE(m.share(0, 1));
    m.write(0, 7);
    s.passes(2);
    CHECK(m.share(0, 1));
}

TEST_CASE("A page that is written now and then stays merged in between, whatever its phase") {
    // Some of them are those in which a page would come back that always rested equally long.
    int const period = GENERATE(4, 10, 16, 33);
    int const phase = GENERATE_COPY(range(0, period));
    CAPTURE(period, phase);
    five_pages m(false);
    scanning<> s(m.memory, m.space);
    static_cast<void>(m.passes_merged(s, 100 + phase, 1));
    static_cast<void>(m.passes_merged(s, 600, period));
    CHECK(m.passes_merged(s, 600, period) >= 600 * (period - 3) / period);
}

TEST_CASE("A page that changed while it rested is merged with what it is now") {
    five_pages m(false);
    scanning<> s(m.memory, m.space);
    static_cast<void>(m.passes_merged(s, 128, 1));
    m.write(0, 9);
    s.passes(41 + 1);
    CHECK(m.share(0, 3));
}

TEST_CASE("A page that is pinned when its rest ends is merged as soon as it is not") {
    five_pages m(false);
    scanning<> s(m.memory, m.space);
    static_cast<void>(m.passes_merged(s, 128, 1));
    m.memory.pin(m.space, at(0));
    s.passes(41 + 1);
    REQUIRE_FALSE(m.share(0, 1));
    m.memory.unpin(m.space, at(0));
    s.passes(1);
    CHECK(m.share(0, 1));
}

TEST_CASE("Where writes are tracked, a page is merged however often its sharing was broken") {
    five_pages m(true);
    scanning<> s(m.memory, m.space);
    CHECK(m.passes_merged(s, 300, 3) >= 99);
}

TEST_CASE("The original algorithm merges a page however often its sharing was broken") {
    five_pages m(GENERATE(false, true));
    scanning<ksm::classic_policy> s(m.memory, m.space);
    CHECK(m.passes_merged(s, 64, 1) >= 60);
}

TEST_CASE("merge_now merges a page that rests") {
    five_pages m(false);
    scanning<> s(m.memory, m.space);
    static_cast<void>(m.passes_merged(s, 128, 1));
    s.passes(1);
    REQUIRE_FALSE(m.share(0, 1));
    CHECK(s.scanner.merge_now(m.space, range(0, 3)).why == ksm::status::ok);
    CHECK(m.share(0, 1));
}

TEST_CASE("What a call merges obeys merge_across_nodes as soon as that is set") {
    machine m(4);
    for (std::uint64_t p = 0; p < 4; ++p) {
        m.write(p, 7);
    }
    REQUIRE(m.memory.set_node(m.space, range(2, 2), 1));
    bool const amid_a_pass = GENERATE(false, true);
    scanning<> s(m.memory, m.space);
    if (amid_a_pass) {
        s.passes(1);
        REQUIRE_FALSE(s.scanner.scan(pages(1)).pass_complete);
    } else {
        REQUIRE(s.scanner.merge_now(m.space, range(3, 1)).visited == pages(1));
    }
    REQUIRE(s.scanner.tune("merge_across_nodes", 0) == ksm::tunable_error::none);
    for (int n = 0; n < 3; ++n) {
        static_cast<void>(s.scanner.merge_now(m.space, range(0, 2)));
        s.passes(1);
        CHECK_FALSE(m.share(0, 2));
        CHECK_FALSE(m.share(0, 3));
    }
    CHECK(m.share(0, 1));
    CHECK(m.share(2, 3));
}

TEST_CASE("What runs short for one page is not short for all") {
    machine m(8);
    m.write(1, 1); // as page 0
    m.write(4, 0);
    m.write(7, 6 + 1);
    scanning<> s(m.memory, m.space);
    REQUIRE(s.scanner.tune("use_zero_pages", 1) == ksm::tunable_error::none);
    s.passes(1);
    m.memory.set_mapping_limit(0);
    CHECK(s.scanner.scan_pass().why == ksm::status::out_of_mappings);
    CHECK(m.memory.is_zero(m.space, at(4)));
    CHECK(s.statistics().full_scans == 2);
    s.check_books();
}

TEST_CASE(
    "Pages join frames where there are no frames to be had, and each pair is asked for once") {
    machine m(40);
    m.write(39, 38 + 1);
    scanning<> first(m.memory, m.space);
    first.passes(2);
    REQUIRE(m.share(38, 39));
    for (std::uint64_t p = 0; p < 20; ++p) {
        m.write(p, p / 2 + 100);
    }
    m.write(30, 38 + 1);
    m.memory.set_frame_limit(m.memory.frames_in_use());
    ksm::tracing_provider traced(m.memory);
    scanning<ksm::standard_policy, decltype(traced)> s(traced, m.space);
    static_cast<void>(s.scanner.scan_pass());
    traced.calls.clear();
    auto const r = s.scanner.scan_pass();
    CHECK(r.why == ksm::status::out_of_frames);
    CHECK(m.share(30, 38));
    CHECK(std::ranges::count(traced.calls, ksm::operation::promote, &ksm::traced_call::what) == 1);
    s.check_books();
}

TEST_CASE("merge_now visits no page outside its range") {
    machine m(64, {.page_size = 64, .change_tracking = false});
    auto const copy = m.memory.create_space();
    m.add_pages(copy, 64);
    scanning<> s(m.memory, m.space);
    REQUIRE(s.scanner.enter(copy) == ksm::status::ok);
    s.passes(1);
    REQUIRE(s.scanner.scan(pages(64)).visited == pages(64));
    CHECK(s.scanner.merge_now(copy, range(32, 1)).visited == pages(1));
    CHECK(m.memory.is_stable(copy, at(32)));
    CHECK_FALSE(m.memory.is_stable(copy, at(33)));
}

TEST_CASE("A pass says when mappings or frames ran out, and the next one tries again") {
    machine m(8);
    for (std::uint64_t p = 0; p < 8; ++p) {
        m.write(p, p / 2 + 1);
    }
    scanning<> s(m.memory, m.space);
    s.passes(1);
    bool const frames = GENERATE(false, true);
    if (frames) {
        m.memory.set_frame_limit(m.memory.frames_in_use());
    } else {
        m.memory.set_mapping_limit(0);
    }
    auto const r = s.scanner.scan_pass();
    CHECK(r.pass_complete);
    CHECK(r.why == (frames ? ksm::status::out_of_frames : ksm::status::out_of_mappings));
    CHECK(s.statistics().pages_shared == 0);
    s.check_books();
    m.memory.set_frame_limit(std::numeric_limits<std::size_t>::max());
    m.memory.set_mapping_limit(std::numeric_limits<std::size_t>::max());
    s.passes(2);
    CHECK(s.statistics().pages_sharing == 4);
}

TEST_CASE("I5: a waiting page that changes leaves the tree under the key that it entered with") {
    machine m(64, {.page_size = 64, .change_tracking = false});
    scanning<> s(m.memory, m.space);
    s.passes(2);
    REQUIRE(s.statistics().pages_unshared == 64);
    for (std::uint64_t p = 0; p < 64; p += 2) {
        m.write(p, 1000 + p);
    }
    s.passes(1);
    CHECK(s.statistics().pages_unshared == 32);
    s.passes(2);
    CHECK(s.statistics().pages_unshared == 64);
}
