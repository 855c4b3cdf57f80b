// SPDX-License-Identifier: BSL-1.0
// The only place that reads memory which other threads may write meanwhile. Outside of a write
// window an answer is a hint; inside of one nobody writes.
#ifndef KSM_PROVIDERS_LINUX_LIVE_MEMORY_HPP
#define KSM_PROVIDERS_LINUX_LIVE_MEMORY_HPP

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <ksm/version.hpp>

// Sanitizers intercept memcmp and memcpy: they would call the comparison a race, although the
// write window orders it, and complain of the red zones of a heap whose pages are merged.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define KSM_DETAIL_PLAIN_LOADS 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer) ||                         \
    __has_feature(memory_sanitizer)
#define KSM_DETAIL_PLAIN_LOADS 1
#endif
#endif
#ifndef KSM_DETAIL_PLAIN_LOADS
#define KSM_DETAIL_PLAIN_LOADS 0
#endif

#if KSM_DETAIL_PLAIN_LOADS
#define KSM_DETAIL_LIVE __attribute__((noinline, no_sanitize("thread"), no_sanitize("address")))
#else
#define KSM_DETAIL_LIVE
#endif

KSM_NAMESPACE_BEGIN
namespace detail::os {

/// \requires Page-aligned addresses and whole pages, here and below.
[[nodiscard]] KSM_DETAIL_LIVE inline bool live_equal(std::byte const* a, std::byte const* b,
                                                     std::size_t bytes) noexcept {
#if KSM_DETAIL_PLAIN_LOADS
    auto const* x = reinterpret_cast<std::uint64_t const volatile*>(a);
    auto const* y = reinterpret_cast<std::uint64_t const volatile*>(b);
    for (std::size_t i = 0; i < bytes / sizeof(std::uint64_t); ++i) {
        if (x[i] != y[i]) {
            return false;
        }
    }
    return true;
#else
    return std::memcmp(a, b, bytes) == 0;
#endif
}

[[nodiscard]] KSM_DETAIL_LIVE inline bool live_zero(std::byte const* a,
                                                    std::size_t bytes) noexcept {
    auto const* x = reinterpret_cast<std::uint64_t const volatile*>(a);
    if (x[0] != 0) {
        return false;
    }
#if KSM_DETAIL_PLAIN_LOADS
    for (std::size_t i = 1; i < bytes / sizeof(std::uint64_t); ++i) {
        if (x[i] != 0) {
            return false;
        }
    }
    return true;
#else
    // Every word equals the one before it, and the first is zero.
    return std::memcmp(a, a + sizeof(std::uint64_t), bytes - sizeof(std::uint64_t)) == 0;
#endif
}

KSM_DETAIL_LIVE inline void live_copy(std::byte* to, std::byte const* from,
                                      std::size_t bytes) noexcept {
#if KSM_DETAIL_PLAIN_LOADS
    auto const* x = reinterpret_cast<std::uint64_t const volatile*>(from);
    auto* y = reinterpret_cast<std::uint64_t volatile*>(to);
    for (std::size_t i = 0; i < bytes / sizeof(std::uint64_t); ++i) {
        y[i] = x[i];
    }
#else
    std::memcpy(to, from, bytes);
#endif
}

} // namespace detail::os
KSM_NAMESPACE_END

#endif
