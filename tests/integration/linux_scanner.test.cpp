// SPDX-License-Identifier: BSL-1.0
#include <atomic>
#include <set>
#include <thread>

#include <ksm/scanner.hpp>

#include "linux_support.hpp"

using namespace linux_test;

TEST_CASE("the engine merges settled memory of the process and gives it back", "[linux]") {
    linux_options const options = GENERATE(quiescent(), by_mprotect());
    linux_provider p{options};
    memory m{p, 4096};
    std::set<std::uint64_t> distinct;
    auto const seed = [](std::size_t i) { return (i / 64) * 37 % 29 * 64 + i % 64; };
    for (std::size_t i = 0; i < m.size(); ++i) {
        distinct.insert(seed(i));
        m.fill(i, seed(i));
    }
    std::size_t const duplicates = m.size() - distinct.size();
    std::size_t const before = memory_use();
    scanner engine{p};
    REQUIRE(engine.enter(p.space()) == status::ok);
    for (int pass = 0; pass < 4; ++pass) {
        CHECK(engine.scan_pass().why == status::ok);
    }
    CHECK(engine.statistics().pages_sharing >= duplicates * 9 / 10);
    if (pss_is_ours) {
        CHECK(before - memory_use() >= duplicates * p.page_size() * 9 / 10);
    }
    CHECK(p.usage().metadata_bytes <=
          4 * m.size() + 9 * p.page_size() + detail::os::pagemap::buffer_bytes());
    bool equal = true;
    for (std::size_t i = 0; i < m.size(); ++i) {
        equal = equal && m.holds(i, seed(i));
    }
    CHECK(equal);
    REQUIRE(engine.unmerge_all() == status::ok);
    CHECK(engine.statistics().pages_sharing == 0);
    CHECK(p.usage().frames_live == 0);
    for (std::size_t i = 0; i < m.size(); ++i) {
        equal = equal && m.holds(i, seed(i)) && is_private(p, m.page(i));
    }
    CHECK(equal);
}

TEST_CASE("the engine stops at the budget of mappings and says so", "[linux]") {
    linux_options options = quiescent();
    options.max_mappings = 50;
    linux_provider p{options};
    memory m{p, 1000};
    // Runs of sixteen equal pages with another one between them.
    auto const seed = [](std::size_t i) { return i % 17 == 16 ? i : i % 17; };
    for (std::size_t i = 0; i < m.size(); ++i) {
        m.fill(i, seed(i));
    }
    scanner engine{p};
    REQUIRE(engine.enter(p.space()) == status::ok);
    bool stopped = false;
    for (int pass = 0; pass < 4; ++pass) {
        stopped = engine.scan_pass().why == status::out_of_mappings || stopped;
    }
    CHECK(stopped);
    CHECK(p.usage().mappings_used <= 50);
    CHECK(p.usage().mappings_used >= 40);
    for (std::size_t i = 0; i < m.size(); ++i) {
        REQUIRE(m.holds(i, seed(i)));
    }
}

TEST_CASE("what a second thread has kept from merging merges when it has ended", "[linux]") {
    CHECK(in_child([] {
              linux_options o;
              o.strategy = write_exclusion::quiescent;
              o.no_pinned_io = true;
              linux_provider p{o};
              memory m{p, 20};
              for (std::size_t i = 0; i < 20; ++i) {
                  m.fill(i, i % 2);
              }
              scanner s{p};
              static_cast<void>(s.enter(p.space()));
              std::atomic<bool> end{false};
              std::thread other{[&] { end.wait(false); }};
              for (int pass = 0; pass < 3; ++pass) {
                  static_cast<void>(s.scan_pass());
              }
              bool const refused = s.statistics().pages_shared == 0;
              end = true;
              end.notify_one();
              other.join();
              while (p.capabilities().strategy == write_exclusion::off) { // the kernel is late
              }
              for (int pass = 0; pass < 3; ++pass) {
                  static_cast<void>(s.scan_pass());
              }
              return refused && s.statistics().pages_sharing == 18 ? 0 : 1;
          }) == 0);
}

TEST_CASE("the engine passes by single pages when mappings are scarce, and merges a run",
          "[linux]") {
    linux_options options = quiescent();
    options.max_mappings = 80;
    linux_provider p{options};
    memory m{p, 1064};
    auto const seed = [](std::size_t i) -> std::size_t {
        return i >= 1000 ? 2000 + i % 32 : i % 2 == 0 ? 0 : i;
    };
    for (std::size_t i = 0; i < m.size(); ++i) {
        m.fill(i, seed(i));
    }
    scanner engine{p};
    REQUIRE(engine.enter(p.space()) == status::ok);
    for (int pass = 0; pass < 4; ++pass) {
        CHECK(engine.scan_pass().why == status::ok);
    }
    CHECK(p.usage().mappings_used >= 40);
    CHECK(p.usage().mappings_used <= 50);
    CHECK(look(p, m.page(1040)).state == page_state::merged);
    CHECK(look(p, m.page(900)).state != page_state::merged);
    for (std::size_t i = 0; i < m.size(); ++i) {
        REQUIRE(m.holds(i, seed(i)));
    }
}

TEST_CASE("the engine loses no store of a writer that goes on", "[linux]") {
    linux_provider p{by_mprotect()};
    memory m{p, 512};
    for (std::size_t i = 0; i < m.size(); ++i) {
        m.fill(i, i % 8);
    }
    std::atomic<bool> stop{false};
    std::vector<std::uint64_t> mine(m.size(), 0);
    std::uint64_t wrong = 0;
    std::thread writer{[&] {
        std::uint64_t x = 1;
        for (std::uint64_t k = 0; !stop.load(std::memory_order_relaxed); ++k) {
            x = x * 6364136223846793005U + 1442695040888963407U;
            std::size_t const i = (x >> 33) % 16 * 32; // sixteen pages that never settle for long
            auto* const c = reinterpret_cast<std::uint64_t volatile*>(m.at(i));
            wrong += mine[i] != 0 && *c != mine[i];
            *c = mine[i] = 1 + k % 4;
            if (k % 32 == 0) {
                ::usleep(20);
            }
        }
    }};
    scanner engine{p};
    REQUIRE(engine.enter(p.space()) == status::ok);
    for (int pass = 0; pass < 300; ++pass) {
        static_cast<void>(engine.scan_pass());
    }
    stop = true;
    writer.join();
    CHECK(wrong == 0);
    for (std::size_t i = 0; i < m.size(); ++i) {
        if (mine[i] != 0) {
            CHECK(*reinterpret_cast<std::uint64_t volatile*>(m.at(i)) == mine[i]);
        } else {
            CHECK(m.holds(i, i % 8));
        }
    }
    CHECK(engine.statistics().pages_sharing >= 440);
}
