// SPDX-License-Identifier: BSL-1.0
// The process's own memory on Linux. A merged page is a private mapping of a stable frame, so the
// kernel copies it when it is written, also inside of system calls.
//
// Common preconditions: a provider is used by one thread at a time. As long as a range is a region
// the application keeps it mapped and does not change it by munmap, mremap, mprotect or madvise
// (DONTNEED, FREE, REMOVE, HUGEPAGE, ...): on a page that was merged MADV_DONTNEED would show what
// is in the frame's place, not zeros. Stacks, thread-local storage and robust mutexes do not belong
// in a region.
#ifndef KSM_PROVIDERS_LINUX_HPP
#define KSM_PROVIDERS_LINUX_HPP

#ifndef __linux__
#error "ksm: this provider is for Linux; the simulated one runs everywhere"
#endif

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include <ksm/page_provider.hpp>
#include <ksm/providers/linux/admission.hpp>
#include <ksm/providers/linux/batch.hpp>
#include <ksm/providers/linux/change_survey.hpp>
#include <ksm/providers/linux/healing.hpp>
#include <ksm/providers/linux/machinery.hpp>
#include <ksm/providers/linux/merging.hpp>
#include <ksm/providers/linux/mirror.hpp>
#include <ksm/providers/linux/options.hpp>
#include <ksm/providers/linux/pagemap.hpp>
#include <ksm/providers/linux/pins.hpp>
#include <ksm/providers/linux/region_error.hpp>
#include <ksm/providers/linux/survey.hpp>
#include <ksm/providers/linux/territory.hpp>
#include <ksm/providers/linux/throwing_regions.hpp>
#include <ksm/providers/linux/unmerging.hpp>

KSM_NAMESPACE_BEGIN

/// Merges pages of the process's own memory.
/// \requires What `linux_options` asks for.
class linux_provider : public detail::os::throwing_regions<linux_provider> {
  public:
    /// Never fails: what the kernel refuses leaves a provider that cannot merge, and
    /// `capabilities()` says why.
    explicit linux_provider(linux_options const& options = {}) noexcept
        : machine_(options), land_(machine_, options.stable_mappings) {
        if (machine_.entries.error()) {
            machine_.writers.disable(no_pagemap, machine_.entries.error());
        }
    }
    /// Touches no page: what is merged stays merged, and keeps its frames alive.
    ~linux_provider() {
        if (machine_.marker.in_child()) {
            return;
        }
        // A child that has inherited a userfaultfd would keep it alive.
        for (detail::os::region const& r : land_.regions) {
            std::size_t const bytes = r.pages.count.value() << machine_.page_shift;
            machine_.tracker.dismiss(address(r.pages.first), bytes);
            machine_.writers.forget(address(r.pages.first), bytes);
        }
    }
    linux_provider(linux_provider const&) = delete;
    linux_provider& operator=(linux_provider const&) = delete;

    [[nodiscard]] linux_capabilities capabilities() const noexcept;
    [[nodiscard]] linux_usage usage() const noexcept;
    [[nodiscard]] linux_windows windows() const noexcept {
        return machine_.writers.windows().totals();
    }

    [[nodiscard]] space_id space() const noexcept { return space_id{0}; }
    [[nodiscard]] std::size_t page_size() const noexcept { return machine_.page; }
    [[nodiscard]] std::byte* address(page_number page) const noexcept {
        return machine_.address(page);
    }
    [[nodiscard]] page_number page_of(void const* p) const noexcept { return machine_.page_of(p); }

    /// Maps new anonymous memory, which is a region. It is the caller's: `release` it, then munmap.
    [[nodiscard]] region_error try_map(page_count pages, page_range& out) noexcept;
    /// Makes memory that is there a region: private anonymous read-write memory in whole pages,
    /// without attributes that merging would lose. An error changes nothing.
    [[nodiscard]] region_error try_adopt(void* first, std::size_t bytes, page_range& out) noexcept;
    /// Makes every page private and forgets the range, which may be a part of a region or several
    /// regions side by side. The memory is as it was before it became a region, its mappings
    /// included. Where writers could not be excluded (see `unmerge`) pages stay private copies in
    /// mappings of frames: MADV_DONTNEED shows the frame there, or zeros once it is given back, and
    /// only munmap or a new mapping ends that.
    [[nodiscard]] region_error try_release(page_range range) noexcept;
    /// Gives pages of regions private memory, as a write to each would, and leaves them where they
    /// are until `out` ends: merging them answers `busy`, they do not heal, and they cannot be
    /// released. To be called before they are pinned for I/O where `no_pinned_io` is promised, or
    /// where a reference is no pin (vmsplice). Costs each call of an operation a look at each pin.
    [[nodiscard]] region_error try_pin(page_range range, linux_pin& out) noexcept;
#if KSM_HAS_EXCEPTIONS
    using detail::os::throwing_regions<linux_provider>::release;
#endif

