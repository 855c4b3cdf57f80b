// SPDX-License-Identifier: BSL-1.0
// How an operation on pages ended, and how far it got.
#ifndef KSM_OUTCOME_HPP
#define KSM_OUTCOME_HPP

#include <cstddef>
#include <cstdint>

#include <ksm/types.hpp>

KSM_NAMESPACE_BEGIN

/// Why an operation stopped.
enum class [[nodiscard]] status : std::uint8_t {
    ok,
    changed,         ///< The content differs now.
    busy,            ///< Pinned or locked: try again later.
    gone,            ///< Unmapped, or the space has exited.
    out_of_frames,   ///< No stable frame to be had.
    out_of_mappings, ///< The budget of mappings is spent.
    out_of_memory,   ///< No memory for a private copy or for metadata.
    refused,         ///< Cannot be merged here; do not ask again before the page is written.
};
inline constexpr std::size_t status_count = 8;

/// The enumerator's name.
[[nodiscard]] constexpr char const* name(status s) noexcept {
    switch (s) {
    case status::ok: return "ok";
    case status::changed: return "changed";
    case status::busy: return "busy";
    case status::gone: return "gone";
    case status::out_of_frames: return "out_of_frames";
    case status::out_of_mappings: return "out_of_mappings";
    case status::out_of_memory: return "out_of_memory";
    case status::refused: return "refused";
    }
    return "?";
}

/// The first `done` pages succeeded, then `why` stopped the operation. `ok` with `done` smaller
/// than what was asked for means: the rest was not tried, ask again for it. An operation that
/// answers `ok` has done at least one page.
struct [[nodiscard]] progress {
    page_count done;
    status why = status::ok;
};

/// Frames that a promotion created: `made.done` of them, consecutive from `first`.
struct [[nodiscard]] promotion {
    frame_id first;
    progress made;
};

KSM_NAMESPACE_END

#endif
