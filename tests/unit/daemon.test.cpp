// SPDX-License-Identifier: BSL-1.0
#include <array>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <thread>
#include <vector>

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
    bool wait_for(int n) {
        std::unique_lock lock(mutex_);
        return changed_.wait_for(lock, std::chrono::seconds(10), [&] { return count_ >= n; });
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

/// A space of equal pages that has entered a scanner.
struct scanned_pages {
    scanned_pages(std::size_t pages, std::uint64_t sleep_millisecs) {
        map_equal_pages(memory, space, pages);
        REQUIRE(scanner.enter(space) == ksm::status::ok);
        REQUIRE(scanner.tune("sleep_millisecs", sleep_millisecs) == ksm::tunable_error::none);
    }

    ksm::simulated_provider memory;
    ksm::space_id const space = memory.create_space();
    survey_counter surveys{memory};
    scanner_type scanner{memory};
};

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
    REQUIRE(surveys.wait_for(3));
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
    CHECK(surveys.wait_for(1));
}

TEST_CASE("S13: control operations get their turn from a daemon that never pauses") {
    scanned_pages w{64, 0};
    REQUIRE(w.scanner.tune("run", std::uint64_t{1}) == ksm::tunable_error::none);
    ksm::daemon daemon(w.scanner);
    for (int i = 0; i < 100; ++i) {
        daemon.control([](scanner_type&) {});
    }
    daemon.control([](scanner_type& s) {
        CHECK(s.tune("run", std::uint64_t{2}) == ksm::tunable_error::none);
        CHECK(s.statistics().pages_shared == 0);
    });
}

TEST_CASE("S13: a new value of a tunable ends the pause") {
    scanned_pages w{2, 3'600'000};
    REQUIRE(w.scanner.tune("run", std::uint64_t{1}) == ksm::tunable_error::none);
    ksm::daemon daemon(w.scanner);
    REQUIRE(w.surveys.wait_for(1));
    daemon.control([](scanner_type&) {}); // between two batches: the pause has begun
    daemon.control([](scanner_type& s) {
        REQUIRE(s.tune("sleep_millisecs", std::uint64_t{0}) == ksm::tunable_error::none);
    });
    CHECK(w.surveys.wait_for(3));
}

TEST_CASE("S13: destruction does not wait for the daemon's pause") {
    scanned_pages w{2, 3'600'000};
    {
        ksm::daemon daemon(w.scanner);
        daemon.control([](scanner_type& s) {
            REQUIRE(s.tune("run", std::uint64_t{1}) == ksm::tunable_error::none);
        });
        REQUIRE(w.surveys.wait_for(1));
    }
    SUCCEED();
}

TEST_CASE("a scan that is stopped in a survey takes no further step and begins anew later") {
    ksm::simulated_provider memory;
    ksm::space_id const space = memory.create_space();
    map_equal_pages(memory, space, 1000);
    for (std::uint64_t i = 0; i < 1000; i += 2) { // holes: the survey needs several calls
        memory.unmap(space, {ksm::page_number{i}, ksm::page_count{1}});
    }
    int surveys = 0;
    memory.on_seam = [&](ksm::seam s, ksm::space_id, ksm::page_number) {
        surveys += s == ksm::seam::survey_begin;
    };
    scanner_type scanner(memory);
    REQUIRE(scanner.enter(space) == ksm::status::ok);
    ksm::scan_result const r =
        scanner.scan(ksm::page_count{1000}, [&]() noexcept { return surveys == 2; });
    CHECK(surveys == 2);
    CHECK_FALSE(r.pass_complete);
    CHECK(r.visited == ksm::page_count{0});
    CHECK(scanner.statistics().full_scans == 0);
    for (int i = 0; i < 3; ++i) {
        CHECK(scanner.scan_pass().why == ksm::status::ok);
    }
    CHECK(scanner.statistics().pages_sharing == 499);
}

TEST_CASE("a scan that is stopped between visits goes on from there") {
    ksm::simulated_provider memory;
    ksm::space_id const space = memory.create_space();
    map_equal_pages(memory, space, 100);
    for (std::uint64_t i = 0; i < 100; ++i) { // no runs: each page is a visit
        std::array<std::byte, 1> const own{std::byte(static_cast<unsigned char>(i + 1))};
        REQUIRE(memory.write(space, ksm::page_number{i}, 0, own));
    }
    scanner_type scanner(memory);
    REQUIRE(scanner.enter(space) == ksm::status::ok);
    static_cast<void>(scanner.scan_pass());
    int asked = 0;
    ksm::scan_result const r =
        scanner.scan(ksm::page_count{1000}, [&]() noexcept { return ++asked > 20; });
    CHECK_FALSE(r.pass_complete);
    CHECK(r.visited < ksm::page_count{20});
    CHECK(r.visited + scanner.scan_pass().visited == ksm::page_count{100});
}

