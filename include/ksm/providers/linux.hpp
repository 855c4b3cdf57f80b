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
#include <cstddef>
#include <cstdint>
#include <span>
#ifdef __cpp_exceptions
#include <system_error>
#endif

#include <ksm/page_provider.hpp>
#include <ksm/providers/linux/change_survey.hpp>
#include <ksm/providers/linux/machinery.hpp>
#include <ksm/providers/linux/merging.hpp>
#include <ksm/providers/linux/options.hpp>
#include <ksm/providers/linux/pagemap.hpp>
#include <ksm/providers/linux/region_error.hpp>
#include <ksm/providers/linux/regions.hpp>
#include <ksm/providers/linux/survey.hpp>
#include <ksm/providers/linux/unmerging.hpp>
#include <ksm/providers/linux/violations.hpp>
#include <ksm/providers/linux/vm_flags.hpp>

KSM_NAMESPACE_BEGIN

/// Merges pages of the process's own memory.
class linux_provider {
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

    [[nodiscard]] space_id space() const noexcept { return space_id{0}; }
    [[nodiscard]] std::size_t page_size() const noexcept { return machine_.page; }
    [[nodiscard]] std::byte* address(page_number page) const noexcept {
        return machine_.address(page);
    }
    [[nodiscard]] page_number page_of(void const* p) const noexcept {
        return page_number{reinterpret_cast<std::uintptr_t>(p) >> machine_.page_shift};
    }

    /// Maps new anonymous memory, which is a region. It is the caller's: `release` it, then munmap.
    [[nodiscard]] region_error try_map(page_count pages, page_range& out) noexcept;
    /// Makes memory that is there a region: private anonymous read-write memory in whole pages,
    /// without attributes that merging would lose. An error changes nothing.
    [[nodiscard]] region_error try_adopt(void* first, std::size_t bytes, page_range& out) noexcept;
    /// Makes every page private and forgets the range, which may be a part of a region or several
    /// regions side by side. The kernel's mappings stay as many as there were. Where writers could
    /// not be excluded (see `unmerge`) pages stay private copies in mappings of frames:
    /// MADV_DONTNEED shows the frame there, or zeros once it is given back, and only munmap or a
    /// new mapping ends that.
    [[nodiscard]] region_error try_release(page_range range) noexcept;

#if KSM_HAS_EXCEPTIONS
    /// \throws std::system_error with the message of the fault; here and below.
    [[nodiscard]] page_range map(page_count pages) {
        page_range out;
        raise(try_map(pages, out));
        return out;
    }
    [[nodiscard]] page_range adopt(void* first, std::size_t bytes) {
        page_range out;
        raise(try_adopt(first, bytes, out));
        return out;
    }
    void release(page_range range) { raise(try_release(range)); }
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
    [[nodiscard]] progress merge_zero(space_id space, page_number first, page_count pages) noexcept;

    /// Works without write exclusion, without a free mapping, and in a forked child.
    [[nodiscard]] progress unmerge(space_id space, page_number first, page_count pages) noexcept {
        return unmerge(space, first, pages, detail::os::privacy::content);
    }
    void release(frame_id first, page_count frames) noexcept {
        machine_.frames.release(first, frames.value());
    }

  private:
    static constexpr char const* no_pagemap = "The kernel does not let us read /proc/self/pagemap.";

    /// The end of a write exclusion that `enter` began.
    struct exclusion_guard {
        detail::os::exclusion* writers;
        ~exclusion_guard() {
            if (writers != nullptr) {
                writers->leave();
            }
        }
    };

    /// From `first` on: pages of one region with one kind of mapping, at most a window and at most
    /// `pages`; none if `first` is in no region.
    [[nodiscard]] detail::os::place next_place(space_id space, page_number first,
                                               std::size_t pages) noexcept;
    [[nodiscard]] std::span<std::byte const> view_of_copy(page_number page,
                                                          std::size_t pages) noexcept;
    /// The application has changed these pages of a region: they are its own from now on.
    void lose(page_range range) noexcept;
    [[nodiscard]] bool covers(page_range range) const noexcept;
    /// What the pages map is the application's business from now on.
    void forget_pages(page_range range) noexcept;
    [[nodiscard]] progress unmerge(space_id space, page_number first, page_count pages,
                                   detail::os::privacy wanted) noexcept;
    [[nodiscard]] region_error examine(void const* first, std::size_t bytes,
                                       bool& noreserve) noexcept;
    [[nodiscard]] region_error add_region(void* first, std::size_t bytes, bool own,
                                          page_range& out) noexcept;
#if KSM_HAS_EXCEPTIONS
    static void raise(region_error e) {
        if (e) {
            int const code = e.os                                    ? e.os.error
                             : e.what == region_fault::out_of_memory ? ENOMEM
                                                                     : EINVAL;
            throw std::system_error(code, std::generic_category(), message(e.what));
        }
    }
#endif

