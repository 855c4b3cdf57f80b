// SPDX-License-Identifier: BSL-1.0
// Which way of keeping writers out is in force, and why.
#ifndef KSM_PROVIDERS_LINUX_EXCLUSION_HPP
#define KSM_PROVIDERS_LINUX_EXCLUSION_HPP

#include <cstddef>
#include <cstdint>
#include <span>

#include <ksm/outcome.hpp>
#include <ksm/providers/linux/fork_gate.hpp>
#include <ksm/providers/linux/fork_marker.hpp>
#include <ksm/providers/linux/options.hpp>
#include <ksm/providers/linux/page_entry.hpp>
#include <ksm/providers/linux/page_mover.hpp>
#include <ksm/providers/linux/pagemap.hpp>
#include <ksm/providers/linux/segv_handler.hpp>
#include <ksm/providers/linux/userfault.hpp>
#include <ksm/providers/linux/window_log.hpp>
#include <ksm/providers/linux/window_size.hpp>
#include <ksm/providers/linux/write_protector.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

class exclusion {
  public:
    /// `faults` can move pages; `entries` tells what the kernel did. Both outlive this. `owner` is
    /// the object that must not be in a window whose pages nobody can access.
    exclusion(linux_options const& options, fork_marker const& marker, userfault const& faults,
              pagemap& entries, std::span<std::byte const> owner) noexcept
        : options_(options), marker_(marker), faults_(faults), owner_(owner), guard_(marker),
          mover_(faults), protector_(guard_, entries) {
        task_ = descriptor{sys::open("/proc/self/task", O_PATH | O_DIRECTORY | O_CLOEXEC)};
        strict_commit_ = number_in_file("/proc/sys/vm/overcommit_memory", 0) == 2;
        using enum write_exclusion;
        if (considered(move)) {
            note(mover_.prepare(page_bytes()), can_move_);
        }
        if (can_move_ ||
            (considered(wp) && options.no_pinned_io && reach_suffices(faults.user_mode_only()))) {
            // Moving does not work on mappings of frames; protecting does.
            guard_.open(userfault::write_protect | userfault::protect_files |
                        userfault::protect_absent);
            note(protector_.prepare(page_bytes()), can_protect_);
        }
        if (considered(quiescent) && options.no_readers) {
            gates_forks_ = !fork_gate::instance().install();
        }
        if (judge_userfault() == off && considered(mprotect) && options.no_syscall_io &&
            options.no_pinned_io) {
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

    [[nodiscard]] bool disabled() const noexcept { return disabled_ != nullptr; }
    /// Windows may reach over pages that they are not about. With strict overcommit `mprotect`
    /// would have to give memory to those that have none.
    [[nodiscard]] bool takes_pieces() const noexcept {
        return !strict_commit_ || in_force_ != write_exclusion::mprotect;
    }

    struct verdict {
        write_exclusion strategy;
        char const* reason;
    };
    /// What a call would use now, and why.
    [[nodiscard]] verdict judge() const noexcept;
    [[nodiscard]] os_error refusal() const noexcept { return refusal_; }
    [[nodiscard]] window_log& windows() noexcept { return log_; }
    [[nodiscard]] window_log const& windows() const noexcept { return log_; }
    /// Of the next window.
    [[nodiscard]] window_size const& size() const noexcept { return size_; }

    /// Begins a public call. Anything but ok: no window may be opened, and no `leave`.
    [[nodiscard]] status enter() noexcept {
        verdict const v = judge();
        if (v.strategy == write_exclusion::off) {
            refused_ = true;
            return status::refused;
        }
        frozen_ = v.strategy == write_exclusion::quiescent && !options_.quiescent && hooks();
        if (frozen_ && !options_.freeze(options_.freeze_context)) {
            leave();
            return status::busy;
        }
        in_force_ = v.strategy;
        deserted_ = nobody_waits() && gates_forks_;
        return status::ok;
    }
    void leave() noexcept {
        if (frozen_) {
            frozen_ = false;
            options_.thaw(options_.freeze_context);
        }
    }

    /// Pages were refused, and would not be any more: a second thread has ended, or the like. The
    /// answer is given once.
    [[nodiscard]] bool recovered() noexcept {
        if (!refused_ || judge().strategy == write_exclusion::off) {
            return false;
        }
        refused_ = false;
        return true;
    }

    /// Nobody can meet a window of the latest call, however long it is.
    [[nodiscard]] bool nobody_waits() const noexcept {
        return in_force_ == write_exclusion::quiescent;
    }
    /// By promise nobody reads regions either during the latest call; forks are kept out by the
    /// gate.
    [[nodiscard]] bool deserted() const noexcept { return deserted_; }
    /// The application's threads were stopped for the latest call.
    [[nodiscard]] bool stops_threads() const noexcept {
        return nobody_waits() && !options_.quiescent && hooks();
    }

    /// The end of what `enter` began; null: nothing.
    struct guard {
        exclusion* writers;
        ~guard() {
            if (writers != nullptr) {
                writers->leave();
            }
        }
    };

    /// Gives back the memory of replaced pages.
    void rest() noexcept { mover_.rest(); }

    /// Anonymous memory that has become part of a region: faults there may be ours.
    void watch(std::byte const* at, std::size_t bytes) noexcept {
        if (window_ != nullptr) {
            auto const begin = reinterpret_cast<std::uintptr_t>(at);
            segv_handler::instance().watch(begin, begin + bytes);
        }
        if (protects_regions()) {
            // Once for all: a window on a part of it then splits no mapping. That it fails shows
            // at the first window.
            static_cast<void>(guard_.enroll(at, bytes, userfault::protected_from_writes));
        }
    }
    /// Memory that is no region any more.
    void forget(std::byte const* at, std::size_t bytes) noexcept {
        if (protects_regions()) {
            static_cast<void>(guard_.dismiss(at, bytes));
        }
    }
    /// False: writers cannot be kept out of a page with this entry. Copies of merged pages may be
    /// pinned, and only moving would notice, which does not work on mappings of frames.
    [[nodiscard]] bool can_exclude(page_entry e) const noexcept {
        return e.kind() != backing::broken || options_.no_pinned_io ||
               judge_userfault() != write_exclusion::move;
    }
    /// Regions are enrolled with a userfaultfd that excludes change tracking.
    [[nodiscard]] bool protects_regions() const noexcept {
        return judge_userfault() == write_exclusion::wp;
    }

  private:
    friend class write_window;

    [[nodiscard]] bool hooks() const noexcept {
        return options_.freeze != nullptr && options_.thaw != nullptr;
    }
    [[nodiscard]] bool considered(write_exclusion s) const noexcept {
        using enum write_exclusion;
        if (options_.strategy != automatic) {
            return options_.strategy == s;
        }
        return s == move        ? options_.allow.move
               : s == wp        ? options_.allow.wp
               : s == mprotect  ? options_.allow.mprotect
               : s == quiescent ? options_.allow.quiescent
                                : false;
    }
    [[nodiscard]] bool reach_suffices(bool user_mode_only) const noexcept {
        return !user_mode_only || options_.no_syscall_io;
    }
    void note(os_error e, bool& can) noexcept {
        can = !e;
        if (e && !refusal_) {
            refusal_ = e;
        }
    }
    /// move, wp or off.
    [[nodiscard]] write_exclusion judge_userfault() const noexcept {
        using enum write_exclusion;
        if (considered(move) && can_move_ && reach_suffices(faults_.user_mode_only()) &&
            (!faults_.user_mode_only() || options_.no_syscall_reads)) {
            return move;
        }
        return considered(wp) && can_protect_ && options_.no_pinned_io &&
                       reach_suffices(guard_.user_mode_only())
                   ? wp
                   : off;
    }
    /// The link count of /proc/self/task is two and the number of threads.
    [[nodiscard]] bool single_threaded() const noexcept {
        std::size_t links = 0;
        return task_.intact(&links) && links == 3;
    }
    void prepare_mprotect() noexcept {
        if (os_error const e = segv_handler::instance().install()) {
            refusal_ = e;
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
    /// Null: it can be used now.
    [[nodiscard]] char const* against_mprotect() const noexcept;

    linux_options options_;
    fork_marker const& marker_;
    userfault const& faults_;
    std::span<std::byte const> owner_;
    userfault guard_;
    page_mover mover_;
    write_protector protector_;
    descriptor task_;
    fault_window* window_ = nullptr;
    char const* disabled_ = nullptr;
    os_error refusal_;
    window_log log_;
    window_size size_;
    write_exclusion in_force_ = write_exclusion::off;
    bool can_move_ = false;
    bool can_protect_ = false;
    bool frozen_ = false;
    bool deserted_ = false;
    bool gates_forks_ = false; ///< They can be kept out of batches.
    bool refused_ = false;
    bool strict_commit_ = false;
};

inline char const* exclusion::against_mprotect() const noexcept {
    if (!options_.no_syscall_io || !options_.no_pinned_io) {
        return "The strategy mprotect needs the promises no_syscall_io and no_pinned_io.";
    }
    if (window_ == nullptr) {
        return "The handler for SIGSEGV could not be installed.";
    }
    if (!segv_handler::in_place()) {
        return "The application has installed a handler for SIGSEGV over ours.";
    }
    if (!unlimited_data()) {
        return "RLIMIT_DATA is limited: closing a write window could fail.";
    }
    return nullptr;
}

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
    switch (judge_userfault()) {
    case move: return {move, "All accesses wait, and pinned pages are refused."};
    case wp: return {wp, "All writers wait, and no page is pinned by promise."};
    default: break;
    }
    char const* why_not = "Nothing that the options allow can be had.";
    if (considered(move) || considered(wp)) {
        why_not = "Userfaultfd cannot be had, or only with the promises no_syscall_io (for faults "
                  "in user mode) and no_syscall_reads (for move then) or no_pinned_io (for wp).";
    }
    if (considered(mprotect)) {
        char const* const against = against_mprotect();
        if (against == nullptr) {
            return {mprotect, "Both I/O promises are given."};
        }
        why_not = options_.strategy == mprotect || (options_.no_syscall_io && options_.no_pinned_io)
                      ? against
                      : why_not;
    }
    if (!considered(quiescent)) {
        return {off, why_not};
    }
    if (options_.quiescent) {
        return {quiescent, "The application promises that nobody writes meanwhile."};
    }
    if (hooks()) {
        return {quiescent, "The hooks freeze and thaw stop the writers."};
    }
    if (single_threaded()) {
        return options_.no_pinned_io
                   ? verdict{quiescent, "The process has one thread, and no page is pinned by "
                                        "promise."}
                   : verdict{off, "The process has one thread, but what is read into a pinned page "
                                  "would be lost: promise no_pinned_io."};
    }
    if (options_.strategy == quiescent || !(options_.no_syscall_io && options_.no_pinned_io)) {
        return {off, "The process has several threads, and userfaultfd cannot be had: promise "
                     "quiescent, give freeze and thaw, or promise no_syscall_io and no_pinned_io."};
    }
    return {off, why_not};
}

} // namespace detail::os
KSM_NAMESPACE_END

#endif
