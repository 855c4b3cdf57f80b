// SPDX-License-Identifier: BSL-1.0
// The process's SIGSEGV handler: threads that write into an open window wait in it until the
// window closes. Everything else goes to the handler that was there before. It uses atomics, raw
// futexes and mprotect only.
#ifndef KSM_PROVIDERS_LINUX_SEGV_HANDLER_HPP
#define KSM_PROVIDERS_LINUX_SEGV_HANDLER_HPP

#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <limits>

#include <sched.h>
#include <signal.h>

#include <ksm/providers/linux/fork_gate.hpp>
#include <ksm/providers/linux/syscalls.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

/// The window of one provider. It is never destroyed: a thread that faulted in it may come late.
struct fault_window {
    std::atomic<bool> taken{false};
    std::atomic<std::uint32_t> generation{0}; ///< Odd: open. Also the futex word.
    std::atomic<std::uintptr_t> begin{0};
    std::atomic<std::uintptr_t> end{0};
    std::atomic<int> owner{0};        ///< The merging thread.
    std::atomic<bool> aborted{false}; ///< The merging thread itself wrote into its window.
    std::atomic<std::uint32_t> waiting{0};
};

class segv_handler {
  public:
    static constexpr std::size_t max_windows = 16;

    [[nodiscard]] static segv_handler& instance() noexcept { return instance_; }

    /// Puts the handler in place, again if the application has taken it away since.
    [[nodiscard]] os_error install() noexcept {
        while (installing_.exchange(true)) {
            ::sched_yield();
        }
        os_error const e = in_place() ? os_error{} : do_install();
        installing_.store(false);
        return e;
    }

    /// False when the application has put another handler on top: it need not call ours.
    [[nodiscard]] static bool in_place() noexcept {
        struct sigaction now;
        return sys::sigaction(SIGSEGV, nullptr, &now) == 0 && (now.sa_flags & SA_SIGINFO) != 0 &&
               now.sa_sigaction == &segv_handler::on_fault;
    }

    /// A window for a provider, or null: all are in use.
    [[nodiscard]] fault_window* take() noexcept {
        if (fork_gate::instance().inherited()) {
            fork_gate::instance().take_over();
        }
        for (fault_window& w : windows_) {
            if (!w.taken.exchange(true)) {
                return &w;
            }
        }
        return nullptr;
    }
    void give_back(fault_window& w) noexcept { w.taken.store(false); }

    /// Faults in this range may come from a window that has closed in the meantime. The range
    /// never shrinks: such a fault may be handled after its provider is gone.
    void watch(std::uintptr_t begin, std::uintptr_t end) noexcept {
        std::uintptr_t b = watched_begin_.load();
        while (begin < b && !watched_begin_.compare_exchange_weak(b, begin)) {
        }
        std::uintptr_t e = watched_end_.load();
        while (end > e && !watched_end_.compare_exchange_weak(e, end)) {
        }
    }

    /// Makes the pages read-only; 0 or errno, and then no window is open. `entered` tells whether
    /// the fork gate was: if not, nothing was tried.
    [[nodiscard]] int open(fault_window& w, std::byte* at, std::size_t bytes,
                           bool& entered) noexcept {
        entered = fork_gate::instance().enter();
        if (!entered) {
            return 0;
        }
        auto const begin = reinterpret_cast<std::uintptr_t>(at);
        w.begin.store(begin);
        w.end.store(begin + bytes);
        w.owner.store(thread_id());
        w.aborted.store(false);
        w.generation.fetch_add(1);
        int const e = protect(at, bytes, PROT_READ);
        if (e != 0) {
            // Mappings before the failing one are read-only already.
            static_cast<void>(close(w));
        }
        return e;
    }

