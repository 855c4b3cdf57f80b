// SPDX-License-Identifier: BSL-1.0
// The footprint of what the scanner remembers, which is a promise of the library.
#include <cstdint>

#include <ksm/detail/page_index.hpp>

#include "support/catch.hpp"
#include "support/scanning.hpp"

using support::at;
using support::machine;
using support::pages;
using support::scanning;

namespace {

struct index_fixture {
    ksm::simulated_provider memory{{.page_size = 64}};
    support::failing_resource resource;
    ksm::detail::page_index<ksm::simulated_provider> index{memory, &resource, true, 1};
    ksm::detail::space* space =
        index.memory.create<ksm::detail::space>(ksm::space_id{}, index.memory, index.entries.items);

    index_fixture() {
        index.spaces.push_back(*space);
        REQUIRE(index.partitions.obtain(0, 0) != nullptr);
    }
    ksm::detail::rmap_item& track(std::uint64_t page) {
        auto& item = index.obtain_chunk(*space, at(page))->slots[page % 64];
        index.track(item);
        return item;
    }
};

} // namespace

TEST_CASE("At most 24 bytes are remembered of a page") {
    machine m(1024);
    scanning<> s(m.memory, m.space);
    s.passes(2);
    REQUIRE(s.statistics().pages_unshared == 1024);
    CHECK(s.statistics().metadata_bytes <= 1024 * 24);
}

TEST_CASE("A tracked page is found by its number, and forgotten with its chunk") {
    index_fixture f;
    auto& item = f.track(70);
    CHECK(f.index.find(*f.space, at(70)) == &item);
    CHECK(f.index.find(*f.space, at(71)) == nullptr);
    CHECK(ksm::detail::page_of(item) == at(70));
    CHECK(&ksm::detail::space_of(item) == f.space);
    CHECK(f.index.counters.rmap_items == 1);
    f.index.drop(item);
    CHECK(f.index.find(*f.space, at(70)) == nullptr);
    CHECK(f.index.counters.rmap_items == 0);
    CHECK(f.space->table.empty());
}

TEST_CASE("drop_range forgets exactly the pages of the range") {
    index_fixture f;
    for (std::uint64_t p = 0; p < 300; ++p) {
        f.track(p);
    }
    f.index.drop_range(*f.space, at(10), at(200));
    CHECK(f.index.counters.rmap_items == 110);
    CHECK(f.index.find(*f.space, at(9)) != nullptr);
    CHECK(f.index.find(*f.space, at(10)) == nullptr);
    CHECK(f.index.find(*f.space, at(199)) == nullptr);
    CHECK(f.index.find(*f.space, at(200)) != nullptr);
    f.index.drop_range(*f.space, at(5), at(5));
    CHECK(f.index.counters.rmap_items == 110);
    CHECK(f.space->chunks == 3);
}

TEST_CASE("S14: the last sharer of a frame takes the frame along") {
    index_fixture f;
    REQUIRE(f.memory.create_space() == f.space->id);
    REQUIRE(f.memory.map(f.space->id, at(0), pages(2)));
    auto const made = f.memory.promote(f.space->id, at(0), pages(1));
    REQUIRE(made.made.why == ksm::status::ok);
    REQUIRE(f.memory.merge(f.space->id, at(1), pages(1), made.first).why == ksm::status::ok);
    auto& partition = f.index.partitions[0];
    auto* const node = f.index.make_node(made.first, partition);
    REQUIRE(node != nullptr);
    CHECK(f.index.node_of(made.first) == nullptr); // it has no sharer yet
    partition.stable.insert_by_digest(*node);
    auto& a = f.track(0);
    auto& b = f.track(1);
    f.index.hang(a, *node);
    f.index.hang(b, *node);
    CHECK(f.index.node_of(made.first) == node);
    CHECK(f.index.counters.pages_shared == 1);
    CHECK(f.index.counters.pages_sharing == 1);
    f.index.detach(a);
    CHECK(f.index.counters.pages_sharing == 0);
    CHECK(f.memory.is_live(made.first));
    f.index.detach(b);
    CHECK(f.index.counters.pages_shared == 0);
    CHECK_FALSE(f.memory.is_live(made.first));
    CHECK(f.index.node_of(made.first) == nullptr);
}
