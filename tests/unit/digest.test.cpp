// SPDX-License-Identifier: BSL-1.0
// This file includes xxhash.h before and after the library, as its users may.
#include <xxhash.h>

using hash_before = decltype(XXH3_64bits_withSeed(nullptr, 0, 0));

#include <ksm/digest.hpp>

#include <xxhash.h>

#include "../support/catch.hpp"

#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <span>
#include <type_traits>
#include <vector>

static_assert(std::is_same_v<hash_before, decltype(XXH3_64bits_withSeed(nullptr, 0, 0))>);

namespace {

std::vector<std::byte> noise(std::size_t size) {
    std::mt19937_64 random{size};
    std::vector<std::byte> bytes(size);
    for (std::byte& b : bytes) {
        b = static_cast<std::byte>(random());
    }
    return bytes;
}

constexpr std::uint64_t seeds[] = {0, 1, 0x0123456789ABCDEF, 0x8000000000000000,
                                   std::numeric_limits<std::uint64_t>::max()};

} // namespace

TEST_CASE("XXH3 for this processor gives what xxHash gives") {
    // Every size of a page, and sizes around the ends of stripes and blocks, aligned or not.
    std::vector<std::byte> const bytes = noise(65536 + 64);
    std::vector<std::size_t> sizes;
    for (std::size_t page = 64; page <= 65536; page *= 2) {
        sizes.insert(sizes.end(), {page - 1, page, page + 1});
    }
    for (std::size_t size = 200; size <= 2200; ++size) {
        sizes.push_back(size);
    }
    for (std::size_t const size : sizes) {
        for (std::uint64_t const seed : seeds) {
            for (std::size_t const offset : {std::size_t{0}, std::size_t{1}, std::size_t{33}}) {
                auto const input = std::span{bytes}.subspan(offset, size);
                if (ksm::detail::xxh3_64(input, seed) !=
                    XXH3_64bits_withSeed(input.data(), size, seed)) {
                    FAIL("size " << size << ", seed " << seed << ", offset " << offset);
                }
            }
        }
    }
}

#if KSM_HAS_XXH3_AVX2
TEST_CASE("the AVX2 code is the one that is tested, where there is AVX2") {
    if (!__builtin_cpu_supports("avx2")) {
        WARN("SKIPPED: this processor has no AVX2");
        return;
    }
    std::vector<std::byte> const page = noise(4096);
    for (std::uint64_t const seed : seeds) {
        ksm::detail::xxh3::secret key;
        XXH3_generateSecret_fromSeed(key.data(), seed);
        CHECK(ksm::detail::xxh3::hash_avx2(page, key) ==
              XXH3_64bits_withSeed(page.data(), page.size(), seed));
    }
}
#endif

TEST_CASE("a digest depends on every byte of the page, and on the seed") {
    for (std::size_t const size : {std::size_t{64}, std::size_t{4096}, std::size_t{16384}}) {
        std::vector<std::byte> page = noise(size);
        std::uint64_t const digest = ksm::page_digest(page, 7);
        CHECK(digest >> ksm::digest_bits == 0);
        CHECK(digest != ksm::page_digest(page, 8));
        for (std::size_t i = 0; i < size; ++i) {
            page[i] ^= std::byte{0x10};
            if (ksm::page_digest(page, 7) == digest) {
                FAIL("byte " << i << " of " << size << " does not matter");
            }
            page[i] ^= std::byte{0x10};
        }
        CHECK(digest == ksm::page_digest(page, 7));
    }
}
