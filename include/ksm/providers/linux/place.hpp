// SPDX-License-Identifier: BSL-1.0
// Pages that an operation of the Linux provider works on at once.
#ifndef KSM_PROVIDERS_LINUX_PLACE_HPP
#define KSM_PROVIDERS_LINUX_PLACE_HPP

#include <cstddef>
#include <cstdint>

#include <ksm/providers/linux/reading.hpp>
#include <ksm/providers/linux/regions.hpp>
#include <ksm/types.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

/// Pages of one region, at most `window_pages` where a window is opened on them.
struct place {
    page_number first;
    std::byte* at = nullptr;
    std::size_t pages = 0;
    int map_flags = 0;    ///< What a mapping that replaces them needs besides MAP_PRIVATE.
    bool in_place = true; ///< They are certain to be mapped while they are a region.
    bool tracked = false; ///< Anonymous memory there is enrolled for tracking.
    std::uint32_t mirror = no_mirror;
    bool anonymous = false; ///< All are anonymous memory; otherwise all are mappings of frames.
};

} // namespace detail::os
KSM_NAMESPACE_END

#endif
