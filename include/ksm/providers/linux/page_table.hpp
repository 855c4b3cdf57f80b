// SPDX-License-Identifier: BSL-1.0
// What each page of the regions is mapped to, and the number of kernel mappings that follows from
// it. Memory that nothing was merged in has no entries.
#ifndef KSM_PROVIDERS_LINUX_PAGE_TABLE_HPP
#define KSM_PROVIDERS_LINUX_PAGE_TABLE_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <ksm/config.hpp>
#include <ksm/providers/linux/entry_row.hpp>
#include <ksm/providers/linux/frame_records.hpp>
#include <ksm/providers/linux/own_memory.hpp>
#include <ksm/providers/linux/page_entry.hpp>
#include <ksm/types.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

class page_table {
  public:
    static constexpr std::size_t row_pages = entry_row::pages;
    static constexpr std::size_t block_pages = entry_row::block_pages;

    /// The records, if there are any, learn of every change.
    explicit page_table(unsigned arena_shift, frame_records* records = nullptr) noexcept
        : arena_shift_(arena_shift), records_(records) {}

    [[nodiscard]] page_entry at(page_number page) const noexcept {
        chunk const* const c = find(page.value() / row_pages);
        return c == nullptr ? page_entry::home() : c->row[page.value() % row_pages];
    }

    /// The row of `page`, at `page % row_pages`, or null: all of its pages are home.
    [[nodiscard]] entry_row const* row(page_number page) const noexcept {
        chunk const* const c = find(page.value() / row_pages);
        return c == nullptr || c->row.empty() ? nullptr : &c->row;
    }

    /// The first broken pages from `from` on that lie side by side, at most `most`, and of one row.
    /// No pages: there are none.
    [[nodiscard]] page_range broken_at_or_after(page_number from, std::size_t most) const noexcept {
        std::size_t slot = from.value() % row_pages;
        for (std::size_t p = position_of(from.value() / row_pages); p < chunks_.size(); ++p) {
            chunk const& c = chunks_[p];
            slot = c.index == from.value() / row_pages ? slot : 0;
            auto const broken = [&](std::size_t i) { return c.row[i].kind() == backing::broken; };
            while (c.row.has_broken() && slot < row_pages) {
                std::size_t n = 0;
                while (n < most && slot + n < row_pages && broken(slot + n)) {
                    ++n;
                }
                if (n != 0) {
                    return {page_number{c.index * row_pages + slot}, page_count{n}};
                }
                ++slot;
            }
        }
        return {};
    }

    /// The first merged pages from `from` on that share one mapping, and are of one row. No pages:
    /// there are none.
    [[nodiscard]] page_range merged_at_or_after(page_number from) const noexcept {
        for (std::size_t p = position_of(from.value() / row_pages); p < chunks_.size(); ++p) {
            entry_row const& row = chunks_[p].row;
            bool const amid = chunks_[p].index == from.value() / row_pages;
            std::size_t i = row.empty() ? row_pages : amid ? from.value() % row_pages : 0;
            while (i < row_pages && row[i].kind() != backing::merged) {
                ++i;
            }
            std::size_t n = i < row_pages ? 1 : 0;
            while (n != 0 && i + n < row_pages && row[i + n].kind() == backing::merged &&
                   page_entry::joined(row[i + n - 1], row[i + n], arena_shift_)) {
                ++n;
            }
            if (n != 0) {
                return {page_number{chunks_[p].index * row_pages + i}, page_count{n}};
            }
        }
        return {};
    }

    /// Makes room for `set` with the same arguments, so that it cannot fail. False: no memory.
    /// \param due  Pages before this one were prepared, too, and are yet to be set.
    [[nodiscard]] bool prepare(page_number first, std::size_t pages, page_entry entry,
                               page_number due = {}) noexcept {
        for (std::size_t i = 0; i < pages;) {
            std::uint64_t const page = first.value() + i;
            std::size_t const n = std::min(pages - i, row_pages - page % row_pages);
            if (find(page / row_pages) == nullptr && !add(page / row_pages)) {
                return false;
            }
            entry_row& row = find(page / row_pages)->row;
            if (page / row_pages * row_pages >= due.value()) {
                row.renew();
            }
            if (!row.accept(entry.advanced(i), memory_) ||
                !row.accept(entry.advanced(i + n - 1), memory_)) {
                return false;
            }
            i += n;
        }
        return true;
    }

