// SPDX-License-Identifier: BSL-1.0
// The seam between the engine, which knows about content, and a provider, which owns memory and
// page tables. This header knows neither an engine nor an operating system.
//
// Common preconditions: runs and sets have at least one page; frames were obtained from this
// provider and are not released. Common guarantees: operations are `noexcept`; beyond the `done`
// pages that an operation reports, every page is as it was before the call (I9). A provider is used
// by one thread at a time, but pages may be written, unmapped or forked by others at any moment.
#ifndef KSM_PAGE_PROVIDER_HPP
#define KSM_PAGE_PROVIDER_HPP

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

#include <ksm/outcome.hpp>
#include <ksm/types.hpp>

KSM_NAMESPACE_BEGIN

/// What a survey lists.
enum class coverage : std::uint8_t {
    every_page, ///< Every present mergeable page; what is not listed is gone.
    changes,    ///< Only what may differ from the previous survey or operation.
};

/// What a survey says of a page.
enum class page_state : std::uint8_t {
    unknown, ///< Present; the provider cannot tell whether it was written.
    written, ///< Written, appeared, or its copy-on-write was broken since the previous survey.
    merged,  ///< Maps a stable frame that is not released.
    zero,    ///< Still reads as zero through `merge_zero`.
    gone,    ///< Not present, or not mergeable any more.
};

/// Consecutive pages of one state.
struct page_run {
    page_number first;
    page_count pages;
    page_state state = page_state::unknown;
    frame_id frame;           ///< When merged: page `first + i` maps `frame + i`.
    std::uint32_t domain = 0; ///< Security domain: pages of different domains never merge.
    std::uint16_t node = 0;   ///< NUMA node.
    bool huge = false;        ///< Part of a huge page: merging would split it.
};

/// What a call of `survey` delivered.
struct survey_result {
    std::size_t runs = 0;                  ///< Entries written.
    page_number next;                      ///< Where to go on; only meaningful unless `end`.
    bool end = true;                       ///< The space has been surveyed to its end.
    coverage given = coverage::every_page; ///< The same in every call of one walk.
};

/// A run of pages that are to map consecutive frames, and how that went.
struct merge_request {
    page_number first;
    page_count pages;
    frame_id frame; ///< For the first page.
    progress result;
};

// clang-format off

/// Pages have one size, a power of two of at least 64, constant at run time. [bytes]
template <class P>
concept has_page_size = requires(P const& p) {
    { p.page_size() } noexcept -> std::same_as<std::size_t>;
};

/// A space can be asked, in ascending order, for its mergeable pages. The next tracking interval
/// starts before the call returns: a page not listed by the next survey was not written since.
/// A space that has exited answers `every_page` with no runs.
template <class P>
concept has_survey = requires(P& p, space_id space, page_number from, coverage wanted,
                              std::span<page_run> out) {
    { p.survey(space, from, wanted, out) } noexcept -> std::same_as<survey_result>;
};

/// The bytes of a page, which may change while they are read; empty when the page is gone.
/// Valid until the second next call of view(space, page).
template <class P>
concept has_page_view = requires(P& p, space_id space, page_number page) {
    { p.view(space, page) } noexcept -> std::same_as<std::span<std::byte const>>;
};

/// The bytes of a stable frame. They never change until the frame is released (I3).
template <class P>
concept has_frame_view = requires(P& p, frame_id frame) {
    { p.view(frame) } noexcept -> std::same_as<std::span<std::byte const>>;
};

/// Turns the content that each page has *now* into a stable frame which the page then maps.
template <class P>
concept has_promotion = requires(P& p, space_id space, page_number first, page_count pages) {
    { p.promote(space, first, pages) } noexcept -> std::same_as<promotion>;
};

/// Maps page `first + i` to `frame + i` if and only if their bytes are equal while writers are
/// excluded (I1, I2).
template <class P>
concept has_merging = requires(P& p, space_id space, page_number first, page_count pages,
                               frame_id frame) {
    { p.merge(space, first, pages, frame) } noexcept -> std::same_as<progress>;
};

/// Gives pages private copies again; a page that is private already succeeds.
template <class P>
concept has_unmerging = requires(P& p, space_id space, page_number first, page_count pages) {
    { p.unmerge(space, first, pages) } noexcept -> std::same_as<progress>;
};

