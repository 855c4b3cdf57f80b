// SPDX-License-Identifier: BSL-1.0
// Times of any number of events in little memory, each known to within 2 %.
#ifndef KSM_BENCH_SUPPORT_HISTOGRAM_HPP
#define KSM_BENCH_SUPPORT_HISTOGRAM_HPP

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace bench {

class histogram {
  public:
    void add(std::uint64_t value) {
        ++buckets_[bucket_of(value)];
        ++count_;
        max_ = std::max(max_, value);
    }

    [[nodiscard]] std::uint64_t count() const { return count_; }
    [[nodiscard]] std::uint64_t max() const { return max_; }

    /// The least value that a share of all events does not exceed; 0 when there are none.
    [[nodiscard]] std::uint64_t quantile(double share) const {
        auto left = static_cast<double>(count_) * share;
        for (std::size_t i = 0; i < buckets_.size(); ++i) {
            left -= static_cast<double>(buckets_[i]);
            if (left <= 0) {
                return std::min(upper_end(i), max_);
            }
        }
        return max_;
    }

  private:
    // Values below 64 have a bucket each; every further power of two is divided into 64.
    static constexpr unsigned bits = 6;

    static std::size_t bucket_of(std::uint64_t value) {
        auto const width = static_cast<unsigned>(std::bit_width(value));
        if (width <= bits) {
            return value;
        }
        unsigned const shift = width - bits - 1;
        return ((shift + 1ULL) << bits) + (value >> shift) - (1ULL << bits);
    }
    static std::uint64_t upper_end(std::size_t bucket) {
        if (bucket < 1ULL << bits) {
            return bucket;
        }
        std::uint64_t const shift = (bucket >> bits) - 1;
        std::uint64_t const first = (1ULL << bits) + (bucket & ((1ULL << bits) - 1));
        return ((first + 1) << shift) - 1;
    }

    std::array<std::uint64_t, (64 - bits + 1) << bits> buckets_{};
    std::uint64_t count_ = 0;
    std::uint64_t max_ = 0;
};

/// Times in nanoseconds.
struct times {
    std::uint64_t n, p50, p99, p999, max;

    static times of(histogram const& h) {
        return {h.count(), h.quantile(0.5), h.quantile(0.99), h.quantile(0.999), h.max()};
    }
};

} // namespace bench

#endif
