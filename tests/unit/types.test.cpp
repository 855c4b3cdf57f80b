// SPDX-License-Identifier: BSL-1.0
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <limits>

#include <ksm/types.hpp>

#include "../support/catch.hpp"

using namespace ksm;

// A byte count, a page count, a page and a frame are four things.
static_assert(!std::convertible_to<std::size_t, page_count>);
static_assert(!std::convertible_to<page_count, std::size_t>);
static_assert(!std::convertible_to<std::uint64_t, page_number>);
static_assert(!std::convertible_to<page_number, std::uint64_t>);
static_assert(!std::convertible_to<page_number, frame_id>);
static_assert(!std::constructible_from<frame_id, page_number>);
static_assert(!std::convertible_to<std::uint32_t, space_id>);
template <class A, class B>
concept can_add = requires(A a, B b) { a + b; };
template <class A, class B>
concept can_subtract = requires(A a, B b) { a - b; };
template <class A, class B>
concept can_compare = requires(A a, B b) { a < b; };
static_assert(can_add<page_number, page_count> && can_add<frame_id, page_count>);
static_assert(!can_add<page_number, page_number> && !can_add<page_count, page_number>);
static_assert(!can_add<page_number, std::size_t> && !can_add<page_count, std::size_t>);
static_assert(can_subtract<page_number, page_number> && !can_subtract<page_number, frame_id>);
static_assert(!can_compare<page_number, frame_id> && !can_compare<page_count, std::size_t>);
static_assert(std::is_trivially_copyable_v<page_range> && sizeof(page_number) == 8);

TEST_CASE("page counts add, subtract and compare") {
    page_count n{5};
    CHECK((n + page_count{2}).value() == 7);
    CHECK((n - page_count{2}).value() == 3);
    CHECK(page_count{2} < n);
    CHECK((n += page_count{3}) == page_count{8});
    CHECK((n -= page_count{1}).value() == 7);
    CHECK(page_count{}.value() == 0);
}

TEST_CASE("a position plus a distance is a position, and back") {
    page_number const a{100};
    page_number b = a;
    b += page_count{11};
    CHECK(b == a + page_count{11});
    CHECK((b - a).value() == 11);
    CHECK(a < b);
    CHECK(b.value() == 111);
    CHECK(frame_id{}.value() == 0);
}

TEST_CASE("a range contains its first page, and not its end") {
    page_range const r{page_number{10}, page_count{3}};
    CHECK(r.end() == page_number{13});
    CHECK_FALSE(r.contains(page_number{9}));
    CHECK(r.contains(page_number{10}));
    CHECK(r.contains(page_number{12}));
    CHECK_FALSE(r.contains(page_number{13}));
    CHECK_FALSE(page_range{page_number{10}, page_count{}}.contains(page_number{10}));
    CHECK(r == page_range{page_number{10}, page_count{3}});
    CHECK_FALSE(r == page_range{page_number{10}, page_count{4}});
}

TEST_CASE("a range that would go on behind the last page ends there") {
    ksm::page_range const r{ksm::page_number{7},
                            ksm::page_count{std::numeric_limits<std::size_t>::max()}};
    CHECK(r.end() == ksm::page_number{std::numeric_limits<std::uint64_t>::max()});
    CHECK(r.contains(ksm::page_number{8}));
}

TEST_CASE("a set has the pages of its mask, counted from its first one") {
    page_set const s{page_number{10}, 0b1'0110'0001};
    CHECK(s.count() == page_count{4});
    CHECK(s.span() == page_count{9});
    CHECK(s.without(page_count{0}) == s);
    CHECK(s.without(page_count{1}) == page_set{page_number{15}, 0b1011});
    CHECK(s.without(page_count{3}) == page_set{page_number{18}, 1});
    CHECK(s.without(page_count{4}).empty());
    CHECK(s.lowest(page_count{2}) == page_set{page_number{10}, 0b10'0001});
    CHECK(s.lowest(page_count{3}) == page_set{page_number{10}, 0b110'0001});
    CHECK(s.lowest(page_count{4}) == s);
    CHECK(s.lowest(page_count{0}).empty());
    CHECK(page_set{}.empty());
}

TEST_CASE("a run of up to 64 pages is a set") {
    CHECK(page_set::run(page_number{3}, page_count{5}) == page_set{page_number{3}, 0b1'1111});
    CHECK(page_set::run(page_number{3}, page_count{64}).count() == page_count{64});
    CHECK(page_set::run(page_number{3}, page_count{0}).empty());
    CHECK(page_set::run(page_number{3}, page_count{64}).without(page_count{63}) ==
          page_set{page_number{66}, 1});
}
