// SPDX-License-Identifier: BSL-1.0
// How many windows there were, how long each kept accesses waiting, and what the kernel refused.
#ifndef KSM_PROVIDERS_LINUX_WINDOW_LOG_HPP
#define KSM_PROVIDERS_LINUX_WINDOW_LOG_HPP

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include <time.h>

#include <ksm/providers/linux/options.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

class window_log {
  public:
    [[nodiscard]] static std::uint64_t now() noexcept {
        timespec t;
        ::clock_gettime(CLOCK_MONOTONIC, &t);
        return static_cast<std::uint64_t>(t.tv_sec) * 1'000'000'000 +
               static_cast<std::uint64_t>(t.tv_nsec);
    }

    void opened(std::uint64_t nanoseconds) noexcept {
        ++totals_.opened;
        totals_.total_ns += nanoseconds;
        totals_.longest_ns = std::max(totals_.longest_ns, nanoseconds);
        ++lengths_[std::min(bucket(nanoseconds), lengths_.size() - 1)];
    }
    void refused() noexcept { ++totals_.refused; }
    void error(int number) noexcept {
        if (number > 0 && static_cast<std::size_t>(number) < totals_.errors.size()) {
            ++totals_.errors[static_cast<std::size_t>(number)];
        }
    }
    void waited(std::size_t accesses) noexcept { totals_.waits += accesses; }

    [[nodiscard]] linux_windows totals() const noexcept {
        linux_windows t = totals_;
        std::uint64_t longer = t.opened / 100;
        std::size_t i = lengths_.size() - 1;
        while (i != 0 && lengths_[i] <= longer) {
            longer -= lengths_[i];
            --i;
        }
        // The last one takes all that are longer.
        t.p99_ns = i == lengths_.size() - 1 ? t.longest_ns
                   : t.opened == 0          ? 0
                                            : std::min(t.longest_ns, bucket_end(i) - 1);
        return t;
    }

  private:
    // A power of two is divided into four.
    [[nodiscard]] static constexpr std::size_t bucket(std::uint64_t n) noexcept {
        auto const width = static_cast<std::size_t>(std::bit_width(n));
        return width < 3 ? static_cast<std::size_t>(n) : 4 * (width - 2) + (n >> (width - 3)) % 4;
    }
    [[nodiscard]] static constexpr std::uint64_t bucket_end(std::size_t i) noexcept {
        return i < 4 ? i + 1 : std::uint64_t{i % 4 + 5} << (i / 4 - 1);
    }
    static constexpr std::size_t buckets = 160; // half an hour

    linux_windows totals_;
    std::array<std::uint64_t, buckets> lengths_{};
};

} // namespace detail::os
KSM_NAMESPACE_END

#endif
