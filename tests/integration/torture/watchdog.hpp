// SPDX-License-Identifier: BSL-1.0
#ifndef KSM_TESTS_INTEGRATION_TORTURE_WATCHDOG_HPP
#define KSM_TESTS_INTEGRATION_TORTURE_WATCHDOG_HPP

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "actor.hpp"

namespace torture {

/// Ends the process when an actor makes no step for a long time, and says what each of them did
/// last. It touches no memory that is merged, so it cannot hang with them.
class watchdog {
  public:
    watchdog(char const* strategy, std::vector<std::unique_ptr<actor>> const& actors)
        : strategy_(strategy), actors_(actors), seen_(actors.size()), thread_([this] { watch(); }) {
    }
    ~watchdog() {
        {
            std::lock_guard const lock{mutex_};
            stop_ = true;
        }
        wake_.notify_one();
        thread_.join();
    }
    watchdog(watchdog const&) = delete;
    watchdog& operator=(watchdog const&) = delete;

  private:
    using clock = std::chrono::steady_clock;
    static constexpr std::chrono::seconds patience{60};

    struct sight {
        std::uint64_t steps = 0;
        clock::time_point at = clock::now();
    };

    void watch() {
        std::unique_lock lock{mutex_};
        while (!wake_.wait_for(lock, std::chrono::seconds{1}, [this] { return stop_; })) {
            for (std::size_t i = 0; i < actors_.size(); ++i) {
                if (std::uint64_t const steps = actors_[i]->steps();
                    steps != seen_[i].steps || actors_[i]->ended()) {
                    seen_[i] = {steps, clock::now()};
                } else if (clock::now() - seen_[i].at > patience) {
                    die(*actors_[i]);
                }
            }
        }
    }
    [[noreturn]] void die(actor const& hung) const {
        std::fprintf(stderr,
                     "Strategy %s hangs: %s has made no step for %d s. What each did last:\n",
                     strategy_, hung.name(), static_cast<int>(patience.count()));
        for (auto const& a : actors_) {
            std::fprintf(stderr, "  %-12s step %llu: %s%s\n", a->name(),
                         static_cast<unsigned long long>(a->steps()), a->doing(),
                         a->ended() ? " (ended)" : "");
        }
        std::abort();
    }

    char const* strategy_;
    std::vector<std::unique_ptr<actor>> const& actors_;
    std::vector<sight> seen_;
    std::mutex mutex_;
    std::condition_variable wake_;
    bool stop_ = false;
    std::thread thread_; // last: it uses all of the above
};

} // namespace torture

#endif
