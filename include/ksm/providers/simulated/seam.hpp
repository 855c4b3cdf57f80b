// SPDX-License-Identifier: BSL-1.0
// The moments of a simulated provider's operations at which a test may act.
#ifndef KSM_PROVIDERS_SIMULATED_SEAM_HPP
#define KSM_PROVIDERS_SIMULATED_SEAM_HPP

#include <cstddef>
#include <cstdint>

#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN

/// `..._begin` and `..._end` surround each operation on each page, whatever its outcome. From
/// `..._protected` to `..._replaced` the page is write-protected: see `excludes_writers`.
enum class seam : std::uint8_t {
    survey_begin, ///< Called with the page that the survey begins at.
    survey_end,   ///< The same; the next tracking interval has begun.
    view_page,
    promote_begin,
    promote_protected,
    promote_copied,
    promote_replaced,
    promote_end,
    merge_begin,
    merge_protected,
    merge_compared,
    merge_replaced,
    merge_end,
    merge_zero_begin,
    merge_zero_protected,
    merge_zero_compared,
    merge_zero_replaced,
    merge_zero_end,
    unmerge_begin,
    unmerge_end,
    release_begin, ///< Called with space 0 and the number of the frame.
    release_end,   ///< Called with space 0 and the number of the frame.
};
inline constexpr std::size_t seam_count = 22;

/// The enumerator's name.
[[nodiscard]] constexpr char const* name(seam s) noexcept {
    switch (s) {
    case seam::survey_begin: return "survey_begin";
    case seam::survey_end: return "survey_end";
    case seam::view_page: return "view_page";
    case seam::promote_begin: return "promote_begin";
    case seam::promote_protected: return "promote_protected";
    case seam::promote_copied: return "promote_copied";
    case seam::promote_replaced: return "promote_replaced";
    case seam::promote_end: return "promote_end";
    case seam::merge_begin: return "merge_begin";
    case seam::merge_protected: return "merge_protected";
    case seam::merge_compared: return "merge_compared";
    case seam::merge_replaced: return "merge_replaced";
    case seam::merge_end: return "merge_end";
    case seam::merge_zero_begin: return "merge_zero_begin";
    case seam::merge_zero_protected: return "merge_zero_protected";
    case seam::merge_zero_compared: return "merge_zero_compared";
    case seam::merge_zero_replaced: return "merge_zero_replaced";
    case seam::merge_zero_end: return "merge_zero_end";
    case seam::unmerge_begin: return "unmerge_begin";
    case seam::unmerge_end: return "unmerge_end";
    case seam::release_begin: return "release_begin";
    case seam::release_end: return "release_end";
    }
    return "?";
}

/// Whether a write to the page at this moment waits until the window closes.
[[nodiscard]] constexpr bool excludes_writers(seam s) noexcept {
    return (s >= seam::promote_protected && s <= seam::promote_replaced) ||
           (s >= seam::merge_protected && s <= seam::merge_replaced) ||
           (s >= seam::merge_zero_protected && s <= seam::merge_zero_replaced);
}

namespace detail {

/// The seams of an operation that replaces what a page maps.
struct seam_steps {
    seam begin, protect, prepared, replaced, end;
};
inline constexpr seam_steps promote_steps{seam::promote_begin, seam::promote_protected,
                                          seam::promote_copied, seam::promote_replaced,
                                          seam::promote_end};
inline constexpr seam_steps merge_steps{seam::merge_begin, seam::merge_protected,
                                        seam::merge_compared, seam::merge_replaced,
                                        seam::merge_end};
inline constexpr seam_steps merge_zero_steps{seam::merge_zero_begin, seam::merge_zero_protected,
                                             seam::merge_zero_compared, seam::merge_zero_replaced,
                                             seam::merge_zero_end};

} // namespace detail
KSM_NAMESPACE_END

#endif
