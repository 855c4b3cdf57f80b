// SPDX-License-Identifier: BSL-1.0
// Keeps fork() and open windows apart. A child forked inside a window would inherit pages that
// are read-only, or away: fork() waits until windows are closed and keeps them closed. The raw
// system call does not wait; its child takes over when it first meets what it inherited.
#ifndef KSM_PROVIDERS_LINUX_FORK_GATE_HPP
#define KSM_PROVIDERS_LINUX_FORK_GATE_HPP

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <new>

#include <pthread.h>
#include <sched.h>
#include <time.h>

#include <ksm/providers/linux/own_memory.hpp>
#include <ksm/providers/linux/syscalls.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

/// One for the process. Thread-safe.
class fork_gate {
  public:
    [[nodiscard]] static fork_gate& instance() noexcept { return instance_; }

    /// Once for all providers, and for good: a handler of pthread_atfork cannot be taken back.
    [[nodiscard]] os_error install() noexcept {
        if (inherited()) {
            take_over();
        }
        while (installing_.exchange(true)) {
            ::sched_yield();
        }
        os_error const e = installed_ ? os_error{} : do_install();
        installing_.store(false);
        return e;
    }

    /// Before a window is opened. False: a fork is under way. It may be waiting for the caller: for
    /// a lock that he holds, in a handler of pthread_atfork, or because he has stopped its thread.
    /// So nobody waits for it for long, and no second time.
    [[nodiscard]] bool enter() noexcept {
        for (std::int64_t begin = 0;;) {
            open_windows_.fetch_add(1);
            if (forks_.load() == 0) {
                return true;
            }
            open_windows_.fetch_sub(1);
            begin = begin == 0 ? nanoseconds() : begin;
            if (!patient_.load() || nanoseconds() - begin > patience_ns) {
                patient_.store(false);
                return false;
            }
            ::sched_yield();
        }
    }
    void leave() noexcept { open_windows_.fetch_sub(1); }

    /// The child of a raw clone that has not taken over yet.
    [[nodiscard]] bool inherited() const noexcept {
        std::atomic<std::uint32_t> const* const word = alive_.load();
        return word != nullptr && word->load() == 0;
    }
    /// In a child: opens the windows of the parent, and lets it have windows of its own.
    void take_over() noexcept {
        std::atomic<std::uint32_t>* const word = alive_.load();
        if (word == nullptr || word->exchange(1) != 0) {
            return;
        }
        if (void (*const open)() noexcept = open_inherited_.load(); open != nullptr) {
            open();
        }
        patient_.store(true);
        forks_.store(0);
        open_windows_.store(0);
        installing_.store(false);
    }
    /// What `take_over` calls.
    void on_take_over(void (*open_inherited)() noexcept) noexcept {
        open_inherited_.store(open_inherited);
    }

  private:
    // A fork that copies the page tables of some 800 MiB takes so long (probe P11: 64 MiB, 1.5 ms).
    static constexpr std::int64_t patience_ns = 20'000'000;

    [[nodiscard]] static std::int64_t nanoseconds() noexcept {
        timespec t{};
        ::clock_gettime(CLOCK_MONOTONIC, &t);
        return t.tv_sec * std::int64_t{1'000'000'000} + t.tv_nsec;
    }

    [[nodiscard]] os_error do_install() noexcept {
        if (alive_.load() == nullptr) {
            void* const page = own_map(page_bytes());
            if (page == nullptr) {
                return {"mmap", ENOMEM};
            }
            if (int const e = advise(page, page_bytes(), MADV_WIPEONFORK); e != 0) {
                sys::munmap(page, page_bytes());
                return {"madvise(MADV_WIPEONFORK)", e};
            }
            alive_.store(::new (page) std::atomic<std::uint32_t>{1});
        }
        if (int const e = ::pthread_atfork(before_fork, after_fork, after_fork_in_child); e != 0) {
            return {"pthread_atfork", e};
        }
        installed_ = true;
        return {};
    }

    static void before_fork() noexcept {
        if (instance_.inherited()) {
            instance_.take_over();
        }
        instance_.forks_.fetch_add(1);
        while (instance_.open_windows_.load() != 0) {
            ::sched_yield();
        }
    }
    static void after_fork() noexcept {
        instance_.forks_.fetch_sub(1);
        instance_.patient_.store(true);
    }
    static void after_fork_in_child() noexcept { instance_.take_over(); }

    static fork_gate instance_;

    std::atomic<std::uint32_t> open_windows_{0};
    std::atomic<std::uint32_t> forks_{0};
    std::atomic<bool> patient_{true};
    std::atomic<bool> installing_{false};
    bool installed_ = false;
    /// In a page that a fork wipes. It outlives every provider: a thread may be late in a window.
    std::atomic<std::atomic<std::uint32_t>*> alive_{nullptr};
    std::atomic<void (*)() noexcept> open_inherited_{nullptr};
};
inline constinit fork_gate fork_gate::instance_{};

} // namespace detail::os
KSM_NAMESPACE_END

#endif
