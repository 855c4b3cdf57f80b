// SPDX-License-Identifier: BSL-1.0
// What each page of the regions is mapped to, four bytes a page, and the number of kernel mappings
// that follows from it. Memory that nothing was merged in has no entries.
#ifndef KSM_PROVIDERS_LINUX_PAGE_TABLE_HPP
#define KSM_PROVIDERS_LINUX_PAGE_TABLE_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>

#include <ksm/config.hpp>
#include <ksm/providers/linux/own_memory.hpp>
#include <ksm/types.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

enum class backing : std::uint8_t {
    home,      ///< Anonymous memory, as the application made it.
    zero,      ///< The same, given back to the kernel because it was zero.
    merged,    ///< Maps a frame.
    broken,    ///< Maps a frame, but copy-on-write has made a private copy of it.
    displaced, ///< Anonymous, moved here: it keeps its old offset, so it joins no neighbour.
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

  private:
    static constexpr std::uint32_t tag_mask = 3U << 30;
    static constexpr std::uint32_t tag_merged = 1U << 30;
    static constexpr std::uint32_t tag_broken = 2U << 30;
    static constexpr std::uint32_t tag_displaced = 3U << 30;

    constexpr explicit page_entry(std::uint32_t bits) noexcept : bits_(bits) {}
    std::uint32_t bits_ = 0;
};
static_assert(sizeof(page_entry) == 4, "the metadata budget counts on it");

class page_table {
  public:
    static constexpr std::size_t chunk_pages = 1024;

    explicit page_table(unsigned arena_shift) noexcept
        : arena_shift_(arena_shift), pool_(chunk_pages * sizeof(page_entry)) {}

    [[nodiscard]] page_entry at(page_number page) const noexcept {
        chunk const* const c = find(page.value() / chunk_pages);
        return c == nullptr ? page_entry::home() : c->entries[page.value() % chunk_pages];
    }

    /// The entries from `page` to the end of its chunk, or null: all of them are home.
    [[nodiscard]] page_entry const* row(page_number page) const noexcept {
        chunk const* const c = find(page.value() / chunk_pages);
        return c == nullptr || c->live == 0 ? nullptr : c->entries + page.value() % chunk_pages;
    }

    /// Makes room for entries, so that `set` cannot fail. False: no memory.
    [[nodiscard]] bool prepare(page_number first, std::size_t pages) noexcept {
        std::uint64_t const last = (first.value() + pages - 1) / chunk_pages;
        for (std::uint64_t index = first.value() / chunk_pages; index <= last; ++index) {
            if (find(index) == nullptr && !add(index)) {
                return false;
            }
        }
        return true;
    }

    /// Page `first + i` becomes `entry.advanced(i)`. \requires The pages were prepared, or they
    /// become home.
    void set(page_number first, std::size_t pages, page_entry entry) noexcept {
        std::size_t const before = borders(first, pages);
        for (std::size_t i = 0; i < pages;) {
            std::uint64_t const page = first.value() + i;
            std::size_t const slot = page % chunk_pages;
            std::size_t const n = std::min(pages - i, chunk_pages - slot);
            if (chunk* const c = find(page / chunk_pages)) {
                fill(*c, slot, n, entry.advanced(i));
            } else {
                KSM_ASSERT(entry.is_home(), "prepare first");
            }
            i += n;
        }
        mappings_ += borders(first, pages);
        mappings_ -= before;
    }

    /// Mappings that `set` would add (or remove) for an entry that is one mapping.
    [[nodiscard]] std::ptrdiff_t cost(page_number first, std::size_t pages,
                                      page_entry entry) const noexcept {
        std::ptrdiff_t after = 0;
        after += !page_entry::joined(left_of(first), entry, arena_shift_);
        after += !page_entry::joined(entry.advanced(pages - 1), at(first + page_count{pages}),
                                     arena_shift_);
        return after - static_cast<std::ptrdiff_t>(borders(first, pages));
    }

