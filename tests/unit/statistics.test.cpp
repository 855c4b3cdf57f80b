// SPDX-License-Identifier: BSL-1.0
#include <cstdint>

#include <ksm/scanner.hpp>
#include <ksm/statistics.hpp>

#include "support/catch.hpp"
#include "support/scanning.hpp"

using support::at;
using support::machine;
using support::range;
using support::scanning;

TEMPLATE_TEST_CASE("S14: the first page of a frame counts as shared, each further one as sharing",
                   "", ksm::standard_policy, ksm::classic_policy) {
    machine m(6);
    m.write(1, 1);
    m.write(2, 1);
    m.write(4, 4); // equal to page 3
    scanning<TestType> s(m.memory, m.space);
    s.passes(2);
    auto const now = s.statistics();
    CHECK(now.pages_shared == 2);
    CHECK(now.pages_sharing == 3);
    CHECK(now.pages_unshared == 1);
    CHECK(now.pages_volatile == 0);
    CHECK(now.rmap_items == 6);
    CHECK(now.full_scans == 2);
    CHECK(now.merged_pages_total >= 5);
}

TEST_CASE("S14: pages in no tree are volatile") {
    machine m(4);
    scanning<> s(m.memory, m.space);
    s.passes(1);
    CHECK(s.statistics().pages_volatile == 4);
    s.passes(1);
    CHECK(s.statistics().pages_volatile == 0);
    m.write(2, 99);
    s.passes(1);
    CHECK(s.statistics().pages_volatile == 1);
    CHECK(s.statistics().pages_unshared == 3);
}

TEMPLATE_TEST_CASE("M3.2: zero pages are replaced by the zero page and count on their own", "",
                   ksm::standard_policy, ksm::classic_policy) {
    machine m(6);
    for (std::uint64_t p = 0; p < 4; ++p) {
        m.write(p, 0);
    }
    scanning<TestType> s(m.memory, m.space);
    SECTION("not by default") {
        s.passes(2);
        CHECK(s.statistics().ksm_zero_pages == 0);
        CHECK(s.statistics().pages_sharing == 3);
    }
    SECTION("when use_zero_pages is 1") {
        REQUIRE(s.scanner.tune("use_zero_pages", 1) == ksm::tunable_error::none);
        s.passes(2);
        CHECK(s.statistics().ksm_zero_pages == 4);
        CHECK(s.statistics().pages_shared == 0);
        CHECK(s.scanner.statistics(m.space).ksm_zero_pages == 4);
        CHECK(m.memory.is_zero(m.space, at(3)));
        SECTION("until they are written") {
            m.write(0, 9);
            s.passes(1);
            CHECK(s.statistics().ksm_zero_pages == 3);
            CHECK(m.read(0) == 9);
        }
        SECTION("until they are unmerged") {
            CHECK(s.scanner.unmerge(m.space, range(0, 2)).why == ksm::status::ok);
            CHECK(s.statistics().ksm_zero_pages == 2);
            CHECK(m.memory.is_private(m.space, at(1)));
        }
        SECTION("and stay so when the switch goes back to 0, which affects later merges only") {
            REQUIRE(s.scanner.tune("use_zero_pages", 0) == ksm::tunable_error::none);
            m.write(4, 0);
            m.write(5, 0);
            s.passes(2);
            CHECK(s.statistics().ksm_zero_pages == 4);
            CHECK(s.statistics().pages_sharing == 1);
        }
    }
}

TEST_CASE("M3.2: a page that is zero but for its last byte is not a zero page") {
    machine m(1);
    m.write(0, 0);
    std::byte const last{1};
    REQUIRE(m.memory.write(m.space, at(0), m.memory.page_size() - 1, {&last, 1}));
    scanning<> s(m.memory, m.space);
    REQUIRE(s.scanner.tune("use_zero_pages", 1) == ksm::tunable_error::none);
    s.passes(2);
    CHECK(s.statistics().ksm_zero_pages == 0);
    CHECK(s.statistics().pages_unshared == 1);
}

TEST_CASE("M3.2: a zero page written during its merge keeps the store") {
    machine m(1);
    m.write(0, 0);
    scanning<> s(m.memory, m.space);
    REQUIRE(s.scanner.tune("use_zero_pages", 1) == ksm::tunable_error::none);
    s.passes(1);
    m.once_at(ksm::seam::merge_zero_compared, 0, [&] { m.write(0, 5); });
    s.passes(2);
    CHECK(m.acted);
    CHECK(m.read(0) == 5);
    CHECK(s.statistics().ksm_zero_pages == 0);
    CHECK(m.memory.verify().empty());
}

TEST_CASE("3.7: general_profit is what is saved less what the metadata takes") {
    machine m(64, {.page_size = 4096});
    for (std::uint64_t p = 0; p < 64; ++p) {
        m.write(p, p < 32 ? 0 : 1);
    }
    scanning<> s(m.memory, m.space);
    REQUIRE(s.scanner.tune("use_zero_pages", 1) == ksm::tunable_error::none);
    s.passes(2);
    auto const now = s.statistics();
    CHECK(now.ksm_zero_pages == 32);
    CHECK(now.pages_sharing == 31);
    CHECK(now.metadata_bytes == s.metadata.bytes());
    CHECK(now.general_profit == (32 + 31) * 4096 - static_cast<std::int64_t>(now.metadata_bytes));
}

TEST_CASE("3.7: a space's share counts the first mapping of a frame, too") {
    machine m(4);
    m.write(1, 1);
    auto const other = m.memory.create_space();
    m.add_pages(other, 1);
    scanning<> s(m.memory, m.space);
    REQUIRE(s.scanner.enter(other) == ksm::status::ok);
    s.passes(2);
    CHECK(s.scanner.statistics(m.space).ksm_merging_pages == 2);
    CHECK(s.scanner.statistics(m.space).rmap_items == 4);
    CHECK(s.scanner.statistics(other).ksm_merging_pages == 1);
    CHECK(s.scanner.statistics(m.memory.create_space()).rmap_items == 0);
}

TEST_CASE("3.7: by_status counts how promotions and merges ended") {
    machine m(2);
    m.write(1, 1);
    m.memory.lock(m.space, at(1));
    scanning<> s(m.memory, m.space);
    s.passes(2);
    auto const count = [&](ksm::status why) {
        return s.statistics().by_status[static_cast<std::size_t>(why)];
    };
    CHECK(count(ksm::status::busy) == 1);
    CHECK(count(ksm::status::ok) == 0);
    m.memory.unlock(m.space, at(1));
    s.passes(1);
    CHECK(count(ksm::status::ok) == 2);
}