    /// Makes the pages writable and wakes who waits; 0 or errno: a part was unmapped meanwhile.
    [[nodiscard]] int close(fault_window& w) noexcept {
        auto* const at = reinterpret_cast<std::byte*>(w.begin.load());
        std::size_t const bytes = w.end.load() - w.begin.load();
        int e = protect(at, bytes, read_write);
        // Somebody else may have taken the data size (RLIMIT_DATA) or the commit charge that the
        // read-only pages gave up. The writers cannot go on without it: wait for it.
        for (long pause = 1000; e == ENOMEM && !has_hole(at, bytes, page_bytes());
             pause = pause < 10'000'000 ? 2 * pause : pause) {
            timespec const t{0, pause};
            ::nanosleep(&t, nullptr);
            e = protect(at, bytes, read_write);
        }
        if (e != 0) {
            std::size_t const page = page_bytes();
            for (std::size_t i = 0; i < bytes; i += page) {
                static_cast<void>(protect(at + i, page, read_write));
            }
        }
        w.generation.fetch_add(1);
        if (w.waiting.load() != 0) {
            futex_wake_all(futex_word(w));
        }
        fork_gate::instance().leave();
        return e;
    }

  private:
    [[nodiscard]] static std::uint32_t const* futex_word(fault_window& w) noexcept {
        static_assert(sizeof w.generation == sizeof(std::uint32_t));
        return reinterpret_cast<std::uint32_t const*>(&w.generation);
    }

    /// In a child: nobody else will open its copies of the parent's windows.
    static void open_inherited() noexcept {
        for (fault_window& w : instance_.windows_) {
            std::uint32_t g = w.generation.load();
            if (g % 2 != 0 && w.generation.compare_exchange_strong(g, g + 1)) {
                static_cast<void>(protect(reinterpret_cast<std::byte*>(w.begin.load()),
                                          w.end.load() - w.begin.load(), read_write));
                futex_wake_all(futex_word(w));
            }
            w.waiting.store(0);
            w.taken.store(false);
        }
        instance_.installing_.store(false);
    }

    os_error do_install() noexcept {
        struct sigaction now;
        if (sys::sigaction(SIGSEGV, nullptr, &now) != 0) {
            return {"sigaction", errno};
        }
        if (previous_.load() == nullptr) {
            if (os_error const e = fork_gate::instance().install()) {
                return e;
            }
            fork_gate::instance().on_take_over(open_inherited);
            // The old action is known before ours can run.
            first_ = now;
            previous_.store(&first_);
        } else if (is_default(now)) {
            previous_.store(&default_);
        } else if (same_handler(now, first_)) {
            previous_.store(&first_);
        } else {
            // A handler that came after ours may call ours: calling it would never end.
            return {"sigaction", EBUSY};
        }
        struct sigaction ours {};
        ours.sa_sigaction = &segv_handler::on_fault;
        // A signal may come while a thread waits here, and its handler may store into a window,
        // too.
        ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        ::sigemptyset(&ours.sa_mask);
        return sys::sigaction(SIGSEGV, &ours, nullptr) != 0 ? os_error{"sigaction", errno}
                                                            : os_error{};
    }
    [[nodiscard]] static bool is_default(struct sigaction const& a) noexcept {
        return (a.sa_flags & SA_SIGINFO) == 0 && a.sa_handler == SIG_DFL;
    }
    [[nodiscard]] static bool same_handler(struct sigaction const& a,
                                           struct sigaction const& b) noexcept {
        if ((a.sa_flags & SA_SIGINFO) != (b.sa_flags & SA_SIGINFO)) {
            return false;
        }
        return (a.sa_flags & SA_SIGINFO) != 0 ? a.sa_sigaction == b.sa_sigaction
                                              : a.sa_handler == b.sa_handler;
    }

    static void on_fault(int signal, siginfo_t* info, void* context) {
        int const saved = errno;
        bool const ours = info->si_code == SEGV_ACCERR &&
                          instance_.settle(reinterpret_cast<std::uintptr_t>(info->si_addr));
        if (!ours) {
            instance_.chain(signal, info, context);
        }
        errno = saved;
    }

