// SPDX-License-Identifier: BSL-1.0
// Why memory cannot become, or stop being, a region.
#ifndef KSM_PROVIDERS_LINUX_REGION_ERROR_HPP
#define KSM_PROVIDERS_LINUX_REGION_ERROR_HPP

#include <cstdint>

#include <ksm/providers/linux/os_error.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN

enum class region_fault : std::uint8_t {
    none,
    empty,
    unaligned,
    overlapping,    ///< A part belongs to a region already.
    unmapped,       ///< A part is not mapped.
    shared,         ///< MAP_SHARED.
    file_backed,    ///< A mapping of a file.
    stack,          ///< A stack, or the thread's control block.
    not_read_write, ///< Not readable and writable, or executable.
    huge,           ///< hugetlb, or MADV_HUGEPAGE.
    locked,         ///< mlock, or mlockall(MCL_FUTURE).
    special,        ///< Attributes that merging would lose, or watched by somebody else.
    mixed,          ///< MAP_NORESERVE in one part only.
    not_a_region,   ///< A part does not belong to a region.
    pinned,         ///< A part is pinned.
    forked,         ///< The provider belongs to the parent process.
    out_of_memory,
    refused, ///< The operating system refused; see `os`.
};

[[nodiscard]] constexpr char const* message(region_fault f) noexcept {
    switch (f) {
    case region_fault::none: return "no error";
    case region_fault::empty: return "the range is empty";
    case region_fault::unaligned: return "the range does not consist of whole pages";
    case region_fault::overlapping: return "a part of the range belongs to a region already";
    case region_fault::unmapped: return "a part of the range is not mapped";
    case region_fault::shared: return "a part of the range is a shared mapping";
    case region_fault::file_backed: return "a part of the range is a mapping of a file";
    case region_fault::stack: return "a part of the range is a stack";
    case region_fault::not_read_write: return "a part of the range is not read-write memory";
    case region_fault::huge: return "a part of the range asks for huge pages";
    case region_fault::locked: return "a part of the range is locked, or all new memory is";
    case region_fault::special: return "a part of the range has attributes that merging would lose";
    case region_fault::mixed: return "only a part of the range is MAP_NORESERVE";
    case region_fault::not_a_region: return "a part of the range does not belong to a region";
    case region_fault::pinned: return "a part of the range is pinned";
    case region_fault::forked: return "the provider belongs to the parent process";
    case region_fault::out_of_memory: return "no memory";
    case region_fault::refused: return "the operating system refused";
    }
    return "?";
}

/// Empty: no error.
struct [[nodiscard]] region_error {
    region_fault what = region_fault::none;
    os_error os;

    [[nodiscard]] constexpr explicit operator bool() const noexcept {
        return what != region_fault::none;
    }
};

KSM_NAMESPACE_END

#endif