    detail::os::machinery machine_;
    detail::os::region_list regions_;
    detail::os::region_list lost_;
    detail::os::mapping_list mappings_;
    detail::os::scratch_memory scratch_;
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
    u.frames_live = machine_.frames.live();
    u.frames_dead = machine_.frames.dead();
    u.frames_punched = machine_.frames.punched();
    u.frame_bytes = (u.frames_live + u.frames_dead) * machine_.page;
    u.metadata_bytes = machine_.table.bytes() + machine_.frames.metadata_bytes() +
                       regions_.bytes() + lost_.bytes() + machine_.reader.bytes() +
                       detail::os::pagemap::buffer_bytes();
    u.regions = regions_.size();
    u.region_pages = regions_.pages();
    u.ranges_lost = ranges_lost_;
    u.pages_lost = pages_lost_;
    return u;
}

inline region_error linux_provider::examine(void const* first, std::size_t bytes,
                                            bool& noreserve) noexcept {
    auto const begin = reinterpret_cast<std::uintptr_t>(first);
    if (machine_.marker.in_child() && !machine_.marker.error()) {
        return {region_fault::forked, {}};
    }
    if (bytes == 0) {
        return {region_fault::empty, {}};
    }
    if (begin % machine_.page != 0 || bytes % machine_.page != 0) {
        return {region_fault::unaligned, {}};
    }
    if (begin + bytes < begin) {
        return {region_fault::unmapped, {}};
    }
    if (regions_.overlaps({page_of(first), page_count{bytes >> machine_.page_shift}})) {
        return {region_fault::overlapping, {}};
    }
    // Before Linux 6.7 the stacks of other threads look like any other memory.
    for (auto const own : {reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0)),
                           static_cast<std::uintptr_t>(::pthread_self())}) {
        if (own >= begin && own < begin + bytes) {
            return {region_fault::stack, {}};
        }
    }
    detail::os::memory_kind const kind = detail::os::examine_memory(begin, begin + bytes);
    if (kind.error) {
        return kind.error;
    }
    if (machine_.entries.intact() &&
        detail::os::new_memory_is_locked(machine_.entries, machine_.page)) {
        return {region_fault::locked, {}};
    }
    noreserve = kind.noreserve;
    return {};
}

inline region_error linux_provider::add_region(void* first, std::size_t bytes, bool own,
                                               page_range& out) noexcept {
    bool noreserve = false;
    if (region_error const e = examine(first, bytes, noreserve)) {
        return e;
    }
    bool const in_place = own || stable_mappings_;
    if (os_error const e = in_place ? os_error{} : machine_.reader.prepare()) {
        return {region_fault::refused, e};
    }
    page_range const range{page_of(first), page_count{bytes >> machine_.page_shift}};
    if (!regions_.prepare_cut() || !lost_.prepare_cut()) {
        return {region_fault::out_of_memory, {}};
    }
    bool const tracked = machine_.made_anonymous(static_cast<std::byte const*>(first), bytes);
    static_cast<void>(regions_.add({range, noreserve, in_place, tracked}));
    lost_.cut(range);
    machine_.reader.forget();
    out = range;
    return {};
}

inline region_error linux_provider::try_adopt(void* first, std::size_t bytes,
                                              page_range& out) noexcept {
    return add_region(first, bytes, false, out);
}

inline region_error linux_provider::try_map(page_count pages, page_range& out) noexcept {
    if (pages.value() == 0) {
        return {region_fault::empty, {}};
    }
    if (pages.value() > SIZE_MAX >> machine_.page_shift) {
        return {region_fault::out_of_memory, {}};
    }
    std::size_t const bytes = pages.value() << machine_.page_shift;
    void* const p =
        detail::os::sys::mmap(nullptr, bytes, detail::os::read_write, detail::os::anonymous, -1, 0);
    if (p == MAP_FAILED) {
        return {errno == ENOMEM ? region_fault::out_of_memory : region_fault::refused,
                {"mmap", errno}};
    }
    region_error const e = add_region(p, bytes, true, out);
    if (e) {
        detail::os::sys::munmap(p, bytes);
    }
    return e;
}

