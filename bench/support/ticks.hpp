// SPDX-License-Identifier: BSL-1.0
// A clock that is cheap enough to be read before and after every store.
#ifndef KSM_BENCH_SUPPORT_TICKS_HPP
#define KSM_BENCH_SUPPORT_TICKS_HPP

#include <chrono>
#include <cstdint>

#if defined(__x86_64__)
#include <x86intrin.h>
#endif

namespace bench {

/// Ticks since some moment. A store that was begun before the call has been done, with every fault
/// that it took.
inline std::uint64_t ticks() {
#if defined(__x86_64__)
    unsigned processor = 0;
    std::uint64_t const t = ::__rdtscp(&processor);
    ::_mm_lfence(); // what follows begins afterwards
    return t;
#else
    return static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch() /
                                      std::chrono::nanoseconds{1});
#endif
}

/// Measured once, in 20 ms.
inline double nanoseconds_per_tick() {
    static double const measured = [] {
        using clock = std::chrono::steady_clock;
        auto const began = clock::now();
        std::uint64_t const first = ticks();
        while (clock::now() - began < std::chrono::milliseconds{20}) {
        }
        std::uint64_t const last = ticks();
        std::chrono::duration<double, std::nano> const taken = clock::now() - began;
        return taken.count() / static_cast<double>(last - first);
    }();
    return measured;
}

} // namespace bench

#endif
