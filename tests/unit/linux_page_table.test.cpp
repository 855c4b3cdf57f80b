// SPDX-License-Identifier: BSL-1.0
#include <cstddef>

#include <ksm/providers/linux/page_table.hpp>

#include "../support/catch.hpp"

namespace {

using ksm::frame_id;
using ksm::page_count;
using ksm::page_number;
using ksm::detail::os::backing;
using ksm::detail::os::page_entry;
using ksm::detail::os::page_table;

void put(page_table& table, std::uint64_t first, std::size_t pages, page_entry entry) {
    REQUIRE(table.prepare(page_number{first}, pages, entry));
    table.set(page_number{first}, pages, entry);
}

} // namespace

TEST_CASE("page table: pages without an entry are home") {
    page_table const table(14);
    CHECK(table.at(page_number{123}).is_home());
    CHECK(table.row(page_number{123}) == nullptr);
    CHECK(table.mappings() == 0);
}

TEST_CASE("page table: a run maps consecutive frames") {
    page_table table(14);
    put(table, 1000, 100, page_entry::merged(frame_id{500})); // across two rows
    CHECK(table.at(page_number{999}).is_home());
    CHECK(table.at(page_number{1000}).frame() == frame_id{500});
    CHECK(table.at(page_number{1024}).frame() == frame_id{524});
    CHECK(table.at(page_number{1099}).frame() == frame_id{599});
    CHECK(table.at(page_number{1100}).is_home());
    CHECK(table.mappings() == 2);
}

TEST_CASE("page table: frames that are close together take two bytes a page") {
    page_table table(14);
    put(table, 0, page_table::row_pages, page_entry::merged(frame_id{3}));
    std::size_t const narrow = table.bytes();
    put(table, 5, 1, page_entry::merged(frame_id{1U << 20U}));
    CHECK(table.bytes() - narrow == 2 * page_table::row_pages);
}

TEST_CASE("page table: entries of every kind survive when a row becomes wide") {
    page_table table(14);
    put(table, 0, 1, page_entry::zero());
    put(table, 1, 2, page_entry::merged(frame_id{16383}).advanced(0));
    put(table, 4, 1, page_entry::displaced(77));
    put(table, 6, 1, page_entry::merged(frame_id{9}));
    table.set(page_number{6}, 1, page_entry::broken(frame_id{9}));
    put(table, 8, 1, page_entry::displaced(5U << 20U));
    CHECK(table.at(page_number{0}).kind() == backing::zero);
    CHECK(table.at(page_number{1}).frame() == frame_id{16383});
    CHECK(table.at(page_number{2}).frame() == frame_id{16384});
    CHECK(table.at(page_number{3}).is_home());
    CHECK(table.at(page_number{4}) == page_entry::displaced(77));
    CHECK(table.at(page_number{6}) == page_entry::broken(frame_id{9}));
    CHECK(table.at(page_number{8}) == page_entry::displaced(5U << 20U));
}

TEST_CASE("page table: an empty row takes any frames anew, and its memory can be given back") {
    page_table table(14);
    put(table, 0, 10, page_entry::merged(frame_id{1}));
    std::size_t const narrow = table.bytes();
    table.set(page_number{0}, 10, page_entry::home());
    put(table, 0, 10, page_entry::merged(frame_id{7U << 14U}));
    CHECK(table.bytes() == narrow);
    CHECK(table.at(page_number{9}).frame() == frame_id{(7U << 14U) + 9});
    table.set(page_number{0}, 10, page_entry::home());
    table.trim(page_number{0}, 10);
    CHECK(table.bytes() < narrow);
    CHECK(table.mappings() == 0);
}

TEST_CASE("page table: a run across windows of frames is kept whole, also in an empty row") {
    page_table table(16);
    for (int round = 0; round < 2; ++round) {
        put(table, 0, 8, page_entry::merged(frame_id{16380}));
        for (std::uint64_t i = 0; i < 8; ++i) {
            CHECK(table.at(page_number{i}).frame() == frame_id{16380 + i});
        }
        table.set(page_number{0}, 8, page_entry::home());
    }
}

TEST_CASE("page table: broken pages are found in address order, run by run") {
    page_table table(14);
    using ksm::page_range;
    auto const find = [&](std::uint64_t from, std::size_t most = 100) {
        return table.broken_at_or_after(page_number{from}, most);
    };
    CHECK(find(0).count == page_count{0});
    put(table, 1000, 100, page_entry::merged(frame_id{500})); // across two rows
    put(table, 9000, 1, page_entry::merged(frame_id{3}));
    CHECK(find(0).count == page_count{0});
    for (std::uint64_t i = 1020; i < 1030; ++i) {
        table.set(page_number{i}, 1, page_entry::broken(table.at(page_number{i}).frame()));
    }
    table.set(page_number{9000}, 1, page_entry::broken(frame_id{3}));
    CHECK(find(0) == page_range{page_number{1020}, page_count{4}}); // to the end of the row
    CHECK(find(0, 3) == page_range{page_number{1020}, page_count{3}});
    CHECK(find(1022) == page_range{page_number{1022}, page_count{2}});
    CHECK(find(1024) == page_range{page_number{1024}, page_count{6}});
    CHECK(find(1030) == page_range{page_number{9000}, page_count{1}});
    CHECK(find(9001).count == page_count{0});
    table.set(page_number{1020}, 10, page_entry::home());
    CHECK(find(0) == page_range{page_number{9000}, page_count{1}});
}

TEST_CASE("page table: a block is entered once while its pages are merged, or stay given back") {
    page_table table(14);
    put(table, 0, 1, page_entry::zero());
    CHECK(table.enter_block(page_number{0}));
    CHECK_FALSE(table.enter_block(page_number{page_table::block_pages - 1}));
    CHECK(table.enter_block(page_number{page_table::block_pages}));
    put(table, 1, 1, page_entry::merged(frame_id{3}));
    table.set(page_number{1}, 1, page_entry::home());
    CHECK_FALSE(table.enter_block(page_number{1}));
    table.set(page_number{0}, 1, page_entry::home());
    CHECK(table.enter_block(page_number{1}));
}
