// SPDX-License-Identifier: BSL-1.0
// Digests of pages: XXH3 (Yann Collet, xxHash), seeded, cut to the width that an entry stores.
#ifndef KSM_DIGEST_HPP
#define KSM_DIGEST_HPP

#include <cstddef>
#include <cstdint>
#include <random>
#include <span>

// Inlined, so that there is nothing to link. xxhash.h gives its inlined functions names of their
// own, and so may be included before or after this header, in any form.
#ifndef XXH_INLINE_ALL
#define XXH_INLINE_ALL
#endif
#include <xxhash.h>
#if XXH_VERSION_NUMBER < 801
#error "ksm: needs xxHash 0.8.1"
#endif

#include <ksm/config.hpp>
#include <ksm/detail/xxh3_avx2.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN

namespace detail {

/// XXH3_64bits_withSeed by the fastest code that this processor has.
[[nodiscard]] inline std::uint64_t xxh3_64(std::span<std::byte const> bytes,
                                           std::uint64_t seed) noexcept {
#if KSM_HAS_XXH3_AVX2
    if (bytes.size() >= xxh3::shortest && __builtin_cpu_supports("avx2")) {
        alignas(32) xxh3::secret key;
        XXH3_generateSecret_fromSeed(key.data(), seed);
        return xxh3::hash_avx2(bytes, key);
    }
#endif
    return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

} // namespace detail

/// Width of a stored digest. Digests only order trees and tell volatile pages: equal digests of
/// different contents cost time, never data, so 38 bits (two chance collisions in 2^20 pages) do.
inline constexpr unsigned digest_bits = 38;

/// The digest of a page's bytes. \complexity O(size): with AVX2 the time that it takes to read them
/// from memory.
[[nodiscard]] inline std::uint64_t page_digest(std::span<std::byte const> bytes,
                                               std::uint64_t seed) noexcept {
    return detail::xxh3_64(bytes, seed) >> (64U - digest_bits);
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
