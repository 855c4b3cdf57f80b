// SPDX-License-Identifier: BSL-1.0
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include <ksm/detail/chunk_table.hpp>
#include <ksm/detail/entry.hpp>
#include <ksm/detail/page_index.hpp>

#include "support/catch.hpp"
#include "support/memory.hpp"

using ksm::detail::metadata_memory;
using table = ksm::detail::chunk_table<ksm::detail::rmap_item, 64, ksm::detail::no_header>;

namespace {

struct fixture {
    support::failing_resource resource;
    support::failing_resource directory_resource;
    metadata_memory memory{&resource};
    metadata_memory directory_memory{&directory_resource};
    table::directory_type directory{directory_memory};
    table chunks{memory, directory};
};

} // namespace

TEST_CASE("A slot knows its number from its own address") {
    fixture f;
    for (std::uint64_t const n :
         {std::uint64_t{0}, std::uint64_t{63}, std::uint64_t{64}, std::uint64_t{1} << 50U,
          std::numeric_limits<std::uint64_t>::max()}) {
        auto* const c = f.chunks.obtain(n);
        REQUIRE(c != nullptr);
        CHECK(table::chunk_type::number_of(c->slots[n % 64]) == n);
        CHECK(&table::chunk_type::of(c->slots[n % 64]) == c);
        CHECK(f.chunks.find(n) == c);
    }
}

TEST_CASE("Chunks are found by number, in order, and gone after their removal") {
    fixture f;
    CHECK(f.chunks.find(5) == nullptr);
    CHECK(f.chunks.at_or_after(0) == nullptr);
    auto* const second = f.chunks.obtain(128);
    auto* const first = f.chunks.obtain(3);
    auto* const third = f.chunks.obtain(1000);
    CHECK(f.chunks.at_or_after(0) == first);
    CHECK(f.chunks.at_or_after(64) == second);
    CHECK(f.chunks.after(*first) == second);
    CHECK(f.chunks.after(*second) == third);
    CHECK(f.chunks.after(*third) == nullptr);
    CHECK(f.chunks.find(191) == second);
    CHECK(f.chunks.find(192) == nullptr); // right behind the chunk of the last answer
    f.chunks.remove(*second);
    CHECK(f.chunks.find(128) == nullptr);
    CHECK(f.chunks.after(*first) == third);
    f.chunks.remove(*first);
    f.chunks.remove(*third);
    CHECK(f.chunks.empty());
    CHECK(f.resource.bytes() == 0);
}

TEST_CASE("S21: a chunk without memory is null, and the table stays as it was") {
    fixture f;
    auto* const first = f.chunks.obtain(0);
    f.resource.fail(0);
    CHECK(f.chunks.obtain(64) == nullptr);
    CHECK(f.chunks.find(64) == nullptr);
    CHECK(f.chunks.obtain(1) == first);
}

TEST_CASE("S21: a chunk whose slots cannot be numbered is null, and takes no memory") {
    fixture f;
    f.directory_resource.fail(0);
    CHECK(f.chunks.obtain(64) == nullptr);
    CHECK(f.resource.bytes() == 0);
    f.directory_resource.succeed();
    CHECK(f.chunks.obtain(64) != nullptr);
}

TEST_CASE("A slot is found by its number in the directory, wherever its chunk is") {
    fixture f;
    table others{f.memory, f.directory};
    std::vector<std::pair<ksm::detail::entry_number, ksm::detail::rmap_item*>> slots;
    for (std::uint64_t n = 0; n < 100; ++n) {
        table& t = n % 2 == 0 ? f.chunks : others;
        auto& slot = t.obtain(n * 1000)->slots[n * 1000 % 64];
        slots.emplace_back(f.directory.number_of(slot), &slot);
        CHECK(slots.back().first != ksm::detail::no_entry);
    }
    for (auto const& [number, slot] : slots) {
        CHECK(&f.directory[number] == slot);
    }
}

TEST_CASE("Numbers of chunks that are gone are given again") {
    fixture f;
    REQUIRE(f.chunks.obtain(0) != nullptr);
    auto* const gone = f.chunks.obtain(64);
    REQUIRE(gone != nullptr);
    auto const number = f.directory.number_of(gone->slots[0]);
    std::size_t const bytes = f.directory_resource.bytes();
    f.chunks.remove(*gone);
    for (int i = 0; i < 100; ++i) {
        auto* const c = f.chunks.obtain(6400);
        CHECK(f.directory.number_of(c->slots[0]) == number);
        f.chunks.remove(*c);
    }
    CHECK(f.directory_resource.bytes() == bytes);
}
