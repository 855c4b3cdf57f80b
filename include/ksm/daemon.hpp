// SPDX-License-Identifier: BSL-1.0
// A thread that scans (S13). It knows a scanner and the standard library's threads, no provider
// and no operating system.
#ifndef KSM_DAEMON_HPP
#define KSM_DAEMON_HPP

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include <ksm/scanner.hpp>
#include <ksm/tunables.hpp>
#include <ksm/types.hpp>

KSM_NAMESPACE_BEGIN

struct daemon_options {
    /// Share of one core that scanning may take. A batch that took longer than its share is
    /// followed by a longer pause than is due anyhow. [per cent, 1 ... 100]
    std::uint32_t max_cpu_percent = 20;
    /// Called first in the new thread: the place to lower its priority or to name it.
    std::function<void()> on_start;
};

/// What a daemon needs of a thread, with nothing but the standard library. A system that has more
/// to offer has a class of its own, such as `linux_daemon_thread`.
struct standard_daemon_thread {
    /// Lives in the thread that starts the daemon's, while it does.
    struct starting {};
    /// Lives in the daemon's thread while it works, after `on_start`.
    struct working {};

    /// A daemon begins in this process.
    void begin() noexcept {}
    /// The process is a fork of the one in which the daemon began. The standard library cannot
    /// tell.
    [[nodiscard]] bool in_forked_child() const noexcept { return false; }
    /// Time that the calling thread has used. Elapsed time is never less.
    [[nodiscard]] std::chrono::nanoseconds cpu_time() noexcept {
        return std::chrono::steady_clock::now().time_since_epoch();
    }
    /// Waits until `done()`, at most for a time.
    template <class Done>
    void pause(std::condition_variable& wake, std::unique_lock<std::mutex>& lock,
               std::chrono::nanoseconds time, Done done) {
        wake.wait_for(lock, time, done);
    }
};

/// Scans `pages_to_scan` pages, sleeps `sleep_millisecs`, and so on while `run` is 1 and a space
/// is there; otherwise it sleeps until `control` changes that.
///
/// A pass takes no less time than if every tracked page were visited, though most need no visit:
/// a page has to rest as long as under the kernel, and memory that nobody writes to is surveyed
/// once in that time and not once in every pause. A new value of a tunable ends the pause.
///
/// Nobody else may touch the scanner or its provider while the daemon runs, except through
/// `control`. Members may be called from any thread but the daemon's own. No lock is held while the
/// scanner works.
template <class Scanner, class Thread = standard_daemon_thread>
class daemon {
  public:
    /// Starts the thread. `run` is 0 unless the scanner says otherwise.
    /// \throws std::system_error when there can be no thread.
    explicit daemon(Scanner& scanner, daemon_options options = {}, Thread thread = {})
        : scanner_(scanner), options_(std::move(options)), system_(std::move(thread)) {
        system_.begin();
        [[maybe_unused]] typename Thread::starting const mask{};
        sync_->thread = std::thread{[this] { work(); }};
    }
    ~daemon() {
        stop();
        if (system_.in_forked_child()) {
            static_cast<void>(sync_.release());
        }
    }
    daemon(daemon const&) = delete;
    daemon& operator=(daemon const&) = delete;

    /// Ends the thread: waits for the step in progress, not for a batch, a survey or a pause.
    /// Merged pages stay merged. `control` goes on to work. Once is enough. In a forked child,
    /// which has no such thread, this does nothing if `Thread` can tell (`linux_daemon_thread`),
    /// and `control` must not be called.
    void stop() {
        if (system_.in_forked_child()) {
            return;
        }
        {
            std::lock_guard const lock(sync_->mutex);
            stop_ = true;
        }
        sync_->wake.notify_all();
        std::lock_guard const lock(sync_->joining);
        if (sync_->thread.joinable()) {
            sync_->thread.join();
        }
    }

    /// Calls `act(scanner)` between two batches and returns its result. A thread that sleeps for
    /// want of work looks again afterwards. `act` must not call into the daemon.
    template <class Act>
    decltype(auto) control(Act&& act) {
        turn const mine{*this};
        return std::forward<Act>(act)(scanner_);
    }

