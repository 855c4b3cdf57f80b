// SPDX-License-Identifier: BSL-1.0
// CPU time, medians and spread.
#ifndef KSM_BENCH_SUPPORT_TIMING_HPP
#define KSM_BENCH_SUPPORT_TIMING_HPP

#include <algorithm>
#include <chrono>
#include <vector>

#include <time.h>

namespace bench {

using microseconds = std::chrono::duration<double, std::micro>;

/// The CPU time of this thread, which others on the machine do not lengthen as they do real time.
inline std::chrono::nanoseconds cpu_time() {
    timespec t{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return std::chrono::seconds{t.tv_sec} + std::chrono::nanoseconds{t.tv_nsec};
}

/// \returns The CPU time that `f()` takes. [us]
template <class F>
double cpu_microseconds(F&& f) {
    auto const start = cpu_time();
    f();
    return microseconds{cpu_time() - start}.count();
}

/// For what is shorter than the call that asks for CPU time. [us]
template <class F>
double real_microseconds(F&& f) {
    auto const start = std::chrono::steady_clock::now();
    f();
    return microseconds{std::chrono::steady_clock::now() - start}.count();
}

/// \requires `values` is not empty.
inline double median(std::vector<double> values) {
    std::ranges::sort(values);
    return values[values.size() / 2];
}

/// What several runs came to.
struct spread {
    double median;
    double min;
    double max;
};

/// \requires `values` is not empty.
inline spread spread_of(std::vector<double> const& values) {
    auto const [min, max] = std::ranges::minmax_element(values);
    return {median(values), *min, *max};
}

} // namespace bench

#endif