inline region_error linux_provider::try_release(page_range range) noexcept {
    if (range.count.value() == 0) {
        return {region_fault::empty, {}};
    }
    if (!covers(range)) {
        return {region_fault::not_a_region, {}};
    }
    if (!regions_.prepare_cut() || !lost_.prepare_cut()) {
        return {region_fault::out_of_memory, {}};
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
    forget_pages(range);
    regions_.cut(range);
    lost_.cut(range);
    machine_.reader.forget();
    return {};
}

inline void linux_provider::forget_pages(page_range range) noexcept {
    for (page_number page = range.first; page < range.end(); page += page_count{1}) {
        detail::os::page_entry const entry = machine_.table.at(page);
        if (entry.kind() == detail::os::backing::merged) {
            machine_.frames.keep(entry.frame()); // the page may be there, or elsewhere by mremap
        } else if (entry.kind() == detail::os::backing::broken) {
            machine_.frames.strand(entry.frame());
        }
    }
    std::size_t const before = machine_.table.mappings();
    machine_.table.set(range.first, range.count.value(), detail::os::page_entry::home());
    machine_.table.trim(range.first, range.count.value());
    machine_.budget.forget(before - machine_.table.mappings());
    machine_.tracker.dismiss(address(range.first), range.count.value() << machine_.page_shift);
    machine_.writers.forget(address(range.first), range.count.value() << machine_.page_shift);
}

inline bool linux_provider::covers(page_range range) const noexcept {
    for (page_number p = range.first; p < range.end();) {
        detail::os::region const* r = regions_.find(p);
        r = r == nullptr ? lost_.find(p) : r;
        if (r == nullptr) {
            return false;
        }
        p = r->pages.end();
    }
    return true;
}

inline void linux_provider::lose(page_range range) noexcept {
    if (!regions_.prepare_cut()) {
        // What can be cut off without memory: all the rest of the region.
        range.count = regions_.find(range.first)->pages.end() - range.first;
    }
    forget_pages(range);
    regions_.cut(range);
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
    if (r == nullptr || space != this->space()) {
        return {first};
    }
    std::size_t const most =
        std::min({pages, detail::os::window_pages, (r->pages.end() - first).value()});
    auto const kind = [&](std::size_t i) {
        detail::os::page_entry const e = machine_.table.at(first + page_count{i});
        return e.maps_file()                                ? detail::os::backing::merged
               : e.kind() == detail::os::backing::displaced ? detail::os::backing::displaced
                                                            : detail::os::backing::home;
    };
    std::size_t n = 1;
    while (n < most && kind(n) == kind(0)) {
        ++n;
    }
    detail::os::place p{first, address(first), n};
    p.map_flags = r->noreserve ? MAP_NORESERVE : 0;
    p.tracked = r->tracked && machine_.tracker.available();
    p.in_place = r->in_place;
    p.anonymous = kind(0) != detail::os::backing::merged;
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
    machine_.frames.reclaim(r.end); // once a pass the children are asked after
    return r;
}

inline promotion linux_provider::promote(space_id space, page_number first,
                                         page_count pages) noexcept {
    machine_.budget.refresh(machine_.mappings());
    if (status const s = machine_.writers.enter(); s != status::ok) {
        return {frame_id{}, {page_count{0}, s}};
    }
    exclusion_guard const guard{&machine_.writers};
    detail::os::frame_store::reservation const room = machine_.frames.reserve(pages.value());
    if (room.frames == 0) {
        return {frame_id{}, {page_count{0}, status::out_of_frames}};
    }
    std::size_t done = 0;
    status why = status::ok;
    while (done < room.frames && why == status::ok) {
        page_count const so_far{done};
        detail::os::place const p = next_place(space, first + so_far, room.frames - done);
        progress const one = p.pages == 0
                                 ? progress{page_count{0}, status::gone}
                                 : detail::os::promote_pages(machine_, p, room.first + so_far);
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
    exclusion_guard const guard{&machine_.writers};
    progress all;
    while (all.done < pages && all.why == status::ok) {
        frame_id const f = frame + all.done;
        std::size_t const most =
            std::min((pages - all.done).value(), machine_.frames.to_arena_end(f));
        detail::os::place const p = next_place(space, first + all.done, most);
        progress const one = p.pages == 0 ? progress{page_count{0}, status::gone}
                                          : detail::os::merge_pages(machine_, p, f);
        all.done += one.done;
        all.why = one.why;
    }
    return all;
}

inline progress linux_provider::merge_zero(space_id space, page_number first,
                                           page_count pages) noexcept {
    machine_.budget.refresh(machine_.mappings());
    if (status const s = machine_.writers.enter(); s != status::ok) {
        return {page_count{0}, s};
    }
    exclusion_guard const guard{&machine_.writers};
    progress all;
    while (all.done < pages && all.why == status::ok) {
        detail::os::place const p = next_place(space, first + all.done, (pages - all.done).value());
        progress const one = p.pages == 0 ? progress{page_count{0}, status::gone}
                                          : detail::os::zero_pages(machine_, p);
        all.done += one.done;
        all.why = one.why;
    }
    return all;
}

inline progress linux_provider::unmerge(space_id space, page_number first, page_count pages,
                                        detail::os::privacy wanted) noexcept {
    bool const exclusive = machine_.writers.enter() == status::ok;
    exclusion_guard const guard{exclusive ? &machine_.writers : nullptr};
    progress all;
    while (all.done < pages && all.why == status::ok) {
        detail::os::place const p = next_place(space, first + all.done, (pages - all.done).value());
        progress const one =
            p.pages == 0 ? progress{page_count{0}, status::gone}
                         : detail::os::unmerge_pages(machine_, scratch_, p, wanted, exclusive);
        all.done += one.done;
        all.why = one.why;
    }
    return all;
}

static_assert(check_page_provider<linux_provider>());
static_assert(has_zero_merging<linux_provider>);

KSM_NAMESPACE_END

#endif
