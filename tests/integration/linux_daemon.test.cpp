// SPDX-License-Identifier: BSL-1.0
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <memory>
#include <string>
#include <thread>

#include <sys/syscall.h>

#include <ksm/providers/linux/daemon_thread.hpp>
#include <ksm/scanner.hpp>

#include "linux_support.hpp"

using namespace linux_test;

namespace {

using scanner_type = scanner<linux_provider>;
using daemon_type = ksm::daemon<scanner_type, linux_daemon_thread>;

std::atomic<int> handled_by{0};

void on_signal(int) { handled_by.store(detail::os::thread_id()); }

} // namespace

TEST_CASE("a daemon in the middle of a pass over much memory stops at once", "[linux]") {
    linux_provider p{by_mprotect()};
    memory m{p, 65536};
    for (std::size_t i = 0; i < m.size(); ++i) {
        std::uint64_t const content = i % 1000 + 1;
        std::memcpy(m.at(i), &content, sizeof content);
    }
    scanner_type scanner{p};
    REQUIRE(scanner.enter(p.space()) == status::ok);
    REQUIRE(scanner.tune("pages_to_scan", std::uint64_t{0xffffffff}) == tunable_error::none);
    REQUIRE(scanner.tune("sleep_millisecs", std::uint64_t{0}) == tunable_error::none);
    REQUIRE(scanner.tune("run", std::uint64_t{1}) == tunable_error::none);
    static std::atomic<int> calls;
    // The n-th step of a pass: at first in a survey, then among digests and merges.
    for (int const steps : {1, 20, 5000}) {
        calls.store(0);
        detail::os::fault_hook.store([](detail::os::call) noexcept {
            calls.fetch_add(1, std::memory_order_relaxed);
            return 0;
        });
        daemon_type daemon{scanner, {100, {}}};
        while (calls.load() < steps) {
            std::this_thread::yield();
        }
        int const before = calls.load();
        daemon.stop();
        int const after = calls.load();
        detail::os::fault_hook.store(nullptr);
        CAPTURE(steps);
        // One survey call or one run: some milliseconds. Where windows are slow each takes one of a
        // run's 512 pages, with six calls. A pass makes tens of thousands of calls.
        CHECK(after - before < 512 * 6 + 1000);
    }
    CHECK(scanner.unmerge_all() == status::ok);
}

TEST_CASE("the thread of the daemon handles no signal of the process", "[linux]") {
    CHECK(in_child([] {
              struct sigaction a {};
              a.sa_handler = on_signal;
              ::sigaction(SIGUSR1, &a, nullptr);
              linux_provider p{quiescent()};
              scanner_type scanner{p};
              std::atomic<int> blocked{-1};
              daemon_type daemon{scanner, {100, [&] {
                                               sigset_t mine;
                                               ::pthread_sigmask(SIG_SETMASK, nullptr, &mine);
                                               blocked.store(::sigismember(&mine, SIGUSR1) == 1 &&
                                                             ::sigismember(&mine, SIGSEGV) == 0);
                                           }}};
              while (blocked.load() == -1) {
                  std::this_thread::yield();
              }
              if (blocked.load() != 1) {
                  return 3;
              }
              sigset_t one;
              sigset_t pending;
              ::sigemptyset(&one);
              ::sigaddset(&one, SIGUSR1);
              ::pthread_sigmask(SIG_BLOCK, &one, nullptr);
              ::kill(::getpid(), SIGUSR1);
              ::sigpending(&pending);
              if (::sigismember(&pending, SIGUSR1) != 1 || handled_by.load() != 0) {
                  return 1;
              }
              ::pthread_sigmask(SIG_UNBLOCK, &one, nullptr);
              return handled_by.load() == detail::os::thread_id() ? 0 : 2;
          }) == 0);
}

TEST_CASE("signals wait until the outermost of nested blocks ends", "[linux]") {
    CHECK(in_child([] {
              struct sigaction a {};
              a.sa_handler = on_signal;
              ::sigaction(SIGUSR1, &a, nullptr);
              {
                  signals_blocked const outer;
                  { signals_blocked const inner; }
                  ::raise(SIGUSR1);
                  if (handled_by.load() != 0) {
                      return 1;
                  }
              }
              return handled_by.load() == detail::os::thread_id() ? 0 : 2;
          }) == 0);
}

TEST_CASE("the daemon's clock is the time that its thread has used", "[linux]") {
    linux_daemon_thread thread;
    auto const elapsed = std::chrono::steady_clock::now();
    auto const used = thread.cpu_time();
    while (thread.cpu_time() - used < std::chrono::milliseconds{2}) {
    }
    CHECK(std::chrono::steady_clock::now() - elapsed >= std::chrono::milliseconds{2});
    auto const before = thread.cpu_time();
    std::thread{[] {
        linux_daemon_thread other;
        while (other.cpu_time() < std::chrono::milliseconds{20}) {
        }
    }}.join();
    CHECK(thread.cpu_time() - before < std::chrono::milliseconds{20});
}

TEST_CASE("a daemon in a child is the child's, whoever made its thread object", "[linux]") {
    linux_daemon_thread const of_the_parent;
    CHECK(in_child([&] {
              linux_provider p{quiescent()};
              scanner_type scanner{p};
              std::size_t links = 0;
              { daemon_type const background{scanner, {}, of_the_parent}; }
              detail::os::descriptor const tasks{
                  ::open("/proc/self/task", O_PATH | O_DIRECTORY | O_CLOEXEC)};
              return tasks.intact(&links) && links == 3 ? 0 : 1; // its own two, and a thread's
          }) == 0);
}

TEST_CASE("a forked child may destroy a daemon that its parent runs", "[linux]") {
    linux_provider p{quiescent()};
    scanner_type scanner{p};
    static std::atomic<int> thread;
    thread = 0;
    daemon_options options;
    options.on_start = [] { thread = detail::os::thread_id(); };
    auto background = std::make_unique<daemon_type>(scanner, options);
    for (char state = 'R'; state != 'S';) { // until it waits for work
        std::string const path = "/proc/self/task/" + std::to_string(thread) + "/stat";
        if (std::FILE* const f = std::fopen(path.c_str(), "r"); f != nullptr) {
            static_cast<void>(std::fscanf(f, "%*d %*s %c", &state));
            std::fclose(f);
        }
        std::this_thread::yield();
    }
    CHECK(in_child([&] {
              background->stop();
              background.reset();
              return 0;
          }) == 0);
    background->stop();
}
