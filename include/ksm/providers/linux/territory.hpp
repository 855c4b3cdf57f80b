// SPDX-License-Identifier: BSL-1.0
// Which pages are the provider's to change: those of regions, unless they are pinned or the
// application has changed them behind our back.
#ifndef KSM_PROVIDERS_LINUX_TERRITORY_HPP
#define KSM_PROVIDERS_LINUX_TERRITORY_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <ksm/outcome.hpp>
#include <ksm/providers/linux/admission.hpp>
#include <ksm/providers/linux/machinery.hpp>
#include <ksm/providers/linux/mappings.hpp>
#include <ksm/providers/linux/mirror.hpp>
#include <ksm/providers/linux/pins.hpp>
#include <ksm/providers/linux/place.hpp>
#include <ksm/providers/linux/regions.hpp>
#include <ksm/providers/linux/violations.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

struct territory {
    territory(machinery& machine, bool mappings_are_stable) noexcept
        : m(machine), stable_mappings(mappings_are_stable) {}

    /// From `first` on: pages of one region with one kind of mapping, at most a window and at most
    /// `pages`; none if `first` is in no region.
    /// \param window  Pages that a window takes where they are read in place.
    [[nodiscard]] place next_place(page_number first, std::size_t pages,
                                   std::size_t window = window_pages) noexcept {
        region const* const r = regions.find(first);
        if (r == nullptr || pages == 0) {
            return {first};
        }
        place p = m.place_in(*r, first, std::min(pages, r->in_place ? window : window_pages));
        if (stable_mappings || m.marker.in_child()) {
            return p;
        }
        auto const v = judge_pages(m, mappings, m.entries, p);
        if (!v.ours) {
            lose({first, page_count{v.pages}});
        }
        p.pages = v.ours ? v.pages : 0;
        return p;
    }

    /// `step` with the next place whose pages are not pinned.
    template <class Step>
    [[nodiscard]] progress to_merge(page_number first, std::size_t pages, std::size_t window,
                                    Step&& step) noexcept {
        std::size_t const free = pins.unpinned(first, pages);
        if (free == 0) {
            return {page_count{0}, status::busy};
        }
        place const p = next_place(first, free, window);
        return p.pages == 0 ? progress{page_count{0}, status::gone} : step(p);
    }

    /// The application has changed these pages of a region: they are its own from now on.
    void lose(page_range range) noexcept {
        if (!regions.prepare(1)) {
            // What can be cut off without memory: all the rest of the region.
            range.count = regions.find(range.first)->pages.end() - range.first;
        }
        forget_pages(m, range);
        regions.cut(range);
        forget_mirrors();
        // Without memory `release` does not know it: it is no region.
        static_cast<void>(lost.add({range, false, false, false}));
        m.reader.forget();
        ++ranges_lost;
        pages_lost += range.count.value();
    }

    void forget_mirrors() noexcept {
        mirrors.uproot([this](std::uint32_t id) { return regions.has_mirror(id); });
    }

    [[nodiscard]] std::size_t bytes() const noexcept {
        return regions.bytes() + lost.bytes() + pins.bytes() + mirrors.bytes();
    }

    machinery& m;
    region_list regions;
    region_list lost; ///< Ranges that were regions, until they are released.
    mapping_list mappings;
    mirror_store mirrors{m.page};
    pin_list pins;
    bool stable_mappings;
    std::size_t ranges_lost = 0;
    std::size_t pages_lost = 0;
};

} // namespace detail::os
KSM_NAMESPACE_END

#endif
