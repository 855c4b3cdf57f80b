// SPDX-License-Identifier: BSL-1.0
// The entries of consecutive pages, in two bytes each while their frames are close together. Four
// bytes a page would be a tenth of all metadata.
#ifndef KSM_PROVIDERS_LINUX_ENTRY_ROW_HPP
#define KSM_PROVIDERS_LINUX_ENTRY_ROW_HPP

#include <array>
#include <cstddef>
#include <cstdint>

#include <ksm/providers/linux/own_memory.hpp>
#include <ksm/providers/linux/page_entry.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

/// Memory for rows. All rows of a table share one.
struct row_memory;

class entry_row {
  public:
    static constexpr std::size_t pages = 1024;
    /// Pages of a huge page on x86-64, and of a part of one where they are larger.
    static constexpr std::size_t block_pages = 512;

    [[nodiscard]] page_entry operator[](std::size_t i) const noexcept {
        if (wide_) {
            return static_cast<page_entry const*>(entries_)[i];
        }
        std::uint32_t const e = static_cast<std::uint16_t const*>(entries_)[i];
        std::uint32_t const tag = e >> window_bits;
        return page_entry::of(tag << 30 | (tag == 0 ? 0 : windows_[tag == 3]) | (e & window_mask));
    }

    /// \requires `accept` has answered true for the entry since the row was empty, or the entry
    /// is home or zero, or names the frame of the one it replaces.
    void set(std::size_t i, page_entry e) noexcept {
        live_ += !e.is_home();
        live_ -= !(*this)[i].is_home();
        broken_ += e.kind() == backing::broken;
        broken_ -= (*this)[i].kind() == backing::broken;
        if (e.is_home() && (*this)[i].kind() == backing::zero) {
            entered_ = static_cast<std::uint8_t>(entered_ & ~block_bit(i));
        }
        if (wide_) {
            static_cast<page_entry*>(entries_)[i] = e;
        } else {
            static_cast<std::uint16_t*>(entries_)[i] = static_cast<std::uint16_t>(
                e.bits() >> 30 << window_bits | (e.bits() & window_mask));
        }
    }

    [[nodiscard]] bool empty() const noexcept { return live_ == 0; }
    [[nodiscard]] bool has_broken() const noexcept { return broken_ != 0; }
    /// True the first time for each block: since the row was empty, or since memory that had been
    /// given back was written to, when the kernel may have put a huge page there.
    [[nodiscard]] bool enter_block(std::size_t i) noexcept {
        bool const first = (entered_ & block_bit(i)) == 0;
        entered_ = static_cast<std::uint8_t>(entered_ | block_bit(i));
        return first;
    }

    /// False: no memory; the row is then unusable.
    [[nodiscard]] bool make(row_memory& memory) noexcept;
    /// \requires The row is empty.
    void give_back(row_memory& memory) noexcept;
    /// Lets an empty row take any frames anew. \requires No `set` is due for what was accepted.
    void renew() noexcept {
        if (live_ == 0) {
            windows_ = {no_window, no_window};
            entered_ = 0;
        }
    }
    /// Makes sure that the entry can be set, beside those that were accepted since `renew`. False:
    /// no memory, nothing changed.
    [[nodiscard]] bool accept(page_entry e, row_memory& memory) noexcept;

  private:
    // Two bits of kind, and fourteen of a frame (or displacement) in a window of 2^14: the frames
    // of an arena of the usual size.
    static constexpr unsigned window_bits = 14;
    static constexpr std::uint32_t window_mask = (1U << window_bits) - 1;
    static constexpr std::uint32_t no_window = ~std::uint32_t{0};

    [[nodiscard]] static constexpr unsigned block_bit(std::size_t i) noexcept {
        return 1U << (i / block_pages);
    }

    void* entries_ = nullptr;
    std::array<std::uint32_t, 2> windows_{no_window, no_window}; ///< Of frames, displacements.
    std::uint16_t live_ = 0;                                     ///< Entries that are not home.
    std::uint16_t broken_ = 0;
    std::uint8_t entered_ = 0; ///< A bit for each block.
    bool wide_ = false;
};

struct row_memory {
    block_pool narrow{entry_row::pages * sizeof(std::uint16_t)};
    block_pool wide{entry_row::pages * sizeof(page_entry)};

    [[nodiscard]] std::size_t bytes() const noexcept { return narrow.bytes() + wide.bytes(); }
};

inline bool entry_row::make(row_memory& memory) noexcept {
    entries_ = memory.narrow.take();
    return entries_ != nullptr;
}

inline void entry_row::give_back(row_memory& memory) noexcept {
    (wide_ ? memory.wide : memory.narrow).give_back(entries_);
    entries_ = nullptr;
}

inline bool entry_row::accept(page_entry e, row_memory& memory) noexcept {
    std::uint32_t const tag = e.bits() >> 30;
    if (wide_ || tag == 0) {
        return true;
    }
    std::uint32_t const window = e.bits() & page_entry::max_value & ~window_mask;
    std::uint32_t& mine = windows_[tag == 3];
    if (mine == no_window) {
        mine = window;
    }
    if (mine == window) {
        return true;
    }
    auto* const fresh = static_cast<page_entry*>(memory.wide.take());
    if (fresh == nullptr) {
        return false;
    }
    for (std::size_t i = 0; i < pages; ++i) {
        fresh[i] = (*this)[i];
        static_cast<std::uint16_t*>(entries_)[i] = 0; // as the pool wants it back
    }
    memory.narrow.give_back(entries_);
    entries_ = fresh;
    wide_ = true;
    return true;
}

} // namespace detail::os
KSM_NAMESPACE_END

#endif