    /// Where changes are not tracked, lists every page. In a forked child the space has exited.
    [[nodiscard]] survey_result survey(space_id space, page_number from, coverage wanted,
                                       std::span<page_run> out) noexcept;

    [[nodiscard]] std::span<std::byte const> view(space_id space, page_number page) noexcept {
        detail::os::region const* const r = land_.regions.find(page);
        if (r == nullptr || space != this->space()) {
            return {};
        }
        if (r->in_place) {
            return {address(page), machine_.page};
        }
        return view_of_copy(page, (r->pages.end() - page).value());
    }
    [[nodiscard]] std::span<std::byte const> view(frame_id frame) noexcept {
        KSM_ASSERT(machine_.frames.contains(frame), "a frame of this provider");
        return {machine_.frames.view(frame), machine_.page};
    }

    [[nodiscard]] promotion promote(space_id space, page_number first, page_count pages) noexcept;
    [[nodiscard]] progress merge(space_id space, page_number first, page_count pages,
                                 frame_id frame) noexcept;
    /// In one window where the strategy is `quiescent` and nobody reads (see `no_readers`), with
    /// one call of `freeze` in any case.
    void merge_batch(space_id space, std::span<merge_request> runs) noexcept;
    [[nodiscard]] bool prefers_batches() const noexcept {
        return machine_.writers.stops_threads() || machine_.empties_pages();
    }
    [[nodiscard]] progress merge_zero(space_id space, page_set pages) noexcept;

    /// Works without write exclusion, without a free mapping, and in a forked child.
    [[nodiscard]] progress unmerge(space_id space, page_number first, page_count pages) noexcept {
        return unmerge(space, first, pages, detail::os::privacy::content);
    }
    void release(frame_id first, page_count frames) noexcept {
        machine_.frames.release(first, frames.value());
    }

  private:
    static constexpr char const* no_pagemap = "The kernel does not let us read /proc/self/pagemap.";
    [[nodiscard]] bool knows(space_id s) const noexcept { return s == space(); }
    [[nodiscard]] detail::os::place next_place(space_id s, page_number first,
                                               std::size_t pages) noexcept {
        return land_.next_place(first, knows(s) ? pages : 0);
    }
    template <class Step>
    [[nodiscard]] progress to_merge(space_id s, page_number first, std::size_t pages, Step&& step,
                                    std::size_t window = detail::os::window_pages) noexcept {
        return knows(s) ? land_.to_merge(first, pages, window, step)
                        : progress{page_count{0}, status::gone};
    }
    /// `merge` in a call that has been entered.
    [[nodiscard]] progress merge_run(space_id space, page_number first, page_count pages,
                                     frame_id frame) noexcept;
    [[nodiscard]] std::span<std::byte const> view_of_copy(page_number page,
                                                          std::size_t pages) noexcept;
    [[nodiscard]] progress unmerge(space_id space, page_number first, page_count pages,
                                   detail::os::privacy wanted) noexcept;

    detail::os::machinery machine_;
    detail::os::territory land_;
    detail::os::healer healer_;
};

inline linux_capabilities linux_provider::capabilities() const noexcept {
    detail::os::exclusion::verdict const v = machine_.writers.judge();
    os_error const none = machine_.marker.error();
    return {v.strategy,
            v.reason,
            machine_.tracker.available(),
            machine_.faults.user_mode_only(),
            none ? none : machine_.writers.refusal(),
            machine_.budget.max_map_count(),
            machine_.budget.limit()};
}

