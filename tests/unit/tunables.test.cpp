// SPDX-License-Identifier: BSL-1.0
#include <cstdint>
#include <string_view>

#include <ksm/scanner.hpp>
#include <ksm/tunables.hpp>

#include "support/catch.hpp"
#include "support/scanning.hpp"

using ksm::tunable_error;
using namespace std::string_view_literals;

TEST_CASE("S22: tunables start with the kernel's defaults") {
    ksm::tunables const t;
    CHECK(t.run == ksm::run_state::stop);
    CHECK(t.pages_to_scan == 100);
    CHECK(t.sleep_millisecs == 20);
    CHECK_FALSE(t.use_zero_pages);
    CHECK(t.merge_across_nodes);
}

TEST_CASE("S22: a valid value is taken, as a number and as text") {
    support::machine m;
    support::scanning<> s(m.memory, m.space);
    CHECK(s.scanner.tune("pages_to_scan", 4294967295U) == tunable_error::none);
    CHECK(s.scanner.tunables().pages_to_scan == 4294967295U);
    CHECK(s.scanner.tune("sleep_millisecs", "0\n"sv) == tunable_error::none);
    CHECK(s.scanner.tunables().sleep_millisecs == 0);
    CHECK(s.scanner.tune("use_zero_pages", "1"sv) == tunable_error::none);
    CHECK(s.scanner.tunables().use_zero_pages);
    CHECK(s.scanner.tune("run", "1"sv) == tunable_error::none);
    CHECK(s.scanner.tunables().run == ksm::run_state::run);
}

TEST_CASE("S22: what is not a number, too large or out of range is refused and changes nothing") {
    support::machine m;
    support::scanning<> s(m.memory, m.space);
    for (auto const text : {""sv, "\n"sv, "x"sv, "1x"sv, " 1"sv, "-1"sv, "1\n\n"sv, "0x10"sv}) {
        CAPTURE(text);
        CHECK(s.scanner.tune("pages_to_scan", text) == tunable_error::not_a_number);
    }
    CHECK(s.scanner.tune("pages_to_scan", "18446744073709551616"sv) == tunable_error::out_of_range);
    CHECK(s.scanner.tune("pages_to_scan", 4294967296U) == tunable_error::out_of_range);
    CHECK(s.scanner.tune("sleep_millisecs", 4294967296U) == tunable_error::out_of_range);
    CHECK(s.scanner.tune("run", 3) == tunable_error::out_of_range);
    CHECK(s.scanner.tune("use_zero_pages", 2) == tunable_error::out_of_range);
    CHECK(s.scanner.tune("merge_across_nodes", 2) == tunable_error::out_of_range);
    CHECK(s.scanner.tunables().pages_to_scan == 100);
    CHECK(s.scanner.tunables().run == ksm::run_state::stop);
}

TEST_CASE("S22: statistics are read-only, and unknown names are refused") {
    support::machine m;
    support::scanning<> s(m.memory, m.space);
    CHECK(s.scanner.tune("full_scans", 1) == tunable_error::unknown_name);
    CHECK(s.scanner.tune("", 1) == tunable_error::unknown_name);
}

TEST_CASE("S22: merge_across_nodes may be set to what it is also while pages are shared") {
    support::machine m(2);
    m.write(1, 1);
    support::scanning<> s(m.memory, m.space);
    s.passes(2);
    REQUIRE(s.statistics().pages_shared == 1);
    CHECK(s.scanner.tune("merge_across_nodes", 1) == tunable_error::none);
    CHECK(s.scanner.tune("merge_across_nodes", 0) == tunable_error::busy);
    CHECK(s.scanner.tunables().merge_across_nodes);
}
