// SPDX-License-Identifier: BSL-1.0
#include <cstddef>
#include <cstdint>
#include <vector>

#include <ksm/detail/forest.hpp>
#include <ksm/detail/space.hpp>

#include "support/catch.hpp"
#include "support/memory.hpp"

using ksm::detail::forest;
using ksm::detail::item_directory;
using ksm::detail::metadata_memory;
using ksm::detail::rmap_item;
using ksm::detail::rmap_table;

namespace {

struct grove {
    explicit grove(bool grows = true) : trees(memory, directory, grows) {}

    rmap_item& make(std::uint64_t digest) {
        std::uint64_t const n = items.size();
        items.push_back(&table.obtain(n)->slots[n % 64]);
        items.back()->set_digest(digest);
        return *items.back();
    }
    rmap_item& add(std::uint64_t digest) {
        rmap_item& item = make(digest);
        trees.insert_by_digest(item);
        return item;
    }
    [[nodiscard]] bool ordered() {
        std::uint64_t last = 0;
        std::size_t n = 0;
        bool ascends = true;
        trees.for_each([&](rmap_item& item) {
            ascends = ascends && item.digest() >= last;
            last = item.digest();
            ++n;
        });
        return ascends && n == trees.size();
    }

    support::failing_resource resource;
    metadata_memory memory{&resource};
    support::failing_resource items_resource;
    metadata_memory items_memory{&items_resource};
    item_directory directory{items_memory};
    rmap_table table{items_memory, directory};
    std::vector<rmap_item*> items;
    forest<item_directory> trees;
};

// Spread over the whole width, the same on every machine.
[[nodiscard]] std::uint64_t digest_number(std::uint64_t n) {
    return (n * 0x9E3779B97F4A7C15U) >> (64U - ksm::digest_bits);
}

} // namespace

TEST_CASE("A forest grows and shrinks with its entries and stays in order") {
    grove g;
    for (std::uint64_t n = 0; n < 1000; ++n) {
        g.add(digest_number(n));
    }
    CHECK(g.trees.trees() == 256);
    CHECK(g.ordered());
    for (std::uint64_t n = 0; n < 1000; ++n) {
        CHECK(g.trees.first_with(digest_number(n)) == g.items[n]);
    }
    for (std::uint64_t n = 0; n < 990; ++n) {
        g.trees.erase(*g.items[n]);
        CHECK(g.trees.first_with(digest_number(n)) == nullptr);
    }
    CHECK(g.trees.trees() <= 8);
    CHECK(g.ordered());
    CHECK(g.trees.first_with(digest_number(995)) == g.items[995]);
}

TEST_CASE("A forest that must not grow is one tree and takes no memory") {
    grove g(false);
    for (std::uint64_t n = 0; n < 1000; ++n) {
        g.add(digest_number(n));
    }
    CHECK(g.trees.trees() == 1);
    CHECK(g.resource.bytes() == 0);
    CHECK(g.ordered());
}

TEST_CASE("S21: a forest without memory stays as it is and works on") {
    grove g;
    g.resource.fail(1);
    for (std::uint64_t n = 0; n < 1000; ++n) {
        g.add(digest_number(n));
    }
    CHECK(g.trees.trees() == 2);
    CHECK(g.ordered());
    CHECK(g.trees.first_with(digest_number(500)) == g.items[500]);
}

TEST_CASE("Entries of one digest stand side by side, in the order in which they came") {
    grove g;
    for (std::uint64_t n = 0; n < 100; ++n) {
        g.add(digest_number(n));
    }
    rmap_item& first = g.add(77);
    rmap_item& second = g.add(77);
    rmap_item& third = g.add(77);
    CHECK(g.trees.first_with(77) == &first);
    CHECK(g.trees.next_with_same(first) == &second);
    CHECK(g.trees.next_with_same(second) == &third);
    CHECK(g.trees.next_with_same(third) == nullptr);
}

TEST_CASE("A search by order makes one comparison a level and says where to insert") {
    grove g(false);
    for (std::uint64_t n = 0; n < 1023; ++n) {
        ksm::detail::forest_spot where;
        int comparisons = 0;
        auto* const found = g.trees.find(
            0,
            [&](rmap_item& e) {
                ++comparisons;
                return digest_number(n) <=> e.digest();
            },
            where);
        REQUIRE(found == nullptr);
        CHECK(comparisons <= 20); // a red-black tree: at most twice the logarithm
        g.trees.insert_at(g.make(digest_number(n)), where);
    }
    CHECK(g.ordered());
}

TEST_CASE("Clearing hands every entry out") {
    grove g;
    for (std::uint64_t n = 0; n < 100; ++n) {
        g.add(digest_number(n));
    }
    std::size_t n = 0;
    g.trees.clear([&](rmap_item&) { ++n; });
    CHECK(n == 100);
    CHECK(g.trees.size() == 0);
    CHECK(g.trees.first_with(digest_number(1)) == nullptr);
}
