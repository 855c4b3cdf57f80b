// SPDX-License-Identifier: BSL-1.0
#include <cstddef>
#include <vector>

#include <ksm/providers/linux/bit_row.hpp>
#include <ksm/providers/linux/frame_records.hpp>
#include <ksm/providers/linux/page_table.hpp>
#include <ksm/providers/linux/pagemap.hpp>

#include "../support/catch.hpp"

namespace {

using ksm::frame_id;
using ksm::page_number;
using ksm::detail::os::bit_row;
using ksm::detail::os::frame_chain;
using ksm::detail::os::frame_records;
using ksm::detail::os::frame_state;
using ksm::detail::os::page_entry;
using ksm::detail::os::page_table;
using ksm::detail::os::pagemap_entry;

constexpr frame_id f1{1};
constexpr frame_id f2{2};

struct records : frame_records {
    records() : frame_records(6) { REQUIRE(add_arena(64)); }
};

} // namespace

TEST_CASE("bit row: runs are found wherever they lie, as in a vector of bool") {
    std::uint64_t x = 1;
    for (std::size_t size : {1U, 63U, 64U, 65U, 200U}) {
        std::vector<std::uint64_t> words(bit_row::words_for(size));
        bit_row bits{words.data(), size};
        std::vector<bool> model(size);
        for (int step = 0; step < 400; ++step) {
            x = x * 6364136223846793005U + 1442695040888963407U;
            std::size_t const first = (x >> 33) % size;
            std::size_t const n = 1 + (x >> 45) % (size - first);
            bits.fill(first, n, step % 2 == 0);
            std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(first), n, step % 2 == 0);
            std::size_t const from = (x >> 20) % size;
            std::size_t const wanted = 1 + (x >> 50) % 70;
            std::size_t at = size;
            std::size_t most = 0;
            std::size_t length = 0;
            for (std::size_t i = from; i < size && at == size; ++i) {
                length = model[i] ? length + 1 : 0;
                most = std::max(most, length);
                at = length == wanted ? i + 1 - wanted : size;
            }
            bit_row::found const found = bits.find(from, wanted);
            REQUIRE(found.at == at);
            REQUIRE(found.most == most);
        }
    }
}

TEST_CASE("frame records: a frame is dead when it is released and no page is merged with it") {
    records r;
    page_table table{6, &r};
    r.make(f1, 1);
    auto const set = [&](std::uint64_t page, page_entry e) {
        REQUIRE(table.prepare(page_number{page}, 1, e));
        table.set(page_number{page}, 1, e);
    };
    set(10, page_entry::merged(f1));
    set(20, page_entry::merged(f1));
    set(20, page_entry::merged(f1)); // again: still one page
    SECTION("the engine first") {
        r.release(f1);
        CHECK(r.state(f1) == frame_state::released);
        set(10, page_entry::broken(f1));
        CHECK(r.state(f1) == frame_state::released);
        set(20, page_entry::home());
    }
    SECTION("the pages first") {
        set(10, page_entry::displaced(7));
        set(20, page_entry::zero());
        CHECK(r.state(f1) == frame_state::live);
        r.release(f1);
    }
    SECTION("one page moves on to another frame") {
        r.make(f2, 1);
        set(10, page_entry::merged(f2));
        r.release(f1);
        set(20, page_entry::merged(f2));
        CHECK(r.state(f2) == frame_state::live);
        CHECK(r.live() == 1);
    }
    CHECK(r.state(f1) == frame_state::dead);
    CHECK(r.dead() == 1);
    REQUIRE(r.found_dead());
    frame_chain chain = r.take_dead();
    CHECK(r.pop(chain) == f1);
    CHECK(chain.empty());
    CHECK_FALSE(r.found_dead());
}

TEST_CASE("frame records: a copy of a page that was broken counts for nothing") {
    records r;
    page_table table{6, &r};
    r.make(f1, 1);
    REQUIRE(table.prepare(page_number{5}, 1, page_entry::merged(f1)));
    table.set(page_number{5}, 1, page_entry::merged(f1));
    table.set(page_number{5}, 1, page_entry::broken(f1));
    r.release(f1);
    REQUIRE(r.state(f1) == frame_state::dead);
    CHECK(r.bring_back(f1));
    r.make(f1, 9); // another frame with its number
    table.set(page_number{5}, 1, page_entry::home());
    CHECK(r.state(f1) == frame_state::live);
    CHECK(r.birth(f1) == 9);
}

TEST_CASE("frame records: a stranded number is not used again, whatever its frame's state") {
    records r;
    r.make(f1, 3);
    r.make(f2, 3);
    r.strand(f1);
    CHECK(r.birth(f1) == 3);
    r.release(f1);
    r.release(f2);
    r.strand(f2);
    CHECK_FALSE(r.bring_back(f1));
    CHECK_FALSE(r.bring_back(f2));
    CHECK(r.live() == 0);
    CHECK(r.dead() == 0);
}

TEST_CASE("frame records: a frame that no canary watched never comes back") {
    records r;
    r.make(f1, 0);
    r.release(f1);
    CHECK(r.state(f1) == frame_state::dead);
    CHECK_FALSE(r.found_dead());
}

TEST_CASE("pagemap: a marker of write protection is no copy of a page") {
    constexpr auto bit = [](unsigned i) { return std::uint64_t{1} << i; };
    CHECK_FALSE(pagemap_entry{0}.broken());
    CHECK_FALSE(pagemap_entry{bit(63) | bit(61)}.broken()); // the frame, read
    CHECK(pagemap_entry{bit(63) | bit(56)}.broken());
    CHECK(pagemap_entry{bit(63) | bit(57)}.broken()); // the copy, protected
    CHECK(pagemap_entry{bit(62)}.broken());           // the copy, in swap
    CHECK_FALSE(pagemap_entry{bit(62) | bit(57)}.broken());
}