    /// Page `first + i` becomes `entry.advanced(i)`. \requires That was prepared; or the pages
    /// become home, or broken where they are merged.
    void set(page_number first, std::size_t pages, page_entry entry) noexcept {
        std::size_t const before = borders(first, pages);
        for (std::size_t i = 0; i < pages;) {
            std::uint64_t const page = first.value() + i;
            std::size_t const slot = page % row_pages;
            std::size_t const n = std::min(pages - i, row_pages - slot);
            if (chunk* const c = find(page / row_pages)) {
                for (std::size_t j = 0; j < n; ++j) {
                    page_entry const now = entry.advanced(i + j);
                    if (records_ != nullptr) {
                        records_->moved(c->row[slot + j], now);
                    }
                    c->row.set(slot + j, now);
                }
            } else {
                KSM_ASSERT(entry.is_home(), "prepare first");
            }
            i += n;
        }
        mappings_ += borders(first, pages);
        mappings_ -= before;
    }

    /// See entry_row. \requires `prepare` has made room for the page.
    [[nodiscard]] bool enter_block(page_number page) noexcept {
        return find(page.value() / row_pages)->row.enter_block(page.value() % row_pages);
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
        std::size_t p = position_of(first.value() / row_pages);
        while (p < chunks_.size() && chunks_[p].index <= (first.value() + pages - 1) / row_pages) {
            if (chunks_[p].row.empty()) {
                chunks_[p].row.give_back(memory_);
                chunks_.erase(p);
            } else {
                ++p;
            }
        }
    }

    /// Borders between the kernel's mappings that exist because of entries.
    [[nodiscard]] std::size_t mappings() const noexcept { return mappings_; }
    [[nodiscard]] std::size_t bytes() const noexcept { return memory_.bytes() + chunks_.bytes(); }

  private:
    struct chunk {
        std::uint64_t index;
        entry_row row;
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
            std::size_t const slot = page.value() % row_pages;
            std::size_t const k = std::min(pages - i, row_pages - slot);
            entry_row const* const entries = row(page);
            if (entries == nullptr) {
                n += !page_entry::joined(left, page_entry::home(), arena_shift_);
                left = page_entry::home();
            } else {
                for (std::size_t j = 0; j < k; ++j) {
                    page_entry const e = (*entries)[slot + j];
                    n += !page_entry::joined(left, e, arena_shift_);
                    left = e;
                }
            }
            i += k;
        }
        return n + !page_entry::joined(left, at(first + page_count{pages}), arena_shift_);
    }

    [[nodiscard]] std::size_t position_of(std::uint64_t index) const noexcept {
        auto const* const p =
            std::lower_bound(chunks_.begin(), chunks_.end(), index,
                             [](chunk const& c, std::uint64_t i) { return c.index < i; });
        return static_cast<std::size_t>(p - chunks_.begin());
    }
    // Does not remember the answer: it is called in write windows, and the table may live in one.
    [[nodiscard]] chunk const* find(std::uint64_t index) const noexcept {
        if (last_ < chunks_.size() && chunks_[last_].index == index) {
            return &chunks_[last_];
        }
        std::size_t const p = position_of(index);
        return p == chunks_.size() || chunks_[p].index != index ? nullptr : &chunks_[p];
    }
    [[nodiscard]] chunk* find(std::uint64_t index) noexcept {
        auto* const c = const_cast<chunk*>(static_cast<page_table const&>(*this).find(index));
        if (c != nullptr) {
            last_ = static_cast<std::size_t>(c - chunks_.begin());
        }
        return c;
    }
    [[nodiscard]] bool add(std::uint64_t index) noexcept {
        if (!chunks_.reserve(chunks_.size() + 1)) {
            return false;
        }
        chunk fresh{index, {}};
        if (!fresh.row.make(memory_)) {
            return false;
        }
        chunks_.insert(position_of(index), fresh);
        return true;
    }

    unsigned arena_shift_;
    frame_records* records_;
    row_memory memory_;
    own_array<chunk> chunks_;
    std::size_t last_ = 0;
    std::size_t mappings_ = 0;
};

} // namespace detail::os
KSM_NAMESPACE_END

#endif
