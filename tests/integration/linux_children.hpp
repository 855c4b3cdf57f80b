// SPDX-License-Identifier: BSL-1.0
// Children of every kind, which wait until they are told to look.
#ifndef KSM_TESTS_INTEGRATION_LINUX_CHILDREN_HPP
#define KSM_TESTS_INTEGRATION_LINUX_CHILDREN_HPP

#include <ostream>

#include <fcntl.h>
#include <spawn.h>
#include <sys/syscall.h>

#include "linux_support.hpp"

#if defined(__GLIBC_PREREQ)
#if __GLIBC_PREREQ(2, 34)
#define KSM_TESTS_HAVE_FORK_WITHOUT_HANDLERS
#endif
#endif

namespace linux_test {

/// False with ThreadSanitizer: other threads may hold locks of its own at a raw clone.
#if defined(__SANITIZE_THREAD__)
inline constexpr bool threads_may_clone = false;
#elif defined(__has_feature)
inline constexpr bool threads_may_clone = !__has_feature(thread_sanitizer);
#else
inline constexpr bool threads_may_clone = true;
#endif

/// The kinds whose child has a copy of the memory, and then those that run another program.
enum class birth { fork, raw_clone, fork_without_handlers, vfork_exec, posix_spawn };

inline char const* name(birth b) {
    switch (b) {
    case birth::fork: return "fork";
    case birth::raw_clone: return "clone";
    case birth::fork_without_handlers: return "_Fork";
    case birth::vfork_exec: return "vfork and exec";
    case birth::posix_spawn: return "posix_spawn";
    }
    return "";
}
inline std::ostream& operator<<(std::ostream& out, birth b) { return out << name(b); }

/// Not of vfork_exec and posix_spawn. Where there is no _Fork, a raw clone is as good.
inline pid_t give_birth(birth b) {
    ::fflush(nullptr);
#ifdef KSM_TESTS_HAVE_FORK_WITHOUT_HANDLERS
    if (b == birth::fork_without_handlers) {
        return ::_Fork();
    }
#endif
    return b == birth::fork ? ::fork()
                            : static_cast<pid_t>(::syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
}

/// The program ends at the end of its standard input.
[[gnu::noinline]] inline pid_t run_cat(birth b, int input) {
    pid_t child = -1;
    char cat[] = "cat";
    char* arguments[] = {cat, nullptr};
    if (b == birth::posix_spawn) {
        posix_spawn_file_actions_t actions;
        ::posix_spawn_file_actions_init(&actions);
        ::posix_spawn_file_actions_adddup2(&actions, input, 0);
        if (::posix_spawnp(&child, cat, &actions, nullptr, arguments, nullptr) != 0) {
            child = -1;
        }
        ::posix_spawn_file_actions_destroy(&actions);
        return child;
    }
    int runs[2]; // a sanitizer may make vfork a fork: the end of this tells that the program runs
    if (::pipe2(runs, O_CLOEXEC) != 0) {
        return -1;
    }
    child = ::vfork();
    if (child == 0) {
        ::dup2(input, 0);
        ::execvp(cat, arguments);
        ::_exit(98);
    }
    ::close(runs[1]);
    char c;
    static_cast<void>(::read(runs[0], &c, 1) == 0);
    ::close(runs[0]);
    return child;
}

/// A child that waits.
class child {
  public:
    /// After `ask`, a child with a copy of the memory does `body` and exits with what it returns.
    template <class Body>
    child(birth b, Body body) {
        REQUIRE(::pipe2(go_, O_CLOEXEC) == 0);
        if (b == birth::vfork_exec || b == birth::posix_spawn) {
            pid_ = run_cat(b, go_[0]);
        } else {
            pid_ = give_birth(b);
            if (pid_ == 0) {
                ::alarm(60);
                char c;
                ::close(go_[1]);
                ::_exit(::read(go_[0], &c, 1) == 1 ? body() : 97);
            }
        }
        ::close(go_[0]);
        REQUIRE(pid_ > 0);
    }
    ~child() { kill(); }
    child(child const&) = delete;
    child& operator=(child const&) = delete;

    /// Lets it go on; its exit code, or 1000 and the signal that ended it.
    int ask() {
        go();
        return wait();
    }
    void go() { static_cast<void>(::write(go_[1], "x", 1) == 1); }
    int wait() {
        ::close(go_[1]);
        int state = 0;
        ::waitpid(pid_, &state, 0);
        pid_ = -1;
        return WIFEXITED(state) ? WEXITSTATUS(state) : 1000 + WTERMSIG(state);
    }
    void kill() {
        if (pid_ > 0) {
            ::kill(pid_, SIGKILL);
            static_cast<void>(wait());
        }
    }

  private:
    int go_[2];
    pid_t pid_ = -1;
};

inline int nothing_to_do() { return 0; }

} // namespace linux_test

#endif