TEST_CASE("the daemon stops once, and control goes on to work") {
    ksm::simulated_provider memory;
    scanner_type scanner(memory);
    ksm::daemon daemon(scanner);
    daemon.stop();
    daemon.stop();
    CHECK(daemon.control([](scanner_type& s) { return s.statistics().full_scans; }) == 0);
}

namespace {

/// A clock that the provider's steps advance, and pauses that take no time.
struct fake_time {
    std::mutex mutex;
    std::condition_variable changed;
    std::chrono::nanoseconds used{0};
    std::chrono::nanoseconds paused{0};
    int pauses = 0;

    static constexpr int batches = 50;
    static constexpr int enough = 2 * batches; // its share, and its pace
    void wait_for_end() {
        std::unique_lock lock(mutex);
        REQUIRE(changed.wait_for(lock, std::chrono::seconds(10), [&] { return pauses == enough; }));
    }
};

struct fake_thread {
    struct starting {};
    struct working {};
    fake_time* time;

    static void begin() noexcept {}
    static bool in_forked_child() noexcept { return false; }
    std::chrono::nanoseconds cpu_time() noexcept { return time->used; }
    template <class Done>
    void pause(std::condition_variable& wake, std::unique_lock<std::mutex>& daemon_lock,
               std::chrono::nanoseconds t, Done done) {
        {
            std::lock_guard const lock(time->mutex);
            time->paused += t;
            ++time->pauses;
            time->changed.notify_all();
        }
        if (time->pauses == fake_time::enough) {
            wake.wait(daemon_lock, done);
        }
    }
};

} // namespace

TEST_CASE("the daemon keeps to its share of a core") {
    std::uint32_t const share = GENERATE(1U, 20U, 75U, 100U);
    std::uint64_t const rest = GENERATE(std::uint64_t{0}, std::uint64_t{20});
    fake_time time;
    ksm::simulated_provider memory;
    ksm::space_id const space = memory.create_space();
    map_equal_pages(memory, space, 8);
    memory.on_seam = [&](ksm::seam, ksm::space_id, ksm::page_number) {
        time.used += std::chrono::milliseconds{3};
    };
    scanner_type scanner(memory);
    REQUIRE(scanner.enter(space) == ksm::status::ok);
    REQUIRE(scanner.tune("sleep_millisecs", rest) == ksm::tunable_error::none);
    REQUIRE(scanner.tune("run", std::uint64_t{1}) == ksm::tunable_error::none);
    ksm::daemon<scanner_type, fake_thread> daemon(scanner, {share, {}}, {&time});
    time.wait_for_end();
    daemon.stop();
    CAPTURE(share, rest, time.used.count(), time.paused.count());
    CHECK(time.used > std::chrono::nanoseconds{0});
    CHECK(time.used * 100 <= share * (time.used + time.paused) + std::chrono::microseconds{1});
    if (rest == 0) { // and does not waste it
        CHECK((time.used + time.paused) * share <= time.used * 100);
    } else {
        CHECK(time.paused >= fake_time::batches * std::chrono::milliseconds{rest});
    }
}

TEST_CASE("S13: a pass takes as long as if every page were visited, be it unchanged") {
    fake_time time;
    ksm::simulated_provider memory;
    ksm::space_id const space = memory.create_space();
    map_equal_pages(memory, space, 1000);
    std::vector<std::chrono::nanoseconds> begins;
    memory.on_seam = [&](ksm::seam s, ksm::space_id, ksm::page_number) {
        if (s == ksm::seam::survey_begin) {
            begins.push_back(time.paused);
        }
    };
    scanner_type scanner(memory);
    REQUIRE(scanner.enter(space) == ksm::status::ok);
    REQUIRE(scanner.tune("run", std::uint64_t{1}) == ksm::tunable_error::none);
    ksm::daemon<scanner_type, fake_thread> daemon(scanner, {}, {&time});
    time.wait_for_end();
    daemon.stop();
    CHECK(scanner.statistics().pages_sharing == 999);
    CHECK(scanner.statistics().pages_scanned < 3000);
    REQUIRE(begins.size() > 5);
    for (std::size_t pass = 1; pass < begins.size(); ++pass) {
        CAPTURE(pass);
        CHECK(begins[pass] - begins[pass - 1] == std::chrono::milliseconds{1000 / 100 * 20});
    }
}
