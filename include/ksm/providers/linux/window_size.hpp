// SPDX-License-Identifier: BSL-1.0
// How many pages a window takes: fewer where somebody has had to wait for too long.
#ifndef KSM_PROVIDERS_LINUX_WINDOW_SIZE_HPP
#define KSM_PROVIDERS_LINUX_WINDOW_SIZE_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <ksm/providers/linux/reading.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

/// A flush of the TLB takes from 0.2 us, where nobody else runs, to 50 us, where page tables are
/// kept in software. So the size is found out by additive increase and multiplicative decrease,
/// as in the congestion control of TCP (Chiu and Jain, 1989).
class window_size {
  public:
    /// 99 % of those who meet a window are to wait for less than 200 us: also until it is closed
    /// and they are woken.
    static constexpr std::uint64_t long_ns = 100'000;

    /// Pages that are compared in one window.
    [[nodiscard]] std::size_t compared() const noexcept { return pages_; }
    /// Pages that are copied: one takes as long as three that are only compared.
    [[nodiscard]] std::size_t copied() const noexcept {
        return std::max<std::size_t>(1, pages_ * 3 / 8);
    }
    /// Pieces of a set of pages: each may take a flush of its own.
    [[nodiscard]] std::size_t pieces() const noexcept {
        return std::max<std::size_t>(1, pages_ / 4);
    }

    /// A window of so many pages has been closed. \param too_long  Longer than `long_ns`, and
    /// somebody was waiting.
    void closed(std::size_t pages, bool too_long) noexcept {
        if (!too_long) {
            pages_ = std::min(pages_ + 1, window_pages);
        } else if (4 * pages >= pages_) { // otherwise its size was not the reason
            pages_ = std::max<std::size_t>(1, pages_ / 2);
        }
    }

  private:
    std::size_t pages_ = window_pages;
};

} // namespace detail::os
KSM_NAMESPACE_END

#endif
