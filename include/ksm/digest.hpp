// SPDX-License-Identifier: BSL-1.0
// Digests of pages: XXH3 (Yann Collet, xxHash), seeded, cut to the width that an entry stores.
#ifndef KSM_DIGEST_HPP
#define KSM_DIGEST_HPP

#include <cstddef>
#include <cstdint>
#include <random>
#include <span>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <ksm/config.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN

/// Width of a stored digest. Digests only order trees and tell volatile pages: equal digests of
/// different contents cost time, never data, so 40 bits (one chance collision in 2^20 pages) do.
inline constexpr unsigned digest_bits = 40;

/// The digest of a page's bytes. \complexity O(size), 0.15 to 0.25 ns a byte with SSE2.
[[nodiscard]] inline std::uint64_t page_digest(std::span<std::byte const> bytes,
                                               std::uint64_t seed) noexcept {
    return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed) >> (64U - digest_bits);
}

/// A seed that nobody outside the process knows, so that nobody can prepare colliding pages.
[[nodiscard]] inline std::uint64_t random_seed() noexcept {
#if KSM_HAS_EXCEPTIONS
    try {
#endif
        std::random_device source;
        return (std::uint64_t{source()} << 32U) ^ source();
#if KSM_HAS_EXCEPTIONS
    } catch (...) { // no source of entropy: the place of the stack is better than nothing
        int here = 0;
        return reinterpret_cast<std::uintptr_t>(&here) * 0x9E3779B97F4A7C15U;
    }
#endif
}

KSM_NAMESPACE_END

#endif