/// Says that the engine will not name these frames again. The provider reclaims them when no page
/// maps them any more (I11), and reports pages that still do like private ones.
template <class P>
concept has_release = requires(P& p, frame_id first, page_count frames) {
    { p.release(first, frames) } noexcept -> std::same_as<void>;
};

/// Everything that the engine needs.
template <class P>
concept page_provider =
    has_page_size<P> && has_survey<P> && has_page_view<P> && has_frame_view<P> &&
    has_promotion<P> && has_merging<P> && has_unmerging<P> && has_release<P>;

/// Refinement: pages that are zero while writers are excluded come to read as zero without a
/// frame of their own. `done` counts pages of the set, from the lowest on. Zero pages are
/// scattered, so that runs of them are short: a set lets a provider exclude writers once for many.
template <class P>
concept has_zero_merging = requires(P& p, space_id space, page_set pages) {
    { p.merge_zero(space, pages) } noexcept -> std::same_as<progress>;
};

/// Refinement: merges each run as `merge` would, though pages that are to be merged may be changed
/// by others until the call. A provider whose windows cost as much for one run as for many says
/// `prefers_batches()`: an engine then collects short runs.
template <class P>
concept has_batched_merging = requires(P& p, P const& c, space_id space,
                                       std::span<merge_request> runs) {
    { p.merge_batch(space, runs) } noexcept -> std::same_as<void>;
    { c.prefers_batches() } noexcept -> std::same_as<bool>;
};

namespace detail {
// A member of a refinement that is present in any form, and its likely misspellings.
template <class P> concept mentions_merge_zero = requires { &P::merge_zero; };
template <class P> concept mentions_merge_batch = requires { &P::merge_batch; };
template <class P> concept misspells_merge_zero_1 = requires { &P::merge_zeros; };
template <class P> concept misspells_merge_zero_2 = requires { &P::merge_zeroes; };
template <class P> concept misspells_merge_zero_3 = requires { &P::zero_merge; };
template <class P> concept misspells_merge_zero_4 = requires { &P::merge_zero_pages; };
} // namespace detail

// clang-format on

/// Put `static_assert(ksm::check_page_provider<my_provider>());` next to your provider: each
/// fault is then one sentence in the compiler's output.
template <class P>
consteval bool check_page_provider() {
    static_assert(has_page_size<P>,
                  "ksm: PageProvider needs `std::size_t page_size() const noexcept`");
    static_assert(has_survey<P>, "ksm: PageProvider needs `survey_result survey(space_id, "
                                 "page_number, coverage, std::span<page_run>) noexcept`");
    static_assert(has_page_view<P>, "ksm: PageProvider needs `std::span<std::byte const> "
                                    "view(space_id, page_number) noexcept`");
    static_assert(has_frame_view<P>,
                  "ksm: PageProvider needs `std::span<std::byte const> view(frame_id) noexcept`");
    static_assert(has_promotion<P>, "ksm: PageProvider needs `promotion promote(space_id, "
                                    "page_number, page_count) noexcept`");
    static_assert(has_merging<P>, "ksm: PageProvider needs `progress merge(space_id, page_number, "
                                  "page_count, frame_id) noexcept`");
    static_assert(has_unmerging<P>, "ksm: PageProvider needs `progress unmerge(space_id, "
                                    "page_number, page_count) noexcept`");
    static_assert(has_release<P>,
                  "ksm: PageProvider needs `void release(frame_id, page_count) noexcept`");
    static_assert(has_zero_merging<P> || !detail::mentions_merge_zero<P>,
                  "ksm: merge_zero is optional, but when present it must be `progress "
                  "merge_zero(space_id, page_set) noexcept`");
    static_assert(has_batched_merging<P> || !detail::mentions_merge_batch<P>,
                  "ksm: merge_batch is optional, but when present it must be `void "
                  "merge_batch(space_id, std::span<merge_request>) noexcept`, and `bool "
                  "prefers_batches() const noexcept` with it");
    static_assert(!detail::misspells_merge_zero_1<P> && !detail::misspells_merge_zero_2<P> &&
                      !detail::misspells_merge_zero_3<P> && !detail::misspells_merge_zero_4<P>,
                  "ksm: the optional member for zero pages is spelt `merge_zero`");
    return page_provider<P>;
}

KSM_NAMESPACE_END

#endif