inline linux_usage linux_provider::usage() const noexcept {
    linux_usage u;
    u.mappings_used = machine_.mappings();
    u.mapping_budget = machine_.budget.limit();
    u.pages_healed = healer_.healed();
    u.frames_live = machine_.frames.live();
    u.frames_dead = machine_.frames.dead();
    u.frames_punched = machine_.frames.punched();
    u.frame_bytes = (u.frames_live + u.frames_dead) * machine_.page;
    u.metadata_bytes = machine_.table.bytes() + machine_.frames.metadata_bytes() + land_.bytes() +
                       healer_.bytes() + machine_.reader.bytes() +
                       detail::os::pagemap::buffer_bytes();
    u.regions = land_.regions.size();
    u.region_pages = land_.regions.pages();
    u.ranges_lost = land_.ranges_lost;
    u.pages_lost = land_.pages_lost;
    return u;
}

inline region_error linux_provider::try_adopt(void* first, std::size_t bytes,
                                              page_range& out) noexcept {
    detail::os::region whole;
    if (region_error const e = detail::os::prepare_region(
            machine_, land_.regions, land_.lost, first, bytes, land_.stable_mappings, whole)) {
        return e;
    }
    std::array<detail::os::region, detail::os::mirror_store::most_pieces> pieces;
    std::size_t const n = land_.mirrors.divide(whole, pieces);
    // Not before: the kernel likes to put what we map right below, where the mirror's seed is to
    // be.
    if (os_error const e = whole.in_place ? os_error{} : machine_.reader.prepare()) {
        land_.forget_mirrors();
        return {region_fault::refused, e};
    }
    detail::os::add_region(machine_, land_.regions, land_.lost, whole.pages,
                           std::span{pieces}.first(n));
    out = whole.pages;
    return {};
}

inline region_error linux_provider::try_map(page_count pages, page_range& out) noexcept {
    if (pages.value() == 0) {
        return {region_fault::empty, {}};
    }
    if (pages.value() >= SIZE_MAX >> machine_.page_shift) {
        return {region_fault::out_of_memory, {}};
    }
    // One page more than wanted, which becomes the mirror.
    std::size_t const bytes = pages.value() << machine_.page_shift;
    void* const p = detail::os::sys::mmap(nullptr, bytes + machine_.page, detail::os::read_write,
                                          detail::os::anonymous, -1, 0);
    if (p == MAP_FAILED) {
        return {errno == ENOMEM ? region_fault::out_of_memory : region_fault::refused,
                {"mmap", errno}};
    }
    auto* const below = static_cast<std::byte*>(p);
    detail::os::region whole;
    if (region_error const e = detail::os::prepare_region(
            machine_, land_.regions, land_.lost, below + machine_.page, bytes, true, whole)) {
        detail::os::sys::munmap(below, bytes + machine_.page);
        return e;
    }
    whole.mirror = land_.mirrors.plant(below, whole.pages.first);
    detail::os::add_region(machine_, land_.regions, land_.lost, whole.pages, {&whole, 1});
    out = whole.pages;
    return {};
}

inline region_error linux_provider::try_release(page_range range) noexcept {
    if (range.count.value() == 0) {
        return {region_fault::empty, {}};
    }
    if (!detail::os::covered(land_.regions, land_.lost, range)) {
        return {region_fault::not_a_region, {}};
    }
    if (!land_.regions.prepare(1) || !land_.lost.prepare(1)) {
        return {region_fault::out_of_memory, {}};
    }
    if (land_.pins.unpinned(range.first, range.count.value()) < range.count.value()) {
        return {region_fault::pinned, {}};
    }
    for (page_number from = range.first; from < range.end();) {
        progress const p = unmerge(space(), from, range.end() - from, detail::os::privacy::mapping);
        from += p.done;
        switch (p.why) {
        case status::ok: break;
        case status::gone: from += page_count{1}; break; // unmapped: nothing to make private
        case status::out_of_memory:
            return {region_fault::out_of_memory, {"madvise(MADV_POPULATE_WRITE)", ENOMEM}};
        case status::busy: return {region_fault::refused, {"madvise(MADV_POPULATE_WRITE)", EAGAIN}};
        default: return {region_fault::refused, {"madvise(MADV_POPULATE_WRITE)", EFAULT}};
        }
    }
    detail::os::forget_pages(machine_, range);
    land_.regions.cut(range);
    land_.lost.cut(range);
    land_.forget_mirrors();
    machine_.reader.forget();
    return {};
}

