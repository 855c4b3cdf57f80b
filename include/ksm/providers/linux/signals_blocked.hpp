// SPDX-License-Identifier: BSL-1.0
#ifndef KSM_PROVIDERS_LINUX_SIGNALS_BLOCKED_HPP
#define KSM_PROVIDERS_LINUX_SIGNALS_BLOCKED_HPP

#include <initializer_list>

#include <signal.h>

#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN

/// While it lives, signals of the calling thread wait, but for those of its own faults. The
/// provider needs that for each window; a thread that scans for long, and has one of these
/// meanwhile, spares it two system calls a window.
/// \requires Objects of a thread are destroyed in reverse order, and nobody else unblocks signals
/// of the thread meanwhile. \complexity One system call each for the outermost one, else none.
class signals_blocked {
  public:
    signals_blocked() noexcept {
        if (depth_++ == 0) {
            sigset_t all;
            ::sigfillset(&all);
            for (int const fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS}) {
                ::sigdelset(&all, fault);
            }
            ::pthread_sigmask(SIG_BLOCK, &all, &before_);
        }
    }
    ~signals_blocked() {
        if (--depth_ == 0) {
            ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
        }
    }
    signals_blocked(signals_blocked const&) = delete;
    signals_blocked& operator=(signals_blocked const&) = delete;

  private:
    static inline thread_local unsigned depth_ = 0;
    sigset_t before_; ///< Of the outermost.
};

KSM_NAMESPACE_END

#endif
