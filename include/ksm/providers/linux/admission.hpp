// SPDX-License-Identifier: BSL-1.0
// How memory becomes a region, and stops being one.
#ifndef KSM_PROVIDERS_LINUX_ADMISSION_HPP
#define KSM_PROVIDERS_LINUX_ADMISSION_HPP

#include <cstddef>
#include <cstdint>
#include <span>

#include <pthread.h>

#include <ksm/providers/linux/machinery.hpp>
#include <ksm/providers/linux/mirror.hpp>
#include <ksm/providers/linux/region_error.hpp>
#include <ksm/providers/linux/regions.hpp>
#include <ksm/providers/linux/vm_flags.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

/// Whether the memory can be a region.
[[nodiscard]] inline region_error examine_range(machinery& m, region_list const& regions,
                                                void const* first, std::size_t bytes,
                                                bool& noreserve) noexcept {
    auto const begin = reinterpret_cast<std::uintptr_t>(first);
    if (m.marker.in_child() && !m.marker.error()) {
        return {region_fault::forked, {}};
    }
    if (bytes == 0) {
        return {region_fault::empty, {}};
    }
    if (begin % m.page != 0 || bytes % m.page != 0) {
        return {region_fault::unaligned, {}};
    }
    if (begin + bytes < begin) {
        return {region_fault::unmapped, {}};
    }
    if (regions.overlaps({m.page_of(first), page_count{bytes >> m.page_shift}})) {
        return {region_fault::overlapping, {}};
    }
    // Before Linux 6.7 the stacks of other threads look like any other memory.
    for (auto const own : {reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0)),
                           static_cast<std::uintptr_t>(::pthread_self())}) {
        if (own >= begin && own < begin + bytes) {
            return {region_fault::stack, {}};
        }
    }
    memory_kind const kind = examine_memory(begin, begin + bytes);
    if (kind.error) {
        return kind.error;
    }
    if (m.entries.intact() && new_memory_is_locked(m.entries, m.page)) {
        return {region_fault::locked, {}};
    }
    noreserve = kind.noreserve;
    return {};
}

/// Whether the memory can become a region, what is known of it then, and room for that.
[[nodiscard]] inline region_error prepare_region(machinery& m, region_list& regions,
                                                 region_list& lost, void const* first,
                                                 std::size_t bytes, bool in_place,
                                                 region& out) noexcept {
    if (region_error const e = examine_range(m, regions, first, bytes, out.noreserve)) {
        return e;
    }
    if (!regions.prepare(mirror_store::most_pieces) || !lost.prepare(1)) {
        return {region_fault::out_of_memory, {}};
    }
    out.pages = {m.page_of(first), page_count{bytes >> m.page_shift}};
    out.in_place = in_place;
    return {};
}

/// \requires `prepare_region` has answered ok; the pieces are all of the region.
inline void add_region(machinery& m, region_list& regions, region_list& lost, page_range range,
                       std::span<region> pieces) noexcept {
    bool const tracked =
        m.made_anonymous(m.address(range.first), range.count.value() << m.page_shift);
    for (region& r : pieces) {
        r.tracked = tracked;
        static_cast<void>(regions.add(r));
    }
    lost.cut(range);
    m.reader.forget();
}

/// What the pages map is the application's business from now on.
inline void forget_pages(machinery& m, page_range range) noexcept {
    for (page_number page = range.first; page < range.end(); page += page_count{1}) {
        page_entry const entry = m.table.at(page);
        if (entry.kind() == backing::merged) {
            m.frames.keep(entry.frame()); // the page may be there, or elsewhere by mremap
        } else if (entry.kind() == backing::broken) {
            m.frames.strand(entry.frame());
        }
    }
    std::size_t const before = m.table.mappings();
    m.table.set(range.first, range.count.value(), page_entry::home());
    m.table.trim(range.first, range.count.value());
    m.budget.forget(before - m.table.mappings());
    m.forgot_pages = true;
    m.tracker.dismiss(m.address(range.first), range.count.value() << m.page_shift);
    m.writers.forget(m.address(range.first), range.count.value() << m.page_shift);
}

/// Whether each page is of a region, or was of one until the application took it away.
[[nodiscard]] inline bool covered(region_list const& regions, region_list const& lost,
                                  page_range range) noexcept {
    for (page_number p = range.first; p < range.end();) {
        region const* r = regions.find(p);
        r = r == nullptr ? lost.find(p) : r;
        if (r == nullptr) {
            return false;
        }
        p = r->pages.end();
    }
    return true;
}

} // namespace detail::os
KSM_NAMESPACE_END

#endif
