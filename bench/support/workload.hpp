// SPDX-License-Identifier: BSL-1.0
// Memory images whose merging is measured: which pages are equal, and how they lie.
#ifndef KSM_BENCH_SUPPORT_WORKLOAD_HPP
#define KSM_BENCH_SUPPORT_WORKLOAD_HPP

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace bench {

/// The content numbers of consecutive pages. Pages of equal number have equal bytes; number 0 is
/// a page of zeros.
struct workload {
    char const* name;
    char const* what;
    std::size_t mib; ///< The size at which it is reported. [MiB]
    std::vector<std::uint32_t> (*contents)(std::size_t pages, std::mt19937_64& random);

    [[nodiscard]] std::vector<std::uint32_t> make(std::size_t pages) const {
        std::mt19937_64 random{20261124};
        return contents(pages, random);
    }
};

/// What any complete merger must find.
struct exact_counts {
    std::uint64_t shared = 0;  ///< Contents that occur more than once.
    std::uint64_t sharing = 0; ///< Pages saved.
    std::uint64_t zero = 0;    ///< Pages of zeros, when they are merged apart.

    friend bool operator==(exact_counts const&, exact_counts const&) = default;
};

inline exact_counts count(std::vector<std::uint32_t> const& contents, bool zero_apart) {
    std::unordered_map<std::uint32_t, std::uint64_t> times;
    for (std::uint32_t const c : contents) {
        ++times[c];
    }
    exact_counts counts;
    for (auto const& [content, n] : times) {
        if (content == 0 && zero_apart) {
            counts.zero = n;
        } else if (n > 1) {
            ++counts.shared;
            counts.sharing += n - 1;
        }
    }
    return counts;
}

/// A pseudo-random stream (splitmix64) that depends on the content's number only.
inline void fill(std::span<std::byte> page, std::uint32_t content) {
    if (content == 0) {
        std::memset(page.data(), 0, page.size());
        return;
    }
    std::uint64_t state = content * 0xD1342543DE82EF95U;
    for (std::size_t i = 0; i < page.size(); i += sizeof state) {
        std::uint64_t z = state += 0x9E3779B97F4A7C15U;
        z = (z ^ z >> 30U) * 0xBF58476D1CE4E5B9U;
        z ^= z >> 27U;
        std::memcpy(&page[i], &z, sizeof z);
    }
}

namespace detail {

/// Half of the runs of `length` pages, at random places, carry one of (runs / 64) contents.
inline std::vector<std::uint32_t> half_duplicates(std::size_t pages, std::size_t length,
                                                  std::mt19937_64& random) {
    std::size_t const kinds = pages / length / 64 + 1;
    auto unique = static_cast<std::uint32_t>(kinds * length);
    std::vector<std::uint32_t> contents;
    while (contents.size() < pages) {
        bool const duplicate = random() % 2 == 0;
        auto const first = static_cast<std::uint32_t>(random() % kinds * length);
        for (std::uint32_t i = 0; i < length && contents.size() < pages; ++i) {
            contents.push_back(1 + (duplicate ? first + i : unique++));
        }
    }
    return contents;
}

} // namespace detail

inline constexpr workload workloads[] = {
    {"W1", "scattered duplicates", 256,
     [](std::size_t pages, std::mt19937_64& random) {
         return detail::half_duplicates(pages, 1, random);
     }},
    {"W2", "16 instances of an image", 1024,
     [](std::size_t pages, std::mt19937_64&) {
         std::vector<std::uint32_t> contents;
         for (std::size_t i = 0; i < pages; ++i) {
             contents.push_back(static_cast<std::uint32_t>(1 + i % (pages / 16)));
         }
         return contents;
     }},
    {"W3", "duplicates in runs of 16", 512,
     [](std::size_t pages, std::mt19937_64& random) {
         return detail::half_duplicates(pages, 16, random);
     }},
    {"W4", "unique pages", 1024,
     [](std::size_t pages, std::mt19937_64&) {
         std::vector<std::uint32_t> contents;
         for (std::size_t i = 0; i < pages; ++i) {
             contents.push_back(static_cast<std::uint32_t>(1 + i));
         }
         return contents;
     }},
    {"W5", "zero pages, scattered", 1024,
     [](std::size_t pages, std::mt19937_64& random) {
         std::vector<std::uint32_t> contents;
         for (std::size_t i = 0; i < pages; ++i) {
             contents.push_back(random() % 2 == 0 ? 0 : static_cast<std::uint32_t>(1 + i));
         }
         return contents;
     }},
};

} // namespace bench

#endif
