// SPDX-License-Identifier: BSL-1.0
// What a page of a region is mapped to.
#ifndef KSM_PROVIDERS_LINUX_PAGE_ENTRY_HPP
#define KSM_PROVIDERS_LINUX_PAGE_ENTRY_HPP

#include <cstddef>
#include <cstdint>

#include <ksm/types.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

enum class backing : std::uint8_t {
    home,      ///< Anonymous memory, as the application made it.
    zero,      ///< The same, given back to the kernel because it was zero.
    merged,    ///< Maps a frame.
    broken,    ///< Maps a frame, but copy-on-write has made a private copy of it.
    displaced, ///< Anonymous, but from elsewhere than a mirror, so it joins no neighbour.
};

/// Two bits of kind, thirty of frame or displacement.
class page_entry {
  public:
    constexpr page_entry() = default;
    friend constexpr bool operator==(page_entry, page_entry) = default;
    static constexpr std::uint32_t max_value = (1U << 30) - 1;

    [[nodiscard]] static constexpr page_entry home() noexcept { return page_entry{0}; }
    [[nodiscard]] static constexpr page_entry zero() noexcept { return page_entry{1}; }
    [[nodiscard]] static constexpr page_entry merged(frame_id f) noexcept {
        return page_entry{tag_merged | static_cast<std::uint32_t>(f.value())};
    }
    [[nodiscard]] static constexpr page_entry broken(frame_id f) noexcept {
        return page_entry{tag_broken | static_cast<std::uint32_t>(f.value())};
    }
    [[nodiscard]] static constexpr page_entry displaced(std::uint32_t id) noexcept {
        return page_entry{tag_displaced | (id & max_value)};
    }

    [[nodiscard]] constexpr backing kind() const noexcept {
        switch (bits_ & tag_mask) {
        case tag_merged: return backing::merged;
        case tag_broken: return backing::broken;
        case tag_displaced: return backing::displaced;
        default: return bits_ == 0 ? backing::home : backing::zero;
        }
    }
    [[nodiscard]] constexpr bool is_home() const noexcept { return bits_ == 0; }
    /// The kernel's mapping of it is one of a frame; MADV_DONTNEED would show the frame.
    [[nodiscard]] constexpr bool maps_file() const noexcept {
        return kind() == backing::merged || kind() == backing::broken;
    }
    /// \requires `maps_file()`.
    [[nodiscard]] constexpr frame_id frame() const noexcept { return frame_id{bits_ & max_value}; }

    /// The entry of the page `i` pages further in one mapping.
    [[nodiscard]] constexpr page_entry advanced(std::size_t i) const noexcept {
        return (bits_ & tag_mask) == 0 ? *this : page_entry{bits_ + static_cast<std::uint32_t>(i)};
    }

    /// Whether neighbouring pages share one kernel mapping. When the kernel keeps mappings apart
    /// for reasons not seen here (pages copied separately before they became neighbours), the
    /// count is too small; the budget counts anew from time to time.
    [[nodiscard]] static constexpr bool joined(page_entry left, page_entry right,
                                               unsigned arena_shift) noexcept {
        std::uint32_t const a = left.bits_ & tag_mask;
        std::uint32_t const b = right.bits_ & tag_mask;
        bool const consecutive = (right.bits_ & max_value) == (left.bits_ & max_value) + 1;
        if (a == 0 || b == 0) {
            return a == b;
        }
        if (a == tag_displaced || b == tag_displaced) {
            return a == b && consecutive;
        }
        return consecutive &&
               (left.bits_ & max_value) >> arena_shift == (right.bits_ & max_value) >> arena_shift;
    }

    [[nodiscard]] constexpr std::uint32_t bits() const noexcept { return bits_; }
    [[nodiscard]] static constexpr page_entry of(std::uint32_t bits) noexcept {
        return page_entry{bits};
    }

  private:
    static constexpr std::uint32_t tag_mask = 3U << 30;
    static constexpr std::uint32_t tag_merged = 1U << 30;
    static constexpr std::uint32_t tag_broken = 2U << 30;
    static constexpr std::uint32_t tag_displaced = 3U << 30;

    constexpr explicit page_entry(std::uint32_t bits) noexcept : bits_(bits) {}
    std::uint32_t bits_ = 0;
};

} // namespace detail::os
KSM_NAMESPACE_END

#endif
