// SPDX-License-Identifier: BSL-1.0
// Keeps writers out of pages between their comparison and their replacement. Inside of a window
// only the stack, the provider's own mappings and the pages themselves are accessed: no heap, no
// lock, no callback (I10). The provider itself may live in a region.
#ifndef KSM_PROVIDERS_LINUX_WRITE_WINDOW_HPP
#define KSM_PROVIDERS_LINUX_WRITE_WINDOW_HPP

#include <cstddef>
#include <cstdint>

#include <signal.h>

#include <ksm/outcome.hpp>
#include <ksm/providers/linux/fork_marker.hpp>
#include <ksm/providers/linux/options.hpp>
#include <ksm/providers/linux/segv_handler.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

class exclusion {
  public:
    exclusion(linux_options const& options, fork_marker const& marker) noexcept
        : options_(options), marker_(marker) {
        task_ = descriptor{sys::open("/proc/self/task", O_PATH | O_DIRECTORY | O_CLOEXEC)};
        strict_commit_ = number_in_file("/proc/sys/vm/overcommit_memory", 0) == 2;
        bool const wanted = options.strategy == write_exclusion::mprotect ||
                            options.strategy == write_exclusion::automatic;
        if (wanted && options.no_syscall_io && options.no_pinned_io) {
            prepare_mprotect();
        }
    }
    ~exclusion() {
        if (window_ != nullptr && !marker_.in_child()) {
            segv_handler::instance().give_back(*window_);
        }
        task_.close();
    }
    exclusion(exclusion const&) = delete;
    exclusion& operator=(exclusion const&) = delete;

    /// Never again, for a reason that must outlive this.
    void disable(char const* reason, os_error error) noexcept {
        if (disabled_ == nullptr) {
            disabled_ = reason;
            refusal_ = error;
        }
    }

    struct verdict {
        write_exclusion strategy;
        char const* reason;
    };
    /// What a call would use now, and why.
    [[nodiscard]] verdict judge() const noexcept;
    [[nodiscard]] os_error refusal() const noexcept { return refusal_; }

    /// Begins a public call. Anything but ok: no window may be opened, and no `leave`.
    [[nodiscard]] status enter() noexcept {
        verdict const v = judge();
        if (v.strategy == write_exclusion::off) {
            return status::refused;
        }
        frozen_ = v.strategy == write_exclusion::quiescent && !options_.quiescent && hooks();
        if (frozen_ && !options_.freeze(options_.freeze_context)) {
            leave();
            return status::busy;
        }
        in_force_ = v.strategy;
        return status::ok;
    }
    void leave() noexcept {
        if (frozen_) {
            frozen_ = false;
            options_.thaw(options_.freeze_context);
        }
    }

    /// A new region: faults there may be ours.
    void watch(std::byte const* at, std::size_t bytes) noexcept {
        if (window_ != nullptr) {
            auto const begin = reinterpret_cast<std::uintptr_t>(at);
            segv_handler::instance().watch(begin, begin + bytes);
        }
    }

  private:
    friend class write_window;

    [[nodiscard]] bool hooks() const noexcept {
        return options_.freeze != nullptr && options_.thaw != nullptr;
    }
    /// The link count of /proc/self/task is two and the number of threads.
    [[nodiscard]] bool single_threaded() const noexcept {
        std::size_t links = 0;
        return task_.intact(&links) && links == 3;
    }
    void prepare_mprotect() noexcept {
        if (refusal_ = segv_handler::instance().install(); refusal_) {
            return;
        }
        window_ = segv_handler::instance().take();
        if (window_ == nullptr) {
            refusal_ = {"windows of the process", EUSERS};
        }
    }
    /// While pages are read-only somebody else may take their share of a limited data size.
    [[nodiscard]] static bool unlimited_data() noexcept {
        rlimit limit;
        return sys::getrlimit(RLIMIT_DATA, limit) == 0 && limit.rlim_cur == RLIM_INFINITY;
    }

    linux_options options_;
    fork_marker const& marker_;
    descriptor task_;
    fault_window* window_ = nullptr;
    char const* disabled_ = nullptr;
    os_error refusal_;
    write_exclusion in_force_ = write_exclusion::off;
    bool frozen_ = false;
    bool strict_commit_ = false;
};

