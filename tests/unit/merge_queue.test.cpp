// SPDX-License-Identifier: BSL-1.0
// Short runs that wait for each other, where a provider prefers to merge many by one call.
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <ksm/providers/faulty.hpp>
#include <ksm/providers/simulated.hpp>
#include <ksm/providers/tracing.hpp>

#include "support/catch.hpp"
#include "support/scanning.hpp"

using support::at;
using support::machine;
using support::pages;
using support::scanning;

namespace {

/// Every second page holds the same.
struct scattered : machine {
    explicit scattered(std::size_t n) : machine(n, {.page_size = 64, .batches = true}), count(n) {
        for (std::uint64_t p = 0; p < n; p += 2) {
            write(p, 1000);
        }
    }
    [[nodiscard]] std::size_t sharing() const {
        std::size_t n = 0;
        for (std::uint64_t p = 2; p < count; p += 2) {
            n += share(0, p);
        }
        return n;
    }
    std::size_t count;
};

} // namespace

TEST_CASE("Scattered pages wait for each other and merge by one call") {
    scattered m(64);
    ksm::tracing_provider traced(m.memory);
    scanning<ksm::standard_policy, decltype(traced)> s(traced, m.space);
    s.passes(2);
    CHECK(m.sharing() == 31);
    // The first two make the frame. Then nothing is looked at between one merge and the next.
    auto const merges = [](ksm::traced_call const& c) { return c.what == ksm::operation::merge; };
    auto const pair = std::ranges::find_if(traced.calls, merges);
    auto const first = std::find_if(pair + 1, traced.calls.end(), merges);
    auto const last = std::find_if_not(first, traced.calls.end(), merges);
    CHECK(last - first == 30);
    CHECK(std::none_of(last, traced.calls.end(), merges));
}

TEST_CASE("More runs than a batch takes merge in several") {
    scattered m(400);
    scanning<> s(m.memory, m.space);
    s.passes(2);
    CHECK(m.sharing() == 199);
    CHECK(s.statistics().pages_sharing == 199);
}

TEST_CASE("A page that is written while it waits stays as it is, and is visited again") {
    scattered m(64);
    scanning<> s(m.memory, m.space);
    m.once_at(ksm::seam::view_page, 40, [&] { m.write(20, 1); });
    s.passes(2);
    REQUIRE(m.acted);
    CHECK(m.memory.is_private(m.space, at(20)));
    CHECK(m.read(20) == 1);
    CHECK(m.sharing() == 30);
    m.write(20, 1000);
    s.passes(2);
    CHECK(m.sharing() == 31);
}

TEST_CASE("A page that goes while it waits is forgotten") {
    scattered m(64);
    scanning<> s(m.memory, m.space);
    m.once_at(ksm::seam::view_page, 40, [&] { m.memory.unmap(m.space, support::range(20, 1)); });
    s.passes(2);
    REQUIRE(m.acted);
    CHECK(s.statistics().rmap_items == 63);
    CHECK(m.sharing() == 30);
}

TEST_CASE("A run that a batch leaves unfinished is finished in a later pass") {
    machine m(24, {.page_size = 64, .batches = true});
    for (std::uint64_t p = 0; p < 24; ++p) {
        m.write(p, 1000 + p % 8);
    }
    ksm::faulty_provider faulty(m.memory);
    // The first run of eight makes the frames; the last one is in a batch.
    faulty.add({ksm::operation::merge, 1, 1, ksm::status::busy, pages(3)});
    scanning<ksm::standard_policy, decltype(faulty)> s(faulty, m.space);
    s.passes(2);
    CHECK(faulty.failures() == 1);
    CHECK(s.statistics().pages_sharing == 11);
    s.passes(1);
    CHECK(s.statistics().pages_sharing == 16);
}

TEST_CASE("Waiting pages merge when a call ends, however few there are") {
    scattered m(64);
    scanning<> s(m.memory, m.space);
    s.passes(1);
    while (!s.scanner.scan(pages(1)).pass_complete) {
        s.check_books();
    }
    CHECK(m.sharing() == 31);
}

TEST_CASE("A pass says when mappings ran out in a batch") {
    scattered m(64);
    m.memory.set_mapping_limit(20);
    scanning<> s(m.memory, m.space);
    s.passes(1);
    CHECK(s.scanner.scan_pass().why == ksm::status::out_of_mappings);
    s.check_books();
    CHECK(m.sharing() == 9);
    m.memory.set_mapping_limit(1000);
    s.passes(2);
    CHECK(m.sharing() == 31);
}