inline region_error linux_provider::try_pin(page_range range, linux_pin& out) noexcept {
    if (range.count.value() == 0) {
        return {region_fault::empty, {}};
    }
    if (machine_.marker.in_child()) {
        return {region_fault::forked, {}};
    }
    for (page_number from = range.first; from < range.end();) {
        detail::os::place const p = next_place(space(), from, (range.end() - from).value());
        if (p.pages == 0) {
            return {region_fault::not_a_region, {}};
        }
        from += page_count{p.pages};
    }
    if (!land_.pins.add(range)) {
        return {region_fault::out_of_memory, {}};
    }
    linux_pin made{land_.pins, range};
    // The next survey finds merged and zero pages written.
    machine_.tracker.expect_copies();
    if (!detail::os::write_fault(address(range.first), range.count.value() << machine_.page_shift,
                                 machine_.page)) {
        return {region_fault::out_of_memory, {"madvise(MADV_POPULATE_WRITE)", ENOMEM}};
    }
    out = std::move(made);
    return {};
}

inline std::span<std::byte const> linux_provider::view_of_copy(page_number page,
                                                               std::size_t pages) noexcept {
    std::byte const* copy = machine_.reader.view(address(page), pages);
    if (copy == nullptr && !machine_.marker.in_child()) {
        // It is not there any more, or our descriptor is not.
        std::size_t const left = next_place(space(), page, pages).pages;
        if (left != 0 && !machine_.reader.prepare()) {
            copy = machine_.reader.view(address(page), left);
        }
    }
    return {copy, copy == nullptr ? 0 : machine_.page};
}

inline survey_result linux_provider::survey(space_id space, page_number from, coverage wanted,
                                            std::span<page_run> out) noexcept {
    if (space != this->space() || machine_.marker.in_child()) {
        return {};
    }
    if (!machine_.entries.intact() && !machine_.entries.reopen()) {
        machine_.writers.disable(no_pagemap, {"fstat", EBADF});
    }
    KSM_ASSERT(!out.empty(), "a survey needs room for a run");
    machine_.budget.refresh_if_old(machine_.mappings());
    coverage const given = machine_.walk(from, wanted);
    if (machine_.reader.bytes() != 0) {
        static_cast<void>(machine_.reader.prepare()); // without it the pages are busy
    }
    machine_.reader.forget();
    survey_result const r = given == coverage::changes
                                ? detail::os::survey_changes(machine_, land_.regions, from, out)
                                : detail::os::survey_every_page(machine_, land_.regions, from, out);
    if (machine_.suspect.count.value() != 0) {
        // Seen where it must not be: a page of a file.
        for (page_number p = machine_.suspect.first; p < machine_.suspect.end();) {
            page_count const left = machine_.suspect.end() - p;
            detail::os::place const q = next_place(space, p, left.value());
            p += q.pages == 0 ? page_count{1} : page_count{q.pages};
        }
        machine_.suspect = {};
    }
    if (r.end) {
        healer_.after_walk(machine_, land_.mirrors, land_.regions,
                           [&](page_number p, std::size_t pages) {
                               return next_place(space, p, land_.pins.unpinned(p, pages));
                           });
    }
    machine_.writers.rest();
    machine_.frames.reclaim(r.end); // once a pass the children are asked after
    return r;
}

inline promotion linux_provider::promote(space_id space, page_number first,
                                         page_count pages) noexcept {
    machine_.budget.refresh(machine_.mappings());
    if (status const s = machine_.writers.enter(); s != status::ok) {
        return {frame_id{}, {page_count{0}, s}};
    }
    detail::os::exclusion::guard const guard{&machine_.writers};
    detail::os::frame_store::reservation const room = machine_.frames.reserve(pages.value());
    if (room.frames == 0) {
        return {frame_id{}, {page_count{0}, status::out_of_frames}};
    }
    std::size_t done = 0;
    status why = status::ok;
    while (done < room.frames && why == status::ok) {
        page_count const so_far{done};
        progress const one =
            to_merge(space, first + so_far, room.frames - done, [&](detail::os::place const& p) {
                return detail::os::promote_pages(machine_, p, room.first + so_far);
            });
        done += one.done.value();
        why = one.why;
    }
    if (done < room.frames) {
        machine_.frames.discard(room.first + page_count{done}, room.frames - done);
    }
    return {room.first, {page_count{done}, why}};
}

