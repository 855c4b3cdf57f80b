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
#include <ksm/providers/linux/change_survey.hpp>
#include <ksm/providers/linux/healing.hpp>
#include <ksm/providers/linux/machinery.hpp>
#include <ksm/providers/linux/merging.hpp>
#include <ksm/providers/linux/mirror.hpp>
#include <ksm/providers/linux/options.hpp>
#include <ksm/providers/linux/pagemap.hpp>
#include <ksm/providers/linux/pins.hpp>
#include <ksm/providers/linux/region_error.hpp>
#include <ksm/providers/linux/regions.hpp>
#include <ksm/providers/linux/survey.hpp>
#include <ksm/providers/linux/throwing_regions.hpp>
#include <ksm/providers/linux/unmerging.hpp>
#include <ksm/providers/linux/violations.hpp>
#include <ksm/providers/linux/vm_flags.hpp>

KSM_NAMESPACE_BEGIN

/// Merges pages of the process's own memory.
class linux_provider : public detail::os::throwing_regions<linux_provider> {
  public:
    /// Never fails: what the kernel refuses leaves a provider that cannot merge, and
    /// `capabilities()` says why.
    explicit linux_provider(linux_options const& options = {}) noexcept
        : machine_(options), stable_mappings_(options.stable_mappings) {
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
        for (detail::os::region const& r : regions_) {
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
        detail::os::region const* const r = regions_.find(page);
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

    /// From `first` on: pages of one region with one kind of mapping, at most a window and at most
    /// `pages`; none if `first` is in no region.
    [[nodiscard]] detail::os::place next_place(space_id space, page_number first,
                                               std::size_t pages) noexcept;
    /// `step` with the next place whose pages are not pinned.
    template <class Step>
    [[nodiscard]] progress to_merge(space_id space, page_number first, std::size_t pages,
                                    Step&& step) noexcept {
        std::size_t const free = pins_.unpinned(first, pages);
        if (free == 0) {
            return {page_count{0}, status::busy};
        }
        detail::os::place const p = next_place(space, first, free);
        return p.pages == 0 ? progress{page_count{0}, status::gone} : step(p);
    }
    [[nodiscard]] std::span<std::byte const> view_of_copy(page_number page,
                                                          std::size_t pages) noexcept;
    /// The application has changed these pages of a region: they are its own from now on.
    void lose(page_range range) noexcept;
    [[nodiscard]] progress unmerge(space_id space, page_number first, page_count pages,
                                   detail::os::privacy wanted) noexcept;
    void forget_mirrors() noexcept {
        mirrors_.uproot([this](std::uint32_t id) { return regions_.has_mirror(id); });
    }

    detail::os::machinery machine_;
    detail::os::region_list regions_;
    detail::os::region_list lost_;
    detail::os::mapping_list mappings_;
    detail::os::mirror_store mirrors_{machine_.page};
    detail::os::healer healer_;
    detail::os::pin_list pins_;
    bool stable_mappings_;
    std::size_t ranges_lost_ = 0;
    std::size_t pages_lost_ = 0;
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
    u.metadata_bytes = machine_.table.bytes() + machine_.frames.metadata_bytes() +
                       regions_.bytes() + lost_.bytes() + pins_.bytes() + mirrors_.bytes() +
                       healer_.bytes() + machine_.reader.bytes() +
                       detail::os::pagemap::buffer_bytes();
    u.regions = regions_.size();
    u.region_pages = regions_.pages();
    u.ranges_lost = ranges_lost_;
    u.pages_lost = pages_lost_;
    return u;
}

inline region_error linux_provider::try_adopt(void* first, std::size_t bytes,
                                              page_range& out) noexcept {
    detail::os::region whole;
    if (region_error const e = detail::os::prepare_region(machine_, regions_, lost_, first, bytes,
                                                          stable_mappings_, whole)) {
        return e;
    }
    std::array<detail::os::region, detail::os::mirror_store::most_pieces> pieces;
    std::size_t const n = mirrors_.divide(whole, pieces);
    // Not before: the kernel likes to put what we map right below, where the mirror's seed is to
    // be.
    if (os_error const e = whole.in_place ? os_error{} : machine_.reader.prepare()) {
        forget_mirrors();
        return {region_fault::refused, e};
    }
    detail::os::add_region(machine_, regions_, lost_, whole.pages, std::span{pieces}.first(n));
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
            machine_, regions_, lost_, below + machine_.page, bytes, true, whole)) {
        detail::os::sys::munmap(below, bytes + machine_.page);
        return e;
    }
    whole.mirror = mirrors_.plant(below, whole.pages.first);
    detail::os::add_region(machine_, regions_, lost_, whole.pages, {&whole, 1});
    out = whole.pages;
    return {};
}

