// SPDX-License-Identifier: BSL-1.0
// How many mappings merging may use. A process that reaches vm.max_map_count cannot even malloc,
// so the budget is a share of what the application leaves, and the rest stays untouched.
#ifndef KSM_PROVIDERS_LINUX_MAPPING_BUDGET_HPP
#define KSM_PROVIDERS_LINUX_MAPPING_BUDGET_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <time.h>

#include <ksm/providers/linux/syscalls.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

/// Lines of /proc/self/maps; 0 if it cannot be read.
[[nodiscard]] inline std::size_t count_mappings() noexcept {
    int const fd = sys::open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return 0;
    }
    char text[4096];
    std::size_t lines = 0;
    for (ssize_t n; (n = sys::read(fd, text, sizeof text)) > 0;) {
        lines += static_cast<std::size_t>(std::count(text, text + n, '\n'));
    }
    sys::close(fd);
    return lines;
}

class mapping_budget {
  public:
    /// Left to the application whatever happens.
    static constexpr std::size_t reserve = 8192;

    /// \param seconds  How old a count may become.
    mapping_budget(double share, std::size_t most, std::uint32_t seconds) noexcept
        : share_(share > 0 ? std::min(share, 1.0) : 0), most_(most), most_seconds_(seconds),
          max_map_count_(number_in_file("/proc/sys/vm/max_map_count", 65530)) {
        count(0);
    }

    [[nodiscard]] std::size_t max_map_count() const noexcept { return max_map_count_; }
    [[nodiscard]] std::size_t limit() const noexcept { return std::min(limit_, ceiling_); }

    /// Whether the application needs some of what is used, by the last count.
    [[nodiscard]] bool exceeded(std::size_t used) const noexcept { return used > limit_; }

    [[nodiscard]] bool allows(std::size_t used, std::ptrdiff_t more) const noexcept {
        return more <= 0 || used + static_cast<std::size_t>(more) <= limit();
    }
    /// Whether merging so many pages is worth the mappings. One page, which costs two, is while
    /// half of the budget is free. Beyond that each eighth doubles what two mappings must gain,
    /// so that the last ones go to long runs. \requires The budget allows it.
    [[nodiscard]] bool worth(std::size_t used, std::ptrdiff_t more,
                             std::size_t pages) const noexcept {
        if (more <= 0) {
            return true;
        }
        std::size_t const eighth = 8 * used / limit();
        std::size_t const gain = std::size_t{1} << (std::max<std::size_t>(eighth, 3) - 3);
        return 2 * pages >= gain * static_cast<std::size_t>(more);
    }

    /// Counts anew when merging has used up half of what it was allowed at the last count. Counting
    /// costs about a microsecond a mapping.
    void refresh(std::size_t used) noexcept {
        if (used > counted_at_use_ + std::max<std::size_t>(limit_ / 2, 64)) {
            count(used);
        }
    }
    /// Counts anew when the last count is too old: the application may have taken more since.
    void refresh_if_old(std::size_t used) noexcept {
        if (seconds() >= counted_at_ + most_seconds_) {
            count(used);
        }
    }

    /// The kernel refused a mapping although the budget allowed it: until the next count, half of
    /// what is used must do.
    void exhausted(std::size_t used) noexcept {
        count(used);
        ceiling_ = used / 2;
    }

    /// Mappings that merging made are the application's from now on.
    void forget(std::size_t mappings) noexcept { others_ += mappings; }

  private:
    [[nodiscard]] static std::int64_t seconds() noexcept {
        timespec now{};
        ::clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
        return now.tv_sec;
    }

    void count(std::size_t used) noexcept {
        std::size_t const all = count_mappings();
        if (all != 0) {
            others_ = all > used ? all - used : 0;
        }
        std::size_t const free = max_map_count_ > others_ ? max_map_count_ - others_ : 0;
        std::size_t const share = static_cast<std::size_t>(share_ * static_cast<double>(free));
        limit_ = std::min(share, free > reserve ? free - reserve : 0);
        if (most_ != 0) {
            limit_ = std::min(limit_, most_);
        }
        ceiling_ = limit_;
        counted_at_use_ = used;
        counted_at_ = seconds();
    }

    double share_;
    std::size_t most_;
    std::uint32_t most_seconds_;
    std::size_t max_map_count_;
    std::size_t others_ = 0; ///< Mappings that are not ours.
    std::size_t limit_ = 0;
    std::size_t ceiling_ = 0;
    std::size_t counted_at_use_ = 0;
    std::int64_t counted_at_ = 0;
};

} // namespace detail::os
KSM_NAMESPACE_END

#endif
