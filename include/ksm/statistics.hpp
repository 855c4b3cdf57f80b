// SPDX-License-Identifier: BSL-1.0
// What a scanner counts. Names and meaning are those of Linux's /sys/kernel/mm/ksm where it has
// them; see docs/stats.md.
#ifndef KSM_STATISTICS_HPP
#define KSM_STATISTICS_HPP

#include <array>
#include <cstdint>

#include <ksm/outcome.hpp>

KSM_NAMESPACE_BEGIN

/// A consistent set of counters. Everything up to `general_profit` describes the present and
/// equals a recount of the structures (I6); the rest has been summed up since construction.
struct statistics {
    std::uint64_t pages_shared = 0;   ///< Stable frames in use.
    std::uint64_t pages_sharing = 0;  ///< Further mappings of them: pages saved.
    std::uint64_t pages_unshared = 0; ///< Pages in an unstable tree.
    std::uint64_t pages_volatile = 0; ///< Pages that are in no tree and not merged.
    std::uint64_t ksm_zero_pages = 0; ///< Pages merged into the zero page.
    std::uint64_t rmap_items = 0;     ///< Pages that are tracked.
    std::uint64_t metadata_bytes = 0; ///< Bytes taken from the memory resource.
    /// (pages_sharing + ksm_zero_pages) · page size − metadata_bytes. [bytes]
    std::int64_t general_profit = 0;

    std::uint64_t full_scans = 0;         ///< Completed passes since the last unmerge_all.
    std::uint64_t pages_scanned = 0;      ///< Visits of candidate pages.
    std::uint64_t pages_skipped = 0;      ///< Visits given up for lack of metadata memory.
    std::uint64_t merged_pages_total = 0; ///< Pages that came to map a frame or the zero page.
    std::uint64_t runs_merged = 0;        ///< Successful provider calls that merged them.
    std::uint64_t longest_run = 0;        ///< The most pages that one of those calls merged.
    std::uint64_t digests = 0;            ///< Digests taken.
    std::uint64_t pages_compared = 0;     ///< Comparisons of two pages by the engine itself.
    /// How promote, merge and merge_zero ended, by `status`.
    std::array<std::uint64_t, status_count> by_status{};
};

/// The share of one space.
struct space_statistics {
    std::uint64_t rmap_items = 0;        ///< Pages that are tracked.
    std::uint64_t ksm_merging_pages = 0; ///< Mappings of stable frames, the first included.
    std::uint64_t ksm_zero_pages = 0;    ///< Pages merged into the zero page.
    /// (ksm_merging_pages + ksm_zero_pages) · page size − metadata of the space. [bytes]
    std::int64_t ksm_process_profit = 0;
};

KSM_NAMESPACE_END

#endif
