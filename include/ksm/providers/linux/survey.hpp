// SPDX-License-Identifier: BSL-1.0
// Lists the pages of the regions with what the kernel's page table and ours say of them.
#ifndef KSM_PROVIDERS_LINUX_SURVEY_HPP
#define KSM_PROVIDERS_LINUX_SURVEY_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include <ksm/page_provider.hpp>
#include <ksm/providers/linux/machinery.hpp>
#include <ksm/providers/linux/regions.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

/// Joins pages of one state to runs.
class run_list {
  public:
    explicit run_list(std::span<page_run> out) noexcept : out_(out) {}

    [[nodiscard]] bool would_join(page_number page, page_state state) const noexcept {
        return size_ != 0 && out_[size_ - 1].state == state &&
               out_[size_ - 1].first + out_[size_ - 1].pages == page;
    }
    /// Lists the page with the one before it, and both as written. \requires That was listed, or
    /// there is room.
    void extend([[maybe_unused]] page_number page) noexcept {
        page_run& r = out_[size_ - 1];
        r.state = page_state::written;
        r.pages += page_count{1};
        KSM_ASSERT(r.first + r.pages == page + page_count{1}, "pages in order");
    }
    /// False: no room; the page was not listed.
    [[nodiscard]] bool add(page_number page, page_state state, frame_id frame) noexcept {
        if (size_ != 0) {
            page_run& r = out_[size_ - 1];
            if (r.state == state && r.first + r.pages == page &&
                (state != page_state::merged || r.frame + r.pages == frame)) {
                r.pages += page_count{1};
                return true;
            }
        }
        if (size_ == out_.size()) {
            return false;
        }
        out_[size_] = page_run{};
        out_[size_].first = page;
        out_[size_].pages = page_count{1};
        out_[size_].state = state;
        out_[size_].frame = frame;
        ++size_;
        return true;
    }
    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    [[nodiscard]] std::size_t room() const noexcept { return out_.size() - size_; }

  private:
    std::span<page_run> out_;
    std::size_t size_ = 0;
};

/// What to say of a page, and what its entry becomes when that has been said.
struct finding {
    page_state state;
    page_entry becomes;
};

[[nodiscard]] inline finding examine_page(machinery const& m, page_number page, page_entry entry,
                                          pagemap_entry kernel, bool in_place,
                                          page_state present) noexcept {
    auto const is_zero = [&] {
        int unread = 0;
        return m.reader.zero(m.address(page), 1, in_place, unread) == 1;
    };
    switch (entry.kind()) {
    case backing::home:
    case backing::displaced: {
        if (kernel.file() || !kernel.anonymous()) {
            return {page_state::gone, entry};
        }
        // What is present but not ours alone is the zero page, which a read put there and which
        // costs nothing, or shared with a forked child.
        bool const nothing = kernel.present() && !kernel.exclusive() && is_zero();
        return {nothing ? page_state::gone : present, entry};
    }
    case backing::zero: {
        bool const still =
            !kernel.swapped() && !kernel.exclusive() && (!kernel.present() || is_zero());
        return still ? finding{page_state::zero, entry}
                     : finding{page_state::written, page_entry::home()};
    }
    case backing::merged:
        if (kernel.broken()) {
            return {page_state::written, page_entry::broken(entry.frame())};
        }
        return {m.frames.released(entry.frame()) ? page_state::unknown : page_state::merged, entry};
    case backing::broken:
        // Also when the application has given the copy back against the contract (MADV_DONTNEED)
        // and sees the frame's place again: the frame may be punched, or another by now.
        return {m.writers.can_exclude(entry) ? page_state::unknown : page_state::gone, entry};
    }
    return {page_state::gone, entry};
}

/// Remembers the first run of pages that are not what they must be.
inline void suspect(machinery& m, page_number page) noexcept {
    if (m.suspect.count.value() == 0) {
        m.suspect.first = page;
    }
    if (m.suspect.end() == page) {
        m.suspect.count += page_count{1};
    }
}

/// Where the kernel does not tell: private pages are there, and nothing has been written. Merging
/// is off then, but what is merged must not be taken for gone.
[[nodiscard]] inline pagemap_entry assumed(page_entry entry) noexcept {
    bool const has_frame = entry.kind() == backing::merged || entry.kind() == backing::zero;
    return pagemap_entry{has_frame ? 0 : std::uint64_t{1} << 63 | std::uint64_t{1} << 56};
}

struct listing {
    bool in_place = true;
    page_state present = page_state::unknown; ///< What to say of private pages.
    bool gone = false;                        ///< Absent pages are listed, too.
};

/// Lists pages from `page` on; the first that there was no room for, or `end`.
[[nodiscard]] inline page_number list_pages(machinery& m, run_list& runs, page_number page,
                                            page_number end, listing how) noexcept {
    while (page < end) {
        // Runs are often one page long: what there is no room for is read again.
        std::size_t const most = std::min((end - page).value(), 2 * runs.room() + 1);
        std::span<std::uint64_t const> const entries = m.entries.read(page, most);
        std::size_t const n = entries.empty() ? most : entries.size();
        for (std::size_t i = 0; i < n;) {
            entry_row const* const row = m.table.row(page + page_count{i});
            std::size_t slot = (page + page_count{i}).value() % page_table::row_pages;
            for (; i < n && slot < page_table::row_pages; ++i, ++slot) {
                page_number const p = page + page_count{i};
                page_entry const entry = row == nullptr ? page_entry::home() : (*row)[slot];
                finding const f = examine_page(
                    m, p, entry, entries.empty() ? assumed(entry) : pagemap_entry{entries[i]},
                    how.in_place, how.present);
                if (f.state == page_state::gone && !entries.empty() &&
                    pagemap_entry{entries[i]}.file()) {
                    suspect(m, p);
                }
                if (f.state == page_state::gone && !how.gone) {
                    continue;
                }
                frame_id const frame =
                    f.state == page_state::merged ? f.becomes.frame() : frame_id{};
                if (!runs.add(p, f.state, frame)) {
                    return p;
                }
                if (f.becomes != entry) {
                    m.table.set(p, 1, f.becomes);
                }
            }
        }
        page += page_count{n};
    }
    return end;
}

/// Pages that one call looks at: about a millisecond, so that a daemon can be stopped soon.
inline constexpr std::size_t survey_step = 16384;

/// Lists every page. \requires `out` is not empty.
[[nodiscard]] inline survey_result survey_every_page(machinery& m, region_list const& regions,
                                                     page_number from,
                                                     std::span<page_run> out) noexcept {
    run_list runs{out};
    std::size_t left = survey_step;
    while (region const* const r = regions.at_or_after(from)) {
        page_number page = std::max(from, r->pages.first);
        while (page < r->pages.end()) {
            if (left == 0) {
                return {runs.size(), page, false, coverage::every_page};
            }
            // Pages are armed shortly before they are listed, and armed again with those that
            // there is no room for.
            std::size_t const most = std::max<std::size_t>(2 * runs.room() + 1, 512);
            page_number const end =
                std::min(r->pages.end(), page + page_count{std::min(most, left)});
            left -= (end - page).value();
            bool const armed =
                r->tracked && m.tracker.arming() && m.tracker.arm({page, end - page});
            page_number const stop =
                list_pages(m, runs, page, end,
                           {r->in_place, armed ? page_state::written : page_state::unknown, false});
            if (stop < end) {
                return {runs.size(), stop, false, coverage::every_page};
            }
            page = end;
        }
        from = r->pages.end();
    }
    return {runs.size(), from, true, coverage::every_page};
}

} // namespace detail::os
KSM_NAMESPACE_END

#endif
