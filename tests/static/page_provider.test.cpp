// SPDX-License-Identifier: BSL-1.0
// The concepts of the seam, from both sides. Nothing runs: this file passes when it compiles.
#include <cstddef>
#include <span>

#include <ksm/page_provider.hpp>
#include <ksm/providers/faulty.hpp>
#include <ksm/providers/simulated.hpp>
#include <ksm/providers/tracing.hpp>

namespace {

using namespace ksm;

struct complete {
    std::size_t page_size() const noexcept;
    survey_result survey(space_id, page_number, coverage, std::span<page_run>) noexcept;
    std::span<std::byte const> view(space_id, page_number) noexcept;
    std::span<std::byte const> view(frame_id) noexcept;
    promotion promote(space_id, page_number, page_count) noexcept;
    progress merge(space_id, page_number, page_count, frame_id) noexcept;
    progress unmerge(space_id, page_number, page_count) noexcept;
    void release(frame_id, page_count) noexcept;
};
static_assert(page_provider<complete> && check_page_provider<complete>());
static_assert(!has_zero_merging<complete>);

struct with_zero_merging : complete {
    progress merge_zero(space_id, page_set) noexcept;
};
static_assert(page_provider<with_zero_merging> && has_zero_merging<with_zero_merging>);

// Not even one requirement is met by accident.
struct empty {};
static_assert(!has_page_size<empty> && !has_survey<empty> && !has_page_view<empty> &&
              !has_frame_view<empty> && !has_promotion<empty> && !has_merging<empty> &&
              !has_unmerging<empty> && !has_release<empty> && !has_zero_merging<empty>);
static_assert(!page_provider<empty>);

// A page size that may throw, that is no std::size_t, or that only a mutable provider tells.
struct throwing_page_size : complete {
    std::size_t page_size() const;
};
struct int_page_size : complete {
    int page_size() const noexcept;
};
struct mutable_page_size : complete {
    std::size_t page_size() noexcept;
};
struct no_page_size : complete {
    std::size_t page_size() const noexcept = delete;
};
static_assert(!has_page_size<throwing_page_size> && !page_provider<throwing_page_size>);
static_assert(!has_page_size<int_page_size> && !page_provider<int_page_size>);
static_assert(!has_page_size<mutable_page_size> && !page_provider<mutable_page_size>);
static_assert(!has_page_size<no_page_size> && !page_provider<no_page_size>);

struct throwing_survey : complete {
    survey_result survey(space_id, page_number, coverage, std::span<page_run>);
};
struct counting_survey : complete {
    std::size_t survey(space_id, page_number, coverage, std::span<page_run>) noexcept;
};
struct survey_without_coverage : complete {
    survey_result survey(space_id, page_number, std::span<page_run>) noexcept;
};
static_assert(!has_survey<throwing_survey> && !page_provider<throwing_survey>);
static_assert(!has_survey<counting_survey> && !page_provider<counting_survey>);
static_assert(!has_survey<survey_without_coverage> && !page_provider<survey_without_coverage>);

struct frame_view_only : complete {
    std::span<std::byte const> view(frame_id) noexcept;
};
struct throwing_page_view : complete {
    using complete::view;
    std::span<std::byte const> view(space_id, page_number);
};
struct mutable_page_view : complete {
    using complete::view;
    std::span<std::byte> view(space_id, page_number) noexcept;
};
struct pointer_page_view : complete {
    using complete::view;
    std::byte const* view(space_id, page_number) noexcept;
};
static_assert(!has_page_view<frame_view_only> && has_frame_view<frame_view_only>);
static_assert(!page_provider<frame_view_only>);
static_assert(!has_page_view<throwing_page_view> && !page_provider<throwing_page_view>);
static_assert(!has_page_view<mutable_page_view> && !page_provider<mutable_page_view>);
static_assert(!has_page_view<pointer_page_view> && !page_provider<pointer_page_view>);

struct page_view_only : complete {
    std::span<std::byte const> view(space_id, page_number) noexcept;
};
struct throwing_frame_view : complete {
    using complete::view;
    std::span<std::byte const> view(frame_id);
};
struct mutable_frame_view : complete {
    using complete::view;
    std::span<std::byte> view(frame_id) noexcept;
};
static_assert(!has_frame_view<page_view_only> && has_page_view<page_view_only>);
static_assert(!page_provider<page_view_only>);
static_assert(!has_frame_view<throwing_frame_view> && !page_provider<throwing_frame_view>);
static_assert(!has_frame_view<mutable_frame_view> && !page_provider<mutable_frame_view>);

struct throwing_promotion : complete {
    promotion promote(space_id, page_number, page_count);
};
struct promotion_without_frame : complete {
    progress promote(space_id, page_number, page_count) noexcept;
};
struct single_promotion : complete {
    promotion promote(space_id, page_number) noexcept;
};
static_assert(!has_promotion<throwing_promotion> && !page_provider<throwing_promotion>);
static_assert(!has_promotion<promotion_without_frame> && !page_provider<promotion_without_frame>);
static_assert(!has_promotion<single_promotion> && !page_provider<single_promotion>);

struct throwing_merge : complete {
    progress merge(space_id, page_number, page_count, frame_id);
};
struct merge_with_status : complete {
    status merge(space_id, page_number, page_count, frame_id) noexcept;
};
struct merge_in_another_order : complete {
    progress merge(space_id, page_number, frame_id, page_count) noexcept;
};
static_assert(!has_merging<throwing_merge> && !page_provider<throwing_merge>);
static_assert(!has_merging<merge_with_status> && !page_provider<merge_with_status>);
static_assert(!has_merging<merge_in_another_order> && !page_provider<merge_in_another_order>);

struct throwing_unmerge : complete {
    progress unmerge(space_id, page_number, page_count);
};
struct silent_unmerge : complete {
    void unmerge(space_id, page_number, page_count) noexcept;
};
static_assert(!has_unmerging<throwing_unmerge> && !page_provider<throwing_unmerge>);
static_assert(!has_unmerging<silent_unmerge> && !page_provider<silent_unmerge>);

struct throwing_release : complete {
    void release(frame_id, page_count);
};
struct release_that_can_fail : complete {
    status release(frame_id, page_count) noexcept;
};
static_assert(!has_release<throwing_release> && !page_provider<throwing_release>);
static_assert(!has_release<release_that_can_fail> && !page_provider<release_that_can_fail>);

// A refinement of the wrong form is none. `check_page_provider` refuses it: see compile_fail/.
struct throwing_merge_zero : complete {
    progress merge_zero(space_id, page_set);
};
struct single_merge_zero : complete {
    progress merge_zero(space_id, page_number) noexcept;
};
struct merge_zero_with_status : complete {
    status merge_zero(space_id, page_set) noexcept;
};
static_assert(!has_zero_merging<throwing_merge_zero>);
static_assert(!has_zero_merging<single_merge_zero>);
static_assert(!has_zero_merging<merge_zero_with_status>);
static_assert(detail::mentions_merge_zero<throwing_merge_zero> &&
              detail::mentions_merge_zero<single_merge_zero> &&
              detail::mentions_merge_zero<merge_zero_with_status>);
static_assert(!detail::mentions_merge_zero<complete>);

// Decorators are providers, with the refinements of what they decorate, and no others.
static_assert(check_page_provider<faulty_provider<complete>>());
static_assert(!has_zero_merging<faulty_provider<complete>>);
static_assert(has_zero_merging<faulty_provider<with_zero_merging>>);
static_assert(check_page_provider<tracing_provider<complete>>());
static_assert(!has_zero_merging<tracing_provider<complete>>);
static_assert(has_zero_merging<tracing_provider<with_zero_merging>>);
static_assert(has_zero_merging<tracing_provider<faulty_provider<simulated_provider>>>);

} // namespace
