// SPDX-License-Identifier: BSL-1.0
// XXH3 of long inputs for processors with AVX2, chosen at run time. xxhash.h chooses when it is
// compiled, and a header-only library is compiled for the oldest processor that its user ships to:
// there it would take twice as long. Its result is XXH3_64bits_withSeed's, bit for bit.
#ifndef KSM_DETAIL_XXH3_AVX2_HPP
#define KSM_DETAIL_XXH3_AVX2_HPP

#include <ksm/version.hpp>

// Compiled with -mavx2 xxhash.h is as fast.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__AVX2__)
#define KSM_HAS_XXH3_AVX2 1

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include <immintrin.h>

#define KSM_TARGET_AVX2 __attribute__((target("avx2")))

KSM_NAMESPACE_BEGIN
namespace detail::xxh3 {

// The constants of the specification (xxHash, doc/xxhash_spec.md).
inline constexpr std::uint64_t prime32_1 = 0x9E3779B1;
inline constexpr std::uint64_t prime32_2 = 0x85EBCA77;
inline constexpr std::uint64_t prime32_3 = 0xC2B2AE3D;
inline constexpr std::uint64_t prime64_1 = 0x9E3779B185EBCA87;
inline constexpr std::uint64_t prime64_2 = 0xC2B2AE3D27D4EB4F;
inline constexpr std::uint64_t prime64_3 = 0x165667B19E3779F9;
inline constexpr std::uint64_t prime64_4 = 0x85EBCA77C2B2AE63;
inline constexpr std::uint64_t prime64_5 = 0x27D4EB2F165667C5;

inline constexpr std::size_t secret_size = 192;
inline constexpr std::size_t stripe = 64;                                 // [bytes]
inline constexpr std::size_t block = (secret_size - stripe) / 8 * stripe; // one use of the secret
inline constexpr std::size_t shortest = 241;                              // shorter ones differ

// Far enough ahead of a stripe to hide memory, across the end of the page: scans are sequential.
inline constexpr std::size_t prefetch_distance = 512; // [bytes]

/// The secret of a seed, as XXH3_generateSecret_fromSeed makes it.
using secret = std::array<std::byte, secret_size>;

/// Half of the eight sums.
struct lanes {
    __m256i low, high;
};

[[nodiscard]] KSM_TARGET_AVX2 inline __m256i load(std::byte const* p) noexcept {
    return _mm256_loadu_si256(reinterpret_cast<__m256i const*>(p));
}

/// Adds 32 bytes of a stripe to four sums: each word to its neighbour's, and the product of the
/// halves of the word, keyed, to its own.
[[nodiscard]] KSM_TARGET_AVX2 inline __m256i add(__m256i sums, std::byte const* input,
                                                 std::byte const* key) noexcept {
    __m256i const data = load(input);
    __m256i const keyed = _mm256_xor_si256(data, load(key));
    __m256i const product = _mm256_mul_epu32(keyed, _mm256_srli_epi64(keyed, 32));
    __m256i const neighbours = _mm256_shuffle_epi32(data, _MM_SHUFFLE(1, 0, 3, 2));
    return _mm256_add_epi64(product, _mm256_add_epi64(sums, neighbours));
}

/// Mixes four sums at the end of a block: (s ^ s >> 47 ^ key) * prime32_1.
[[nodiscard]] KSM_TARGET_AVX2 inline __m256i scramble(__m256i sums, std::byte const* key) noexcept {
    __m256i const prime = _mm256_set1_epi64x(static_cast<long long>(prime32_1));
    __m256i const mixed =
        _mm256_xor_si256(_mm256_xor_si256(sums, _mm256_srli_epi64(sums, 47)), load(key));
    __m256i const low = _mm256_mul_epu32(mixed, prime);
    __m256i const high = _mm256_mul_epu32(_mm256_srli_epi64(mixed, 32), prime);
    return _mm256_add_epi64(low, _mm256_slli_epi64(high, 32));
}

/// The 128-bit product, folded.
[[nodiscard]] inline std::uint64_t fold(std::uint64_t a, std::uint64_t b) noexcept {
    __extension__ using wide = unsigned __int128;
    wide const product = wide{a} * b;
    return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

[[nodiscard]] inline std::uint64_t word(std::byte const* p) noexcept {
    std::uint64_t w = 0;
    std::memcpy(&w, p, sizeof w);
    return w;
}

/// The digest of at least `shortest` bytes.
[[nodiscard]] KSM_TARGET_AVX2 inline std::uint64_t hash_avx2(std::span<std::byte const> bytes,
                                                             secret const& key) noexcept {
    alignas(32) std::array<std::uint64_t, 8> sums{prime32_3, prime64_1, prime64_2, prime64_3,
                                                  prime64_4, prime32_2, prime64_5, prime32_1};
    auto* const memory = reinterpret_cast<__m256i*>(sums.data());
    __m256i low = _mm256_load_si256(memory);
    __m256i high = _mm256_load_si256(memory + 1);
    std::byte const* const scrambler = key.data() + secret_size - stripe;

    // The last stripe, whole or not, is taken by itself.
    std::byte const* input = bytes.data();
    std::byte const* const last = bytes.data() + bytes.size() - stripe;
    std::size_t stripes = (bytes.size() - 1) / stripe;
    while (stripes > 0) {
        std::size_t const here = stripes < block / stripe ? stripes : block / stripe;
        for (std::size_t i = 0; i < here; ++i) {
            _mm_prefetch(reinterpret_cast<char const*>(input) + prefetch_distance, _MM_HINT_T0);
            low = add(low, input, key.data() + 8 * i);
            high = add(high, input + 32, key.data() + 8 * i + 32);
            input += stripe;
        }
        stripes -= here;
        if (here == block / stripe) {
            low = scramble(low, scrambler);
            high = scramble(high, scrambler + 32);
        }
    }
    low = add(low, last, scrambler - 7);
    high = add(high, last + 32, scrambler - 7 + 32);

    _mm256_store_si256(memory, low);
    _mm256_store_si256(memory + 1, high);
    std::uint64_t h = bytes.size() * prime64_1;
    for (std::size_t i = 0; i < 8; i += 2) {
        h += fold(sums[i] ^ word(key.data() + 11 + 8 * i),
                  sums[i + 1] ^ word(key.data() + 19 + 8 * i));
    }
    h = (h ^ h >> 37) * 0x165667919E3779F9;
    return h ^ h >> 32;
}

} // namespace detail::xxh3
KSM_NAMESPACE_END

#undef KSM_TARGET_AVX2
#else
#define KSM_HAS_XXH3_AVX2 0
#endif

#endif