    /// Gives back the chunks of a range that have become empty. `set` does not: pages that were
    /// merged once are likely to be merged again.
    void trim(page_number first, std::size_t pages) noexcept {
        std::size_t p = position_of(first.value() / chunk_pages);
        while (p < chunks_.size() &&
               chunks_[p].index <= (first.value() + pages - 1) / chunk_pages) {
            if (chunks_[p].live == 0) {
                pool_.give_back(chunks_[p].entries);
                chunks_.erase(p);
            } else {
                ++p;
            }
        }
    }

    /// Borders between the kernel's mappings that exist because of entries.
    [[nodiscard]] std::size_t mappings() const noexcept { return mappings_; }
    [[nodiscard]] std::size_t bytes() const noexcept { return pool_.bytes() + chunks_.bytes(); }

  private:
    struct chunk {
        std::uint64_t index;
        page_entry* entries;
        std::size_t live; ///< Entries that are not home.
    };

    [[nodiscard]] page_entry left_of(page_number first) const noexcept {
        return first.value() == 0 ? page_entry::home() : at(page_number{first.value() - 1});
    }

    /// Borders on both sides of the run and inside of it.
    [[nodiscard]] std::size_t borders(page_number first, std::size_t pages) const noexcept {
        std::size_t n = 0;
        page_entry left = left_of(first);
        for (std::size_t i = 0; i < pages;) {
            page_number const page = first + page_count{i};
            std::size_t const k = std::min(pages - i, chunk_pages - page.value() % chunk_pages);
            page_entry const* const entries = row(page);
            if (entries == nullptr) {
                n += !page_entry::joined(left, page_entry::home(), arena_shift_);
                left = page_entry::home();
            } else {
                for (std::size_t j = 0; j < k; ++j) {
                    n += !page_entry::joined(left, entries[j], arena_shift_);
                    left = entries[j];
                }
            }
            i += k;
        }
        return n + !page_entry::joined(left, at(first + page_count{pages}), arena_shift_);
    }

    void fill(chunk& c, std::size_t slot, std::size_t n, page_entry entry) noexcept {
        for (std::size_t i = 0; i < n; ++i) {
            page_entry const e = entry.advanced(i);
            c.live += !e.is_home();
            c.live -= !c.entries[slot + i].is_home();
            c.entries[slot + i] = e;
        }
    }

    [[nodiscard]] std::size_t position_of(std::uint64_t index) const noexcept {
        auto const* const p =
            std::lower_bound(chunks_.begin(), chunks_.end(), index,
                             [](chunk const& c, std::uint64_t i) { return c.index < i; });
        return static_cast<std::size_t>(p - chunks_.begin());
    }
    [[nodiscard]] chunk const* find(std::uint64_t index) const noexcept {
        if (last_ < chunks_.size() && chunks_[last_].index == index) {
            return &chunks_[last_];
        }
        std::size_t const p = position_of(index);
        if (p == chunks_.size() || chunks_[p].index != index) {
            return nullptr;
        }
        last_ = p;
        return &chunks_[p];
    }
    [[nodiscard]] chunk* find(std::uint64_t index) noexcept {
        return const_cast<chunk*>(static_cast<page_table const&>(*this).find(index));
    }
    [[nodiscard]] bool add(std::uint64_t index) noexcept {
        if (!chunks_.reserve(chunks_.size() + 1)) {
            return false;
        }
        auto* const entries = static_cast<page_entry*>(pool_.take());
        if (entries == nullptr) {
            return false;
        }
        chunks_.insert(position_of(index), chunk{index, entries, 0});
        return true;
    }

    unsigned arena_shift_;
    block_pool pool_;
    own_array<chunk> chunks_;
    mutable std::size_t last_ = 0;
    std::size_t mappings_ = 0;
};

} // namespace detail::os
KSM_NAMESPACE_END

#endif