    /// True when the access is worth repeating.
    bool settle(std::uintptr_t address) noexcept {
        for (fault_window& w : windows_) {
            for (;;) {
                std::uint32_t const g = w.generation.load();
                if (g % 2 == 0) {
                    break;
                }
                bool const covers = w.begin.load() <= address && address < w.end.load();
                if (w.generation.load() != g) {
                    continue;
                }
                if (!covers) {
                    break;
                }
                settle_in(w, g);
                return true;
            }
        }
        return address >= watched_begin_.load() && address < watched_end_.load() &&
               first_strike(address);
    }

    void settle_in(fault_window& w, std::uint32_t g) noexcept {
        auto* const at = reinterpret_cast<std::byte*>(w.begin.load());
        std::size_t const bytes = w.end.load() - w.begin.load();
        if (fork_gate::instance().inherited()) {
            fork_gate::instance().take_over();
        } else if (w.owner.load() == thread_id()) {
            static_cast<void>(protect(at, bytes, read_write));
            w.aborted.store(true);
        } else {
            w.waiting.fetch_add(1);
            // Most windows are closed before a thread that sleeps would have woken up.
            for (int i = 0; i < 200 && w.generation.load() == g; ++i) {
                ::sched_yield();
            }
            while (w.generation.load() == g) {
                futex_wait(futex_word(w), g);
            }
            w.waiting.fetch_sub(1);
        }
    }

    /// No window is open at the address. Either it has just been closed, then the access succeeds
    /// now; or the application protected the page, then the same thread faults there again
    /// although no window was opened or closed between: that second fault is the application's.
    bool first_strike(std::uintptr_t address) noexcept {
        std::uint64_t generations = 0;
        for (fault_window const& w : windows_) {
            generations += w.generation.load();
        }
        auto const thread = static_cast<std::uint64_t>(thread_id());
        std::uint64_t const mix = 0x9e3779b97f4a7c15U;
        std::uint64_t const strike =
            (((address * mix) ^ (generations + 1)) * mix ^ thread) * mix | 1;
        return strikes_[thread % strikes_.size()].exchange(strike) != strike;
    }

    /// What would have happened without us.
    void chain(int signal, siginfo_t* info, void* context) noexcept {
        struct sigaction const& previous = *previous_.load();
        bool const ignored =
            (previous.sa_flags & SA_SIGINFO) == 0 && previous.sa_handler == SIG_IGN;
        bool const by_default = is_default(previous);
        bool const sent = info->si_code <= 0; // by kill, not by an access
        if (ignored && sent) {
            return;
        }
        if (ignored || by_default) {
            // The access is repeated after we return, and ends the process.
            struct sigaction fatal {};
            fatal.sa_handler = SIG_DFL;
            ::sigaction(signal, &fatal, nullptr);
            if (sent) {
                ::syscall(SYS_tgkill, ::getpid(), thread_id(), signal);
            }
            return;
        }
        sigset_t before;
        sigset_t blocked = previous.sa_mask;
        if ((previous.sa_flags & SA_NODEFER) == 0) {
            ::sigaddset(&blocked, signal);
        }
        ::pthread_sigmask(SIG_BLOCK, &blocked, &before);
        if ((previous.sa_flags & SA_SIGINFO) != 0) {
            previous.sa_sigaction(signal, info, context);
        } else {
            previous.sa_handler(signal);
        }
        ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    }

    static segv_handler instance_;

    std::array<fault_window, max_windows> windows_{};
    std::atomic<std::uintptr_t> watched_begin_{std::numeric_limits<std::uintptr_t>::max()};
    std::atomic<std::uintptr_t> watched_end_{0};
    std::array<std::atomic<std::uint64_t>, 64> strikes_{};
    std::atomic<bool> installing_{false};
    struct sigaction first_ {};   ///< What was there before us.
    struct sigaction default_ {}; ///< SIG_DFL is zero.
    std::atomic<struct sigaction const*> previous_{nullptr};
};
inline constinit segv_handler segv_handler::instance_{};

} // namespace detail::os
KSM_NAMESPACE_END

#endif
