// SPDX-License-Identifier: BSL-1.0
// Finds out that the application has unmapped, replaced or protected memory of a region, before a
// page there is written to or replaced. Between the look and the replacement some microseconds
// remain in which the kernel tells nobody.
#ifndef KSM_PROVIDERS_LINUX_VIOLATIONS_HPP
#define KSM_PROVIDERS_LINUX_VIOLATIONS_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <ksm/providers/linux/machinery.hpp>
#include <ksm/providers/linux/mappings.hpp>
#include <ksm/providers/linux/pagemap.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

/// Pages at the front of a place, all of which are ours or none.
struct verdict_on_pages {
    std::size_t pages;
    bool ours;
};

/// Whether the kernel's mapping is the one that the page must have.
[[nodiscard]] inline bool belongs(machinery const& m, page_entry entry, mapping const& k,
                                  std::uint64_t address) noexcept {
    if (!k.there || !k.private_read_write) {
        return false;
    }
    return entry.maps_file()
               ? m.frames.is_at(entry.frame(), k.device, k.inode, k.offset + (address - k.begin))
               : k.inode == 0;
}

/// Before Linux 6.11: holes, and pages of a foreign file where anonymous memory should be.
[[nodiscard]] inline bool seems_ours(machinery const& m, pagemap& table, page_number page,
                                     page_entry entry) noexcept {
    if (has_hole(m.address(page), m.page, m.page)) {
        return false;
    }
    auto const kernel = table.read(page, 1);
    return entry.maps_file() || kernel.empty() || !pagemap_entry{kernel[0]}.file();
}

/// \requires The place has pages; not a forked child.
[[nodiscard]] inline verdict_on_pages judge_pages(machinery& m, mapping_list& mappings,
                                                  pagemap& table, place const& p) noexcept {
    mapping k;
    verdict_on_pages v{0, true};
    bool const told = mappings.find(reinterpret_cast<std::uintptr_t>(p.at), k);
    for (; v.pages < p.pages; ++v.pages) {
        page_number const page = p.first + page_count{v.pages};
        page_entry const entry = m.table.at(page);
        std::uint64_t const address = page.value() << m.page_shift;
        if (told && address >= k.end && !mappings.find(address, k)) {
            break; // judge the rest anew
        }
        bool const ours = told ? belongs(m, entry, k, address) : seems_ours(m, table, page, entry);
        if (v.pages == 0) {
            v.ours = ours;
        } else if (v.ours != ours) {
            break;
        }
    }
    return v;
}

} // namespace detail::os
KSM_NAMESPACE_END

#endif
