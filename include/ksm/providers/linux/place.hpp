// SPDX-License-Identifier: BSL-1.0
// Pages that an operation of the Linux provider works on at once.
#ifndef KSM_PROVIDERS_LINUX_PLACE_HPP
#define KSM_PROVIDERS_LINUX_PLACE_HPP

#include <cstddef>

#include <ksm/types.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

/// More pages make a window long for the writers that wait; fewer make merging dear: opening and
/// closing a window costs as much as merging ten pages of a run.
inline constexpr std::size_t window_pages = 128;

/// Pages of one region, at most `window_pages` where a window is opened on them.
struct place {
    page_number first;
    std::byte* at = nullptr;
    std::size_t pages = 0;
    int map_flags = 0;      ///< What a mapping that replaces them needs besides MAP_PRIVATE.
    bool tracked = false;   ///< Anonymous memory there is enrolled for tracking.
    bool anonymous = false; ///< All are anonymous memory; otherwise all are mappings of frames.
};

} // namespace detail::os
KSM_NAMESPACE_END

#endif
