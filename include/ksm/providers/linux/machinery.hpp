// SPDX-License-Identifier: BSL-1.0
// What the operations of the Linux provider share.
#ifndef KSM_PROVIDERS_LINUX_MACHINERY_HPP
#define KSM_PROVIDERS_LINUX_MACHINERY_HPP

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

#include <ksm/providers/linux/change_tracker.hpp>
#include <ksm/providers/linux/exclusion.hpp>
#include <ksm/providers/linux/fork_marker.hpp>
#include <ksm/providers/linux/frame_store.hpp>
#include <ksm/providers/linux/live_memory.hpp>
#include <ksm/providers/linux/mapping_budget.hpp>
#include <ksm/providers/linux/options.hpp>
#include <ksm/providers/linux/page_table.hpp>
#include <ksm/providers/linux/pagemap.hpp>
#include <ksm/providers/linux/place.hpp>
#include <ksm/providers/linux/reading.hpp>
#include <ksm/providers/linux/regions.hpp>
#include <ksm/providers/linux/userfault.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

struct machinery {
    explicit machinery(linux_options const& options) noexcept
        : page(page_bytes()), page_shift(static_cast<unsigned>(std::countr_zero(page))),
          faults(marker, options.strategy == write_exclusion::off ? 0 : wanted_of_userfault),
          frames(page, options.arena_pages, marker), table(frames.arena_shift(), &frames.records()),
          budget(options.mapping_share, options.max_mappings, options.count_mappings_seconds),
          writers(options, marker, faults, entries,
                  {reinterpret_cast<std::byte const*>(this), sizeof *this}),
          tracker(faults, entries, options.track_changes && !writers.protects_regions(),
                  page_shift),
          reader(page, marker) {}

    [[nodiscard]] std::byte* address(page_number p) const noexcept {
        return reinterpret_cast<std::byte*>(static_cast<std::uintptr_t>(p.value() << page_shift));
    }
    [[nodiscard]] page_number page_of(void const* at) const noexcept {
        return page_number{reinterpret_cast<std::uintptr_t>(at) >> page_shift};
    }
    /// From `first` on: pages of the region with one kind of mapping, at most `pages`.
    /// \requires The region holds the first.
    [[nodiscard]] place place_in(region const& r, page_number first,
                                 std::size_t pages) const noexcept {
        std::size_t const most = std::min(pages, (r.pages.end() - first).value());
        auto const kind = [&](std::size_t i) {
            page_entry const e = table.at(first + page_count{i});
            return e.maps_file()                    ? backing::merged
                   : e.kind() == backing::displaced ? backing::displaced
                                                    : backing::home;
        };
        std::size_t n = 1;
        while (n < most && kind(n) == kind(0)) {
            ++n;
        }
        place p{first, address(first), n};
        p.map_flags = r.noreserve ? MAP_NORESERVE : 0;
        p.tracked = r.tracked && tracker.available();
        p.in_place = r.in_place;
        p.mirror = r.mirror;
        p.anonymous = kind(0) != backing::merged;
        return p;
    }
    /// How many of the pages from `first` on one window maps to frames. The kernel frees the page
    /// table of a block that is replaced whole, which is the cheaper the dearer changes of one are.
    [[nodiscard]] std::size_t longest_merge(page_number first, std::size_t pages) const noexcept {
        constexpr std::size_t block = page_table::block_pages;
        std::size_t const to_block = (block - first.value() % block) % block;
        return !writers.nobody_waits()                      ? window_pages
               : to_block != 0 && pages >= to_block + block ? to_block
                                                            : block;
    }
    /// Mappings that exist because of merging.
    [[nodiscard]] std::size_t mappings() const noexcept {
        return table.mappings() + frames.mappings();
    }
    [[nodiscard]] bool affordable(page_number first, std::size_t pages,
                                  page_entry entry) const noexcept {
        return budget.allows(mappings(), table.cost(first, pages, entry));
    }

