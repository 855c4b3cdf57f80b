// SPDX-License-Identifier: BSL-1.0
// What the application promises the Linux provider, and what the provider says of itself.
#ifndef KSM_PROVIDERS_LINUX_OPTIONS_HPP
#define KSM_PROVIDERS_LINUX_OPTIONS_HPP

#include <array>
#include <cstddef>
#include <cstdint>

#include <ksm/providers/linux/os_error.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN

/// How writers are kept out of a page between its comparison and its replacement.
enum class write_exclusion : std::uint8_t {
    /// The first of the following that can be had with the promises given.
    automatic,
    /// Pages are moved away (userfaultfd, Linux 6.8); all accesses wait, pinned pages are left.
    move,
    /// Write-protected pages (userfaultfd, Linux 5.19); all writers wait. Needs `no_pinned_io`.
    wp,
    /// Read-only pages; writers wait in a SIGSEGV handler. Needs both I/O promises.
    mprotect,
    /// A promise, freeze and thaw hooks, or a process with exactly one thread and `no_pinned_io`.
    quiescent,
    /// Nothing is merged; surveys, views and unmerging work.
    off,
};

/// What `automatic` may choose from.
struct write_exclusions {
    bool move = true;
    bool wp = true;
    bool mprotect = true;
    bool quiescent = true;
};

/// \requires Promises that are true: each is trusted with the application's data. And whatever is
/// promised: a thread that calls the provider has no request to io_uring under way that writes into
/// a region or reads from it, outside of what `pin` covers. The kernel completes those in that
/// thread, also amid a merge: by strategy it waits for itself for ever, or they fail or are lost.
struct linux_options {
    write_exclusion strategy = write_exclusion::automatic;
    write_exclusions allow;

    /// Promise: while the provider merges or unmerges, no system call of another thread writes
    /// into a region (read, recv, ...: they would fail with EFAULT, and a datagram would be lost),
    /// and no thread that writes to a region blocks SIGSEGV.
    bool no_syscall_io = false;
    /// Promise: nor does a system call of another thread read from a region, or wait there: mutexes
    /// and condition variables that are contended do (futex). Only `move` where userfaultfd serves
    /// faults in user mode only needs it, beside `no_syscall_io`: pages are away for a moment.
    bool no_syscall_reads = false;
    /// Promise: no page of a region is pinned for I/O (io_uring fixed buffers, O_DIRECT, RDMA).
    bool no_pinned_io = false;
    /// Promise: nobody writes to a region, and no I/O into one is under way, during a call of the
    /// provider or of an engine that uses it; and no page of a region is pinned, also between
    /// calls, unless by `pin` before.
    bool quiescent = false;
    /// Promise: nobody reads a region either where the strategy is `quiescent`: no other thread, no
    /// I/O that goes on by itself (io_uring, MSG_ZEROCOPY), no other process. Many short runs are
    /// merged in one window then, and their pages show zeros for a moment.
    bool no_readers = false;
    /// Promise: no region is unmapped, remapped or protected, not even by mistake. Then regions are
    /// read in place and not checked before they are changed.
    bool stable_mappings = false;

    /// Stops every writer, also system calls; no page of a region may be pinned, as for
    /// `quiescent`. Answers false if it cannot now (the call then answers `busy`). It runs
    /// once in a public call, outside of every write window.
    bool (*freeze)(void* context) noexcept = nullptr;
    /// Undoes `freeze`, also one that answered false.
    void (*thaw)(void* context) noexcept = nullptr;
    void* freeze_context = nullptr;

    /// Lets surveys tell which pages were written, where the kernel can (Linux 6.7; not with `wp`):
    /// what did not change then costs nothing, and the first write to a page after a survey about
    /// a microsecond. Otherwise the contents of all pages are compared.
    bool track_changes = true;

    /// Counts the accesses that had to wait for a window (`linux_windows::waits`), which with
    /// `move` and `wp` costs a system call a window.
    bool count_waits = false;

    /// Share of the mappings that the application does not use (vm.max_map_count) that merging may
    /// take. Whatever it says, 8192 are left. When the application takes more of them later, the
    /// passes that follow give back what merging has too many, where pages can become anonymous
    /// memory again (docs/linux.md, "Mappings come back").
    double mapping_share = 0.5;
    /// Seconds after which what the application uses is counted anew by the next survey, at
    /// about a microsecond a mapping; 0: by each.
    std::uint32_t count_mappings_seconds = 60;
    /// An upper limit to that; 0: none.
    std::size_t max_mappings = 0;
    /// Frames of one memfd. Rounded to a power of two of 64 or more.
    std::size_t arena_pages = 16384;
};

/// What the provider can do at this moment.
struct linux_capabilities {
    /// In force now.
    write_exclusion strategy = write_exclusion::off;
    /// One sentence: why this strategy, or what to promise in order to have one.
    char const* reason = "";
    /// Surveys of kind `changes` are answered.
    bool tracks_changes = false;
    /// Userfaultfd works for faults in user mode only: `wp` needs `no_syscall_io`, `move` also
    /// `no_syscall_reads`.
    bool user_mode_only = false;
    /// The call that made the provider fall back; empty if none did.
    os_error refusal;
    /// vm.max_map_count.
    std::size_t max_map_count = 0;
    /// Mappings that merging may use.
    std::size_t mapping_budget = 0;
};

/// What merging costs and has got hold of.
struct linux_usage {
    std::size_t mappings_used = 0;  ///< Mappings that exist because of merging.
    std::size_t mapping_budget = 0; ///< Their limit.
    std::size_t pages_healed = 0;   ///< Pages that have been given their mapping back.
    std::size_t frames_live = 0;    ///< Stable frames that are not released, or that pages map.
    std::size_t frames_dead = 0;    ///< Nobody here needs them, but perhaps a forked child does.
    std::size_t frames_punched = 0; ///< Given back: places for frames to come.
    std::size_t frame_bytes = 0;    ///< Memory of the live and the dead.
    /// Own memory, frames not counted, nor what `move` keeps until the next survey ends: up to
    /// 512 KiB of replaced pages, and as much of copies where page tables are kept in software.
    std::size_t metadata_bytes = 0;
    std::size_t regions = 0;
    std::size_t region_pages = 0;
    /// Ranges, and their pages, that the application unmapped, replaced or protected while they
    /// were regions. They are regions no more.
    std::size_t ranges_lost = 0;
    std::size_t pages_lost = 0;
};

/// Write windows: while one is open, who accesses its pages waits (with `wp` and `mprotect`: who
/// writes to them).
struct linux_windows {
    std::uint64_t opened = 0;
    std::uint64_t refused = 0;    ///< The kernel refused them, or the pages were busy.
    std::uint64_t total_ns = 0;   ///< Of those that were, from before opening until after closing.
    std::uint64_t longest_ns = 0; ///< The same.
    /// No more than one in a hundred was longer; up to a quarter too high.
    std::uint64_t p99_ns = 0;
    /// Accesses that waited until one was closed; see `count_waits`. One that a signal interrupts
    /// waits anew.
    std::uint64_t waits = 0;
    /// How often the kernel refused a window, or promoting and merging its pages, by errno. What it
    /// means for the page is counted by `statistics::by_status`.
    std::array<std::uint64_t, 134> errors{};
};

KSM_NAMESPACE_END

#endif
