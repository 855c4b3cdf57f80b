// SPDX-License-Identifier: BSL-1.0
// Measurements in processes of their own: none finds what another has left behind, and whatever
// becomes of one, this process can put right what belongs to the whole machine.
#ifndef KSM_BENCH_SUPPORT_CHILD_HPP
#define KSM_BENCH_SUPPORT_CHILD_HPP

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdlib>
#include <optional>
#include <type_traits>

#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

namespace bench {

/// The signal that wants this process to end, or 0. No wait here outlasts it.
inline std::sig_atomic_t volatile interrupted = 0;

inline void catch_interruptions() {
    struct sigaction on_signal {};
    on_signal.sa_handler = [](int s) { interrupted = s; }; // and poll() ends
    for (int const s : {SIGINT, SIGTERM, SIGHUP, SIGQUIT}) {
        ::sigaction(s, &on_signal, nullptr);
    }
    std::signal(SIGPIPE, SIG_IGN); // printing fails instead
}

/// One end of a connection that carries objects.
class channel {
  public:
    explicit channel(int fd) noexcept : fd_(fd) {}

    template <class T>
    [[nodiscard]] bool send(T const& value) const {
        static_assert(std::is_trivially_copyable_v<T>);
        return ::send(fd_, &value, sizeof value, MSG_NOSIGNAL) ==
               static_cast<ssize_t>(sizeof value);
    }

    /// \returns Nothing at the end of the other side, of patience, or when interrupted.
    template <class T>
    [[nodiscard]] std::optional<T> receive(std::chrono::milliseconds patience) const {
        static_assert(std::is_trivially_copyable_v<T>);
        T value{};
        bool const complete = wait(patience) && ::recv(fd_, &value, sizeof value, MSG_WAITALL) ==
                                                    static_cast<ssize_t>(sizeof value);
        return complete ? std::optional{value} : std::nullopt;
    }

    void close() const { ::close(fd_); }

  private:
    [[nodiscard]] bool wait(std::chrono::milliseconds patience) const {
        // In slices: a signal may come just before poll(), which then knows nothing of it.
        constexpr std::chrono::milliseconds slice{100};
        pollfd waiting{fd_, POLLIN, 0};
        for (; interrupted == 0 && patience.count() > 0; patience -= slice) {
            if (::poll(&waiting, 1, static_cast<int>(slice.count())) == 1) {
                return true;
            }
        }
        return false;
    }

    int fd_;
};

/// A process that runs a function, and ends at the end of this object at the latest.
class child {
  public:
    /// \param work  Called in the new process with its end of the connection.
    template <class Work>
    explicit child(Work&& work) {
        int ends[2];
        if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
            return;
        }
        pid_t const parent = ::getpid();
        pid_ = ::fork();
        if (pid_ == 0) {
            ::close(ends[0]);
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);
            ::prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0); // the same pages for everybody
            for (int const s : {SIGINT, SIGTERM, SIGHUP, SIGQUIT}) {
                std::signal(s, SIG_DFL);
            }
            if (::getppid() == parent) {
                work(channel{ends[1]});
            }
            ::_exit(EXIT_SUCCESS);
        }
        ::close(ends[1]);
        connection_ = channel{ends[0]};
    }
    ~child() {
        connection_.close();
        if (pid_ > 0) {
            ::kill(pid_, SIGKILL);
            while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
            }
        }
    }
    child(child const&) = delete;
    child& operator=(child const&) = delete;

    [[nodiscard]] channel const& connection() const noexcept { return connection_; }

  private:
    pid_t pid_ = -1;
    channel connection_{-1};
};

/// What `work()`, an optional, returns in a process of its own; nothing when that does not end.
template <class Work>
auto in_child(std::chrono::milliseconds patience, Work&& work) -> decltype(work()) {
    using result = typename decltype(work())::value_type;
    child const c{[&](channel const& parent) {
        if (auto const r = work()) {
            static_cast<void>(parent.send(*r));
        }
    }};
    return c.connection().receive<result>(patience);
}

} // namespace bench

#endif