  private:
    /// The scanner is ours. While somebody waits for his turn, no batch begins: a daemon that
    /// never sleeps would starve him.
    class turn {
      public:
        explicit turn(daemon& d) : daemon_(d) {
            std::unique_lock lock(d.sync_->mutex);
            ++d.waiting_;
            d.sync_->wake.wait(lock, [&] { return !d.in_use_; });
            --d.waiting_;
            d.in_use_ = true;
        }
        ~turn() {
            {
                std::lock_guard const lock(daemon_.sync_->mutex);
                daemon_.in_use_ = false;
            }
            daemon_.sync_->wake.notify_all();
        }
        turn(turn const&) = delete;
        turn& operator=(turn const&) = delete;

      private:
        daemon& daemon_;
    };

    [[nodiscard]] bool may_scan() const {
        return waiting_ == 0 && !in_use_ && scanner_.tunables().run == run_state::run &&
               scanner_.has_spaces();
    }

    void work() {
        if (options_.on_start) {
            options_.on_start();
        }
        [[maybe_unused]] typename Thread::working const while_it_works{};
        std::unique_lock lock(sync_->mutex);
        for (;;) {
            sync_->wake.wait(lock, [&] { return stop_ || may_scan(); });
            if (stop_) {
                return;
            }
            page_count const batch{scanner_.tunables().pages_to_scan};
            std::chrono::milliseconds const rest{scanner_.tunables().sleep_millisecs};
            in_use_ = true;
            lock.unlock();
            std::chrono::nanoseconds const begin = system_.cpu_time();
            scan_result const r = scanner_.scan(batch, [this]() noexcept { return stop_.load(); });
            std::chrono::nanoseconds const used = system_.cpu_time() - begin;
            std::chrono::nanoseconds const pace = rest + rest_of_pass(r.pass_complete, batch, rest);
            tunables const before = scanner_.tunables();
            lock.lock();
            in_use_ = false;
            sync_->wake.notify_all();
            system_.pause(sync_->wake, lock, owed(used), [this] { return stop_.load(); });
            system_.pause(sync_->wake, lock, pace - std::min(pace, owed(used)),
                          [&] { return stop_ || (!in_use_ && scanner_.tunables() != before); });
        }
    }

    /// At the end of a pass: the pauses that it would have had in addition if each tracked page
    /// had been visited.
    [[nodiscard]] std::chrono::nanoseconds rest_of_pass(bool complete, page_count batch,
                                                        std::chrono::milliseconds rest) {
        ++batches_;
        if (!complete) {
            return {};
        }
        std::uint64_t const had = std::exchange(batches_, 0);
        if (rest.count() == 0 || batch.value() == 0) {
            return {};
        }
        std::uint64_t const all = scanner_.statistics().rmap_items / batch.value();
        auto const most = static_cast<std::uint64_t>(longest_rest_of_pass / rest);
        return rest * static_cast<std::int64_t>(std::min(all - std::min(all, had), most));
    }

    /// The pause that makes a time of work its share of the whole.
    [[nodiscard]] std::chrono::nanoseconds owed(std::chrono::nanoseconds used) const {
        std::uint32_t const share = std::clamp(options_.max_cpu_percent, 1U, 100U);
        return used * (100 - share) / share;
    }

    /// Terabytes, too, are looked at once in a while.
    static constexpr std::chrono::hours longest_rest_of_pass{1};

    Scanner& scanner_;
    daemon_options options_;
    Thread system_;
    /// A forked child abandons it: destroying it would wait for a thread that is not there.
    struct synchronisation {
        std::mutex mutex; ///< Of what follows; never held while the scanner works.
        std::mutex joining;
        std::condition_variable wake;
        std::thread thread;
    };
    std::unique_ptr<synchronisation> sync_ = std::make_unique<synchronisation>();
    unsigned waiting_ = 0;
    bool in_use_ = false; ///< The scanner, by the daemon or in `control`.
    std::atomic<bool> stop_{false};
    std::uint64_t batches_ = 0; ///< Of the pass in progress.
};

KSM_NAMESPACE_END

#endif