inline region_error linux_provider::try_release(page_range range) noexcept {
    if (range.count.value() == 0) {
        return {region_fault::empty, {}};
    }
    if (!detail::os::covered(regions_, lost_, range)) {
        return {region_fault::not_a_region, {}};
    }
    if (!regions_.prepare(1) || !lost_.prepare(1)) {
        return {region_fault::out_of_memory, {}};
    }
    if (pins_.unpinned(range.first, range.count.value()) < range.count.value()) {
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
    regions_.cut(range);
    lost_.cut(range);
    forget_mirrors();
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
    if (!pins_.add(range)) {
        return {region_fault::out_of_memory, {}};
    }
    linux_pin made{pins_, range};
    // The next survey finds merged and zero pages written.
    machine_.tracker.expect_copies();
    if (!detail::os::write_fault(address(range.first), range.count.value() << machine_.page_shift,
                                 machine_.page)) {
        return {region_fault::out_of_memory, {"madvise(MADV_POPULATE_WRITE)", ENOMEM}};
    }
    out = std::move(made);
    return {};
}

inline void linux_provider::lose(page_range range) noexcept {
    if (!regions_.prepare(1)) {
        // What can be cut off without memory: all the rest of the region.
        range.count = regions_.find(range.first)->pages.end() - range.first;
    }
    detail::os::forget_pages(machine_, range);
    regions_.cut(range);
    forget_mirrors();
    // Without memory `release` does not know it: it is no region.
    static_cast<void>(lost_.add({range, false, false, false}));
    machine_.reader.forget();
    ++ranges_lost_;
    pages_lost_ += range.count.value();
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

inline detail::os::place linux_provider::next_place(space_id space, page_number first,
                                                    std::size_t pages) noexcept {
    detail::os::region const* const r = regions_.find(first);
    if (r == nullptr || space != this->space() || pages == 0) {
        return {first};
    }
    detail::os::place p = machine_.place_in(*r, first, pages);
    if (stable_mappings_ || machine_.marker.in_child()) {
        return p;
    }
    auto const v = detail::os::judge_pages(machine_, mappings_, machine_.entries, p);
    if (!v.ours) {
        lose({first, page_count{v.pages}});
    }
    p.pages = v.ours ? v.pages : 0;
    return p;
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
    if (from == page_number{}) {
        machine_.tracker.begin_walk(wanted);
    }
    if (machine_.reader.bytes() != 0) {
        static_cast<void>(machine_.reader.prepare()); // without it the pages are busy
    }
    machine_.reader.forget();
    survey_result const r = wanted == coverage::changes && machine_.tracker.available()
                                ? detail::os::survey_changes(machine_, regions_, from, out)
                                : detail::os::survey_every_page(machine_, regions_, from, out);
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
        healer_.after_walk(machine_, mirrors_, regions_, [&](page_number p, std::size_t pages) {
            return next_place(space, p, pins_.unpinned(p, pages));
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

inline progress linux_provider::merge(space_id space, page_number first, page_count pages,
                                      frame_id frame) noexcept {
    KSM_ASSERT(machine_.frames.contains(frame + page_count{pages.value() - 1}),
               "frames of this provider");
    machine_.budget.refresh(machine_.mappings());
    if (status const s = machine_.writers.enter(); s != status::ok) {
        return {page_count{0}, s};
    }
    detail::os::exclusion::guard const guard{&machine_.writers};
    progress all;
    while (all.done < pages && all.why == status::ok) {
        frame_id const f = frame + all.done;
        std::size_t const most =
            std::min((pages - all.done).value(), machine_.frames.to_arena_end(f));
        progress const one =
            to_merge(space, first + all.done, most, [&](detail::os::place const& p) {
                return detail::os::merge_pages(machine_, p, f);
            });
        all.done += one.done;
        all.why = one.why;
    }
    return all;
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
        std::size_t const free = pins_.unpinned(first + all.done, (pages - all.done).value());
        if (free == 0) { // private since it was pinned
            all.done += page_count{1};
            continue;
        }
        detail::os::place const p = next_place(space, first + all.done, free);
        progress const one =
            p.pages == 0 ? progress{page_count{0}, status::gone}
                         : detail::os::unmerge_pages(machine_, mirrors_, p, wanted, exclusive);
        all.done += one.done;
        all.why = one.why;
    }
    mirrors_.rest();
    return all;
}

static_assert(check_page_provider<linux_provider>());
static_assert(has_zero_merging<linux_provider>);

KSM_NAMESPACE_END

#endif