    /// Whether the pages may be merged: `busy` when the mappings left are kept for longer runs.
    [[nodiscard]] status affordable_merge(page_number first, std::size_t pages,
                                          page_entry entry) const noexcept {
        std::ptrdiff_t const cost = table.cost(first, pages, entry);
        if (!budget.allows(mappings(), cost)) {
            return status::out_of_mappings;
        }
        return budget.worth(mappings(), cost, pages) ? status::ok : status::busy;
    }

    /// The kernel frees no part of a huge page before memory runs short, but MADV_COLD on a part of
    /// it, of whose pages no other process knows, splits it at once. What that call answers does
    /// not matter. \requires The table was prepared for the pages.
    void split_huge_pages(place const& p) noexcept {
        std::size_t i = 0;
        while (p.anonymous && i < p.pages) {
            page_number const first = p.first + page_count{i};
            if (table.enter_block(first)) {
                static_cast<void>(advise(address(first), page, madv_cold));
            }
            i += page_table::block_pages - first.value() % page_table::block_pages;
        }
    }

    /// A survey begins, or goes on. \returns Which pages it lists: what the engine was refused is
    /// no change, so all of them once that would not be refused any more; and pages that are of no
    /// region any more are missing from such a list only.
    [[nodiscard]] coverage walk(page_number from, coverage wanted) noexcept {
        if (from == page_number{}) {
            lists_all = writers.recovered() || forgot_pages;
            forgot_pages = false;
            tracker.begin_walk(lists_all ? coverage::every_page : wanted);
        }
        return lists_all || !tracker.available() ? coverage::every_page : wanted;
    }

    /// Anonymous memory has become part of a region. \returns Whether it is tracked.
    bool made_anonymous(std::byte const* at, std::size_t bytes) noexcept {
        writers.watch(at, bytes);
        return tracker.enroll(at, bytes);
    }

    /// Pages could not be given another mapping; they are as they were.
    [[nodiscard]] status refused(char const* call, int error, bool hole) noexcept {
        writers.windows().error(error);
        refusal const r = mapping_refused(error, hole);
        if (r.why == status::out_of_mappings) {
            budget.exhausted(mappings());
        } else if (r.disable) {
            writers.disable("A system call failed in a way that it should not: see refusal.",
                            {call, error});
        }
        return r.why;
    }

    /// Inside a window, after a replacement failed. The kernel takes the old mapping away before it
    /// allocates the new one; when that fails, a hole is left. Puts the content there again.
    /// \returns True if there was a hole: the pages are anonymous memory now.
    [[nodiscard]] bool repair(std::byte* at, std::size_t pages, std::byte const* content,
                              int map_flags) const noexcept {
        std::size_t const bytes = pages * page;
        if (!has_hole(at, bytes, page)) {
            return false;
        }
        void* const got =
            sys::mmap(at, bytes, read_write, anonymous | map_fixed_noreplace | map_flags, -1, 0);
        if (got == MAP_FAILED) {
            return false; // partly mapped: the application unmapped the rest, not the kernel
        }
        if (got != at) { // before Linux 4.17 the address is a hint
            sys::munmap(got, bytes);
            return false;
        }
        live_copy(at, content, bytes);
        return true;
    }

    static constexpr std::uint64_t wanted_of_userfault =
        userfault::write_protect | userfault::protect_files | userfault::protect_absent |
        userfault::track_writes | userfault::move_pages;

    std::size_t page;
    unsigned page_shift;
    fork_marker marker;
    pagemap entries;
    userfault faults;
    frame_store frames;
    page_table table;
    mapping_budget budget;
    exclusion writers;
    change_tracker tracker;
    memory_reader reader;
    std::uint32_t displacements = 0;
    /// Whether process_madvise gives several pieces of memory back. Constant: nothing of ours may
    /// be written inside of a window.
    bool const discards_at_once = can_discard_at_once(page);
    /// Short runs may be merged in batches, whose pages are empty for a moment.
    [[nodiscard]] bool empties_pages() const noexcept {
        return discards_at_once && writers.deserted();
    }

    bool forgot_pages = false; ///< Of which the engine has not been told.
    bool lists_all = false;    ///< The survey that goes on does, whatever it was asked for.
    page_range suspect; ///< A survey found what cannot be there: look at the kernel's mappings.
};

} // namespace detail::os
KSM_NAMESPACE_END

#endif
