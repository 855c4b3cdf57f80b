// SPDX-License-Identifier: BSL-1.0
#include <array>
#include <condition_variable>
#include <mutex>
#include <thread>

#include <ksm/daemon.hpp>
#include <ksm/providers/simulated.hpp>
#include <ksm/scanner.hpp>

#include "../support/catch.hpp"

namespace {

using scanner_type = ksm::scanner<ksm::simulated_provider>;

/// Counts the surveys that a daemon's thread makes, and lets a test wait for the next ones.
class survey_counter {
  public:
    explicit survey_counter(ksm::simulated_provider& p) {
        p.on_seam = [this](ksm::seam s, ksm::space_id, ksm::page_number) {
            if (s == ksm::seam::survey_begin) {
                std::lock_guard const lock(mutex_);
                ++count_;
                changed_.notify_all();
            }
        };
    }
    /// False when it takes more than ten seconds.
    bool wait_for_more(int n) {
        std::unique_lock lock(mutex_);
        int const target = count_ + n;
        return changed_.wait_for(lock, std::chrono::seconds(10), [&] { return count_ >= target; });
    }

  private:
    std::mutex mutex_;
    std::condition_variable changed_;
    int count_ = 0;
};

void map_equal_pages(ksm::simulated_provider& p, ksm::space_id s, std::size_t pages) {
    p.map(s, ksm::page_number{0}, ksm::page_count{pages});
    std::array<std::byte, 1> const content{std::byte{7}};
    for (std::size_t i = 0; i < pages; ++i) {
        REQUIRE(p.write(s, ksm::page_number{i}, 0, content));
    }
}

} // namespace

TEST_CASE("S13: the daemon merges by itself once it runs and a space has entered") {
    ksm::simulated_provider memory;
    ksm::space_id const space = memory.create_space();
    map_equal_pages(memory, space, 8);
    survey_counter surveys(memory);
    scanner_type scanner(memory);
    ksm::daemon daemon(scanner);
    daemon.control([&](scanner_type& s) {
        REQUIRE(s.enter(space) == ksm::status::ok);
        REQUIRE(s.tune("sleep_millisecs", std::uint64_t{0}) == ksm::tunable_error::none);
        REQUIRE(s.tune("run", std::uint64_t{1}) == ksm::tunable_error::none);
    });
    REQUIRE(surveys.wait_for_more(3));
    CHECK(daemon.control([](scanner_type& s) { return s.statistics().pages_sharing; }) == 7);
}

TEST_CASE("S13: a daemon with nothing to scan sleeps until a space enters") {
    ksm::simulated_provider memory;
    ksm::space_id const space = memory.create_space();
    map_equal_pages(memory, space, 2);
    survey_counter surveys(memory);
    scanner_type scanner(memory);
    REQUIRE(scanner.tune("run", std::uint64_t{1}) == ksm::tunable_error::none);
    ksm::daemon daemon(scanner);
    CHECK(daemon.control([](scanner_type& s) { return s.statistics().full_scans; }) == 0);
    daemon.control([&](scanner_type& s) { REQUIRE(s.enter(space) == ksm::status::ok); });
    CHECK(surveys.wait_for_more(1));
}

TEST_CASE("S13: control operations get their turn from a daemon that never pauses") {
    ksm::simulated_provider memory;
    ksm::space_id const space = memory.create_space();
    map_equal_pages(memory, space, 64);
    scanner_type scanner(memory);
    REQUIRE(scanner.enter(space) == ksm::status::ok);
    REQUIRE(scanner.tune("sleep_millisecs", std::uint64_t{0}) == ksm::tunable_error::none);
    REQUIRE(scanner.tune("run", std::uint64_t{1}) == ksm::tunable_error::none);
    ksm::daemon daemon(scanner);
    for (int i = 0; i < 100; ++i) {
        daemon.control([](scanner_type&) {});
    }
    daemon.control([](scanner_type& s) {
        CHECK(s.tune("run", std::uint64_t{2}) == ksm::tunable_error::none);
        CHECK(s.statistics().pages_shared == 0);
    });
}

TEST_CASE("S13: destruction does not wait for the daemon's pause") {
    ksm::simulated_provider memory;
    ksm::space_id const space = memory.create_space();
    map_equal_pages(memory, space, 2);
    survey_counter surveys(memory);
    scanner_type scanner(memory);
    REQUIRE(scanner.enter(space) == ksm::status::ok);
    REQUIRE(scanner.tune("sleep_millisecs", std::uint64_t{3'600'000}) == ksm::tunable_error::none);
    {
        ksm::daemon daemon(scanner);
        daemon.control([](scanner_type& s) {
            REQUIRE(s.tune("run", std::uint64_t{1}) == ksm::tunable_error::none);
        });
        REQUIRE(surveys.wait_for_more(1));
    }
    SUCCEED();
}
