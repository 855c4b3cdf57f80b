// SPDX-License-Identifier: BSL-1.0
#include <cstdint>

#include <ksm/providers/linux/window_log.hpp>

#include "../support/catch.hpp"

using ksm::detail::os::window_log;

TEST_CASE("a log without windows says nothing of their length") {
    window_log const log;
    CHECK(log.totals().p99_ns == 0);
    CHECK(log.totals().longest_ns == 0);
}

TEST_CASE("one long window in a hundred is not the p99") {
    window_log log;
    for (int i = 0; i < 99; ++i) {
        log.opened(10'000);
    }
    log.opened(5'000'000);
    CHECK(log.totals().longest_ns == 5'000'000);
    CHECK(log.totals().p99_ns >= 10'000);
    CHECK(log.totals().p99_ns <= 12'500);
    CHECK(log.totals().total_ns == 99 * 10'000 + 5'000'000);
}

TEST_CASE("two long windows in a hundred are the p99") {
    window_log log;
    for (int i = 0; i < 98; ++i) {
        log.opened(10'000);
    }
    log.opened(4'000'000);
    log.opened(5'000'000);
    CHECK(log.totals().p99_ns >= 4'000'000);
    CHECK(log.totals().p99_ns <= 5'000'000);
}

TEST_CASE("the p99 is at most a quarter too high") {
    for (std::uint64_t n = 1; n < 1'000'000'000'000; n = n * 3 + 1) {
        window_log log;
        log.opened(n);
        log.opened(1'000'000'000'000);
        for (int i = 0; i < 198; ++i) {
            log.opened(n);
        }
        CHECK(log.totals().p99_ns >= n);
        CHECK(log.totals().p99_ns <= n + n / 4);
    }
}

TEST_CASE("a window in which the process was stopped for years is counted") {
    window_log log;
    log.opened(UINT64_MAX);
    CHECK(log.totals().opened == 1);
    CHECK(log.totals().p99_ns == UINT64_MAX);
}

TEST_CASE("an errno that there is no room for is not counted") {
    window_log log;
    log.error(-1);
    log.error(100'000);
    log.error(12);
    std::uint64_t all = 0;
    for (std::uint64_t n : log.totals().errors) {
        all += n;
    }
    CHECK(all == 1);
    CHECK(log.totals().errors[12] == 1);
}