inline exclusion::verdict exclusion::judge() const noexcept {
    using enum write_exclusion;
    if (disabled_ != nullptr) {
        return {off, disabled_};
    }
    if (options_.strategy == off) {
        return {off, "The options say so."};
    }
    if (marker_.in_child()) {
        return {off, marker_.error() ? "The kernel cannot mark memory that a fork must not copy."
                                     : "This is a forked child; merging is the parent's."};
    }
    char const* why_not = nullptr;
    if (options_.strategy != quiescent) {
        if (!options_.no_syscall_io || !options_.no_pinned_io) {
            why_not = "The strategy mprotect needs the promises no_syscall_io and no_pinned_io.";
        } else if (window_ == nullptr) {
            why_not = "The handler for SIGSEGV could not be installed.";
        } else if (!segv_handler::in_place()) {
            why_not = "The application has installed a handler for SIGSEGV over ours.";
        } else if (!unlimited_data()) {
            why_not = "RLIMIT_DATA is limited: closing a write window could fail.";
        } else {
            return {mprotect, "Both I/O promises are given."};
        }
        if (options_.strategy == mprotect) {
            return {off, why_not};
        }
    }
    if (options_.quiescent) {
        return {quiescent, "The application promises that nobody writes meanwhile."};
    }
    if (hooks()) {
        return {quiescent, "The hooks freeze and thaw stop the writers."};
    }
    if (single_threaded()) {
        return {quiescent, "The process has one thread."};
    }
    if (options_.strategy == quiescent || !(options_.no_syscall_io && options_.no_pinned_io)) {
        return {off, "The process has several threads: promise quiescent, give freeze and thaw, or "
                     "promise no_syscall_io and no_pinned_io."};
    }
    return {off, why_not};
}

/// Blocks signals, whose handlers might write, and opens the window of the strategy in force.
class write_window {
  public:
    write_window(exclusion& e, std::byte* at, std::size_t bytes, std::size_t page) noexcept {
        auto const stack = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
        auto const begin = reinterpret_cast<std::uintptr_t>(at);
        if (stack >= begin && stack < begin + bytes) {
            // The stack of the caller itself: it would be written to in the window.
            why_ = {status::refused};
            return;
        }
        bool const by_mprotect = e.in_force_ == write_exclusion::mprotect;
        if (by_mprotect && e.strict_commit_) {
            // A mapping that was never written gives up its commit charge while it is read-only.
            static_cast<void>(advise(at, bytes, madv_populate_write));
        }
        sigset_t all;
        ::sigfillset(&all);
        for (int synchronous : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS}) {
            ::sigdelset(&all, synchronous);
        }
        ::pthread_sigmask(SIG_BLOCK, &all, &before_);
        masked_ = true;
        if (by_mprotect) {
            if (int const error = segv_handler::instance().open(*e.window_, at, bytes);
                error != 0) {
                why_ = mapping_refused(error, error == ENOMEM && has_hole(at, bytes, page));
                if (why_.disable) {
                    e.disable("mprotect failed in a way that it should not.", {"mprotect", error});
                }
                unmask();
                return;
            }
            window_ = e.window_;
        }
    }
    ~write_window() { close(); }
    write_window(write_window const&) = delete;
    write_window& operator=(write_window const&) = delete;

    /// Anything but ok: the window is not open, the pages are as they were.
    [[nodiscard]] status why() const noexcept { return why_.why; }
    /// Somebody got in after all: nothing may be replaced.
    [[nodiscard]] bool aborted() const noexcept {
        return window_ != nullptr && window_->aborted.load();
    }
    void close() noexcept {
        if (window_ != nullptr) {
            // An error says that the application has unmapped a part: there is nothing to open.
            static_cast<void>(segv_handler::instance().close(*window_));
            window_ = nullptr;
        }
        unmask();
    }

  private:
    void unmask() noexcept {
        if (masked_) {
            masked_ = false;
            ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
        }
    }

    fault_window* window_ = nullptr;
    refusal why_{status::ok};
    sigset_t before_;
    bool masked_ = false;
};

} // namespace detail::os
KSM_NAMESPACE_END

#endif
