// SPDX-License-Identifier: BSL-1.0
// The vocabulary: pages, frames, spaces and counts of pages. None converts silently into another.
#ifndef KSM_TYPES_HPP
#define KSM_TYPES_HPP

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

KSM_NAMESPACE_END

#endif