inline progress linux_provider::merge_run(space_id space, page_number first, page_count pages,
                                          frame_id frame) noexcept {
    KSM_ASSERT(machine_.frames.contains(frame + page_count{pages.value() - 1}),
               "frames of this provider");
    progress all;
    while (all.done < pages && all.why == status::ok) {
        frame_id const f = frame + all.done;
        std::size_t const most =
            std::min((pages - all.done).value(), machine_.frames.to_arena_end(f));
        progress const one = to_merge(
            space, first + all.done, most,
            [&](detail::os::place const& p) { return detail::os::merge_pages(machine_, p, f); },
            machine_.longest_merge(first + all.done, most));
        all.done += one.done;
        all.why = one.why;
    }
    return all;
}

inline progress linux_provider::merge(space_id space, page_number first, page_count pages,
                                      frame_id frame) noexcept {
    machine_.budget.refresh(machine_.mappings());
    if (status const s = machine_.writers.enter(); s != status::ok) {
        return {page_count{0}, s};
    }
    detail::os::exclusion::guard const guard{&machine_.writers};
    return merge_run(space, first, pages, frame);
}

inline void linux_provider::merge_batch(space_id space, std::span<merge_request> runs) noexcept {
    machine_.budget.refresh(machine_.mappings());
    status const s = machine_.writers.enter();
    for (merge_request& r : runs) {
        r.result = {page_count{0}, s};
    }
    if (s != status::ok) {
        return;
    }
    detail::os::exclusion::guard const guard{&machine_.writers};
    while (!runs.empty()) {
        std::span const some = runs.first(std::min(runs.size(), detail::os::batch::most));
        if (machine_.empties_pages()) {
            std::size_t const lost = land_.ranges_lost;
            detail::os::batch together{machine_};
            for (merge_request& r : some) {
                static_cast<void>(
                    to_merge(space, r.first, r.pages.value(), [&](detail::os::place const& p) {
                        together.add(r, p);
                        return progress{};
                    }));
            }
            if (land_.ranges_lost == lost) { // with a range goes what was prepared beside it
                together.merge();
            }
        }
        for (merge_request& r : some) {
            if (r.result.why == status::ok && r.result.done < r.pages) {
                progress const rest = merge_run(space, r.first + r.result.done,
                                                r.pages - r.result.done, r.frame + r.result.done);
                r.result = {r.result.done + rest.done, rest.why};
            }
        }
        runs = runs.subspan(some.size());
    }
}

inline progress linux_provider::merge_zero(space_id space, page_set pages) noexcept {
    machine_.budget.refresh(machine_.mappings());
    if (status const s = machine_.writers.enter(); s != status::ok) {
        return {page_count{0}, s};
    }
    detail::os::exclusion::guard const guard{&machine_.writers};
    progress all;
    for (pages = pages.without(all.done); !pages.empty() && all.why == status::ok;) {
        progress const one =
            to_merge(space, pages.first, pages.span().value(), [&](detail::os::place const& p) {
                return detail::os::zero_pages(machine_, p,
                                              detail::os::piece_list::of(pages.mask, p.pages));
            });
        pages = pages.without(one.done);
        all.done += one.done;
        all.why = one.why;
    }
    return all;
}

inline progress linux_provider::unmerge(space_id space, page_number first, page_count pages,
                                        detail::os::privacy wanted) noexcept {
    bool const exclusive = machine_.writers.enter() == status::ok;
    detail::os::exclusion::guard const guard{exclusive ? &machine_.writers : nullptr};
    progress all;
    while (all.done < pages && all.why == status::ok) {
        std::size_t const free = land_.pins.unpinned(first + all.done, (pages - all.done).value());
        if (free == 0) { // private since it was pinned
            all.done += page_count{1};
            continue;
        }
        detail::os::place const p = next_place(space, first + all.done, free);
        progress const one =
            p.pages == 0 ? progress{page_count{0}, status::gone}
                         : detail::os::unmerge_pages(machine_, land_.mirrors, p, wanted, exclusive);
        all.done += one.done;
        all.why = one.why;
    }
    land_.mirrors.rest();
    return all;
}

static_assert(check_page_provider<linux_provider>());
static_assert(has_zero_merging<linux_provider> && has_batched_merging<linux_provider>);

KSM_NAMESPACE_END

#endif
