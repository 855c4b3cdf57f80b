// SPDX-License-Identifier: BSL-1.0
// Names for a provider's operations: what `faulty_provider` is told and `tracing_provider` tells.
#ifndef KSM_PROVIDERS_OPERATION_HPP
#define KSM_PROVIDERS_OPERATION_HPP

#include <cstddef>
#include <cstdint>

#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN

enum class operation : std::uint8_t {
    survey,
    view_page,
    view_frame,
    promote,
    merge,
    merge_zero,
    unmerge,
    release,
};
inline constexpr std::size_t operation_count = 8;

/// The enumerator's name.
[[nodiscard]] constexpr char const* name(operation o) noexcept {
    switch (o) {
    case operation::survey: return "survey";
    case operation::view_page: return "view_page";
    case operation::view_frame: return "view_frame";
    case operation::promote: return "promote";
    case operation::merge: return "merge";
    case operation::merge_zero: return "merge_zero";
    case operation::unmerge: return "unmerge";
    case operation::release: return "release";
    }
    return "?";
}

KSM_NAMESPACE_END

#endif
