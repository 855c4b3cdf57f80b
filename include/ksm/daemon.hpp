// SPDX-License-Identifier: BSL-1.0
// A thread that scans (S13). It knows a scanner and the standard library's threads, no provider
// and no operating system.
#ifndef KSM_DAEMON_HPP
#define KSM_DAEMON_HPP

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

#include <ksm/scanner.hpp>
#include <ksm/tunables.hpp>
#include <ksm/types.hpp>

KSM_NAMESPACE_BEGIN

/// Scans `pages_to_scan` pages, sleeps `sleep_millisecs`, and so on while `run` is 1 and a space
/// is there; otherwise it sleeps until `control` changes that.
///
/// Nobody else may touch the scanner while the daemon exists, except through `control`. Members
/// may be called from any thread but the daemon's own.
template <class Scanner>
class daemon {
  public:
    /// Starts the thread. `run` is 0 unless the scanner says otherwise.
    /// \param on_start  Called first in the new thread: the place to lower its priority (Linux:
    ///                  setpriority(PRIO_PROCESS, gettid(), 5)), name it or block its signals.
    /// \throws std::system_error when there can be no thread.
    explicit daemon(Scanner& scanner, std::function<void()> on_start = {})
        : scanner_(scanner), thread_([this, begin = std::move(on_start)] {
              if (begin) {
                  begin();
              }
              work();
          }) {}

    /// Stops the thread: waits for the batch in progress, for no pause. Merged pages stay merged.
    ~daemon() {
        {
            request const r{*this};
            stop_ = true;
        }
        thread_.join();
    }
    daemon(daemon const&) = delete;
    daemon& operator=(daemon const&) = delete;

    /// Calls `act(scanner)` between two batches and returns its result. A thread that sleeps for
    /// want of work looks again afterwards. `act` must not call into the daemon.
    template <class Act>
    decltype(auto) control(Act&& act) {
        request const r{*this};
        return std::forward<Act>(act)(scanner_);
    }

  private:
    // While a request waits, no batch begins: a daemon that never sleeps would starve it.
    class request {
      public:
        explicit request(daemon& d) : daemon_(d), lock_(d.mutex_, std::defer_lock) {
            ++d.waiting_;
            lock_.lock();
        }
        ~request() {
            --daemon_.waiting_;
            lock_.unlock();
            daemon_.wake_.notify_one();
        }
        request(request const&) = delete;
        request& operator=(request const&) = delete;

      private:
        daemon& daemon_;
        std::unique_lock<std::mutex> lock_;
    };

    [[nodiscard]] bool has_work() const {
        return scanner_.tunables().run == run_state::run && scanner_.has_spaces();
    }

    void work() {
        std::unique_lock lock(mutex_);
        for (;;) {
            wake_.wait(lock, [&] { return waiting_ == 0 && (stop_ || has_work()); });
            if (stop_) {
                return;
            }
            static_cast<void>(scanner_.scan(page_count{scanner_.tunables().pages_to_scan}));
            std::chrono::milliseconds const pause{scanner_.tunables().sleep_millisecs};
            wake_.wait_for(lock, pause, [&] { return stop_; });
        }
    }

    Scanner& scanner_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::atomic<unsigned> waiting_{0};
    bool stop_ = false;
    std::thread thread_; // last: it uses all of the above
};

KSM_NAMESPACE_END

#endif
