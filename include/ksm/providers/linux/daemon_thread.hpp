// SPDX-License-Identifier: BSL-1.0
// What Linux has to offer to a daemon: `ksm::daemon<scanner, ksm::linux_daemon_thread>`. It knows
// no provider.
#ifndef KSM_PROVIDERS_LINUX_DAEMON_THREAD_HPP
#define KSM_PROVIDERS_LINUX_DAEMON_THREAD_HPP

#include <chrono>

#include <time.h>
#include <unistd.h>

#include <ksm/daemon.hpp>
#include <ksm/providers/linux/signals_blocked.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN

/// A thread that takes no signal but those of its own faults, and knows the time that it has used.
struct linux_daemon_thread : standard_daemon_thread {
    /// A thread inherits the mask of the one that starts it. Blocked only later, a signal of the
    /// process could be handled there first.
    using starting = signals_blocked;
    using working = signals_blocked;

    void begin() noexcept { process_ = ::getpid(); }
    [[nodiscard]] bool in_forked_child() const noexcept { return ::getpid() != process_; }
    [[nodiscard]] std::chrono::nanoseconds cpu_time() noexcept {
        timespec t{};
        ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
        return std::chrono::seconds{t.tv_sec} + std::chrono::nanoseconds{t.tv_nsec};
    }

  private:
    pid_t process_ = 0;
};

KSM_NAMESPACE_END

#endif
