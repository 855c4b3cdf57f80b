// SPDX-License-Identifier: BSL-1.0
// Pages that stay what they are: somebody has them pinned for I/O, or relies on where they lie.
#ifndef KSM_PROVIDERS_LINUX_PINS_HPP
#define KSM_PROVIDERS_LINUX_PINS_HPP

#include <algorithm>
#include <cstddef>
#include <utility>

#include <ksm/providers/linux/own_memory.hpp>
#include <ksm/types.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

class pin_list {
  public:
    [[nodiscard]] std::size_t bytes() const noexcept { return ranges_.bytes(); }

    /// False: no memory.
    [[nodiscard]] bool add(page_range range) noexcept {
        if (!ranges_.reserve(ranges_.size() + 1)) {
            return false;
        }
        ranges_.push_back(range);
        return true;
    }
    /// \requires It was added as often as it was removed, and once more.
    void remove(page_range range) noexcept {
        for (std::size_t i = ranges_.size(); i-- != 0;) {
            if (ranges_[i] == range) {
                ranges_.erase(i);
                return;
            }
        }
    }
    /// How many of the pages lie before the first that is pinned. Linear in the number of pins.
    [[nodiscard]] std::size_t unpinned(page_number first, std::size_t pages) const noexcept {
        for (page_range const& r : ranges_) {
            if (first < r.end() && r.first < first + page_count{pages}) {
                pages = first < r.first ? (r.first - first).value() : 0;
            }
        }
        return pages;
    }

  private:
    own_array<page_range> ranges_;
};

} // namespace detail::os

/// Keeps pages of a provider private and where they are, from `linux_provider::pin` until it is
/// destroyed. \requires The provider outlives it, and is not in a call when it ends.
class [[nodiscard]] linux_pin {
  public:
    linux_pin() = default;
    linux_pin(detail::os::pin_list& pins, page_range range) noexcept
        : pins_(&pins), range_(range) {}
    ~linux_pin() { reset(); }
    linux_pin(linux_pin&& other) noexcept
        : pins_(std::exchange(other.pins_, nullptr)), range_(other.range_) {}
    linux_pin& operator=(linux_pin&& other) noexcept {
        std::swap(pins_, other.pins_);
        std::swap(range_, other.range_);
        return *this;
    }

    void reset() noexcept {
        if (pins_ != nullptr) {
            std::exchange(pins_, nullptr)->remove(range_);
        }
    }
    /// No pages if it holds none.
    [[nodiscard]] page_range pages() const noexcept {
        return pins_ == nullptr ? page_range{} : range_;
    }

  private:
    detail::os::pin_list* pins_ = nullptr;
    page_range range_;
};

KSM_NAMESPACE_END

#endif
