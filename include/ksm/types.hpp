// SPDX-License-Identifier: BSL-1.0
// The vocabulary: pages, frames, spaces and counts of pages. None converts silently into another.
#ifndef KSM_TYPES_HPP
#define KSM_TYPES_HPP

#include <bit>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <limits>

#include <ksm/config.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN

/// A number of whole pages. Not bytes, not a place.
class page_count {
  public:
    constexpr page_count() = default;
    constexpr explicit page_count(std::size_t n) noexcept : n_(n) {}
    [[nodiscard]] constexpr std::size_t value() const noexcept { return n_; }
    friend constexpr auto operator<=>(page_count, page_count) = default;
    friend constexpr page_count operator+(page_count a, page_count b) noexcept {
        return page_count{a.n_ + b.n_};
    }
    /// \requires `a >= b`.
    friend constexpr page_count operator-(page_count a, page_count b) noexcept {
        KSM_ASSERT(a >= b, "page counts are not negative");
        return page_count{a.n_ - b.n_};
    }
    constexpr page_count& operator+=(page_count b) noexcept { return *this = *this + b; }
    constexpr page_count& operator-=(page_count b) noexcept { return *this = *this - b; }

  private:
    std::size_t n_ = 0;
};

/// A position in a sequence of pages or frames: position ± count = position,
/// position − position = count, and nothing else.
template <class Tag>
class position {
  public:
    constexpr position() = default;
    constexpr explicit position(std::uint64_t n) noexcept : n_(n) {}
    [[nodiscard]] constexpr std::uint64_t value() const noexcept { return n_; }
    friend constexpr auto operator<=>(position, position) = default;
    friend constexpr position operator+(position a, page_count n) noexcept {
        return position{a.n_ + n.value()};
    }
    /// \requires `a >= b`.
    friend constexpr page_count operator-(position a, position b) noexcept {
        KSM_ASSERT(a >= b, "a distance is not negative");
        return page_count{static_cast<std::size_t>(a.n_ - b.n_)};
    }
    constexpr position& operator+=(page_count n) noexcept { return *this = *this + n; }

  private:
    std::uint64_t n_ = 0;
};

/// The number of a page in its address space: its byte address divided by the page size.
using page_number = position<struct page_tag>;

/// The number of a stable frame. Frames promoted together are consecutive.
using frame_id = position<struct frame_tag>;

/// An address space (the kernel's mm).
enum class space_id : std::uint32_t {};

/// Consecutive pages of a space.
struct page_range {
    page_number first;
    page_count count;

    /// One past the last page; a range that would go on behind the last number ends there.
    [[nodiscard]] constexpr page_number end() const noexcept {
        std::uint64_t const left = std::numeric_limits<std::uint64_t>::max() - first.value();
        return page_number{first.value() + (count.value() < left ? count.value() : left)};
    }
    [[nodiscard]] constexpr bool contains(page_number p) const noexcept {
        return first <= p && p < end();
    }
    friend constexpr bool operator==(page_range const&, page_range const&) = default;
};

/// Pages close to each other: bit `i` of the mask stands for page `first + i`. Page `first` is one
/// of them unless the set is empty.
struct page_set {
    static constexpr std::size_t most = 64; ///< Pages that a set may have.

    page_number first;
    std::uint64_t mask = 0;

    /// The first `n` of a run. \requires `n <= most`.
    [[nodiscard]] static constexpr page_set run(page_number first, page_count n) noexcept {
        KSM_ASSERT(n.value() <= most, "a set has at most 64 pages");
        return {first, n.value() == 0 ? 0 : ~std::uint64_t{0} >> (most - n.value())};
    }
    [[nodiscard]] constexpr bool empty() const noexcept { return mask == 0; }
    [[nodiscard]] constexpr page_count count() const noexcept {
        return page_count{static_cast<std::size_t>(std::popcount(mask))};
    }
    /// From the first page to the last one, those between included.
    [[nodiscard]] constexpr page_count span() const noexcept {
        return page_count{static_cast<std::size_t>(std::bit_width(mask))};
    }
    /// The set without its lowest `n` pages. \requires It has so many.
    [[nodiscard]] constexpr page_set without(page_count n) const noexcept {
        std::uint64_t left = mask;
        for (; n.value() != 0; n -= page_count{1}) {
            left &= left - 1;
        }
        if (left == 0) {
            return {first, 0};
        }
        auto const skipped = static_cast<std::size_t>(std::countr_zero(left));
        return {first + page_count{skipped}, left >> skipped};
    }
    /// The lowest `n` pages only. \requires It has so many.
    [[nodiscard]] constexpr page_set lowest(page_count n) const noexcept {
        page_set const rest = without(n);
        return {first, rest.empty() ? mask : mask & ~(rest.mask << (rest.first - first).value())};
    }
    friend constexpr bool operator==(page_set const&, page_set const&) = default;
};

KSM_NAMESPACE_END

#endif
