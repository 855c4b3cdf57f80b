// SPDX-License-Identifier: BSL-1.0
#include <string>

#include <ksm/format.hpp>

#include "../support/catch.hpp"

namespace {

TEST_CASE("enumerators print as their names") {
    CHECK(fmt::format("{}", ksm::status::out_of_frames) == "out_of_frames");
    CHECK(fmt::format("{}", ksm::page_state::unknown) == "unknown");
    CHECK(fmt::format("{}", ksm::page_state::written) == "written");
    CHECK(fmt::format("{}", ksm::page_state::merged) == "merged");
    CHECK(fmt::format("{}", ksm::page_state::zero) == "zero");
    CHECK(fmt::format("{}", ksm::page_state::gone) == "gone");
}

TEST_CASE("a value that is no enumerator prints as a question mark") {
    CHECK(fmt::format("{}", static_cast<ksm::status>(200)) == "?");
    CHECK(fmt::format("{}", static_cast<ksm::page_state>(200)) == "?");
}

TEST_CASE("counts and positions print as numbers, with the format of numbers") {
    CHECK(fmt::format("{:>4}", ksm::page_count{12}) == "  12");
    CHECK(fmt::format("{:#x}", ksm::page_number{0x7f00}) == "0x7f00");
    CHECK(fmt::format("{}", ksm::frame_id{7}) == "7");
}

TEST_CASE("names take the format of strings") {
    CHECK(fmt::format("[{:<6}]", ksm::status::ok) == "[ok    ]");
}

#ifdef __cpp_lib_format
TEST_CASE("std::format prints what fmt prints") {
    CHECK(std::format("{} {:>4} {:#x} {}", ksm::status::busy, ksm::page_count{12},
                      ksm::page_number{255}, ksm::page_state::gone) == "busy   12 0xff gone");
}
#endif

// What is not ours does not become printable by accident.
static_assert(!ksm::detail::printable<int>);
static_assert(!ksm::detail::printable<std::string>);
static_assert(!ksm::detail::printable<ksm::coverage>);

} // namespace
