// SPDX-License-Identifier: BSL-1.0
// A thread that does nothing but store and time each store.
#ifndef KSM_BENCH_SUPPORT_STORING_THREAD_HPP
#define KSM_BENCH_SUPPORT_STORING_THREAD_HPP

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <utility>
#include <vector>

#include <sched.h>

#include "histogram.hpp"
#include "ticks.hpp"

namespace bench {

/// Stores at random places what is there already, so that pages stay equal. It and the thread that
/// makes it get a processor each: otherwise whoever is woken stays where its waker runs, and the
/// one stores only while the other does not merge.
///
/// It always has a store under way, so the one that meets a window comes just after it has opened:
/// what it waits is the whole window, the worst case, and not half of it as on average.
class storing_thread {
  public:
    /// \param words      Where it stores. Nobody else writes there.
    /// \param idle       So many stores first tell how long one takes when nobody interferes.
    storing_thread(std::vector<std::uint64_t*> words, std::size_t idle)
        : words_(std::move(words)), ns_per_tick_(nanoseconds_per_tick()), thread_([this, idle] {
              alone_ = use_processor(1);
              work(idle);
          }) {
        while (!ready_.load()) {
            std::this_thread::yield();
        }
        alone_ = use_processor(0) && alone_;
    }
    ~storing_thread() { stop(); }
    storing_thread(storing_thread const&) = delete;
    storing_thread& operator=(storing_thread const&) = delete;

    /// Whether there are two processors, without which few stores meet a window.
    [[nodiscard]] bool alone() const { return alone_; }

    /// The stores that begin while `call()` runs are those that may have to wait.
    template <class Call>
    void during(Call&& call) {
        moment_.store(moment_.load() + 1); // odd: in a call
        call();
        moment_.store(moment_.load() + 1);
    }
    /// Stores between two of these do not count.
    void pause() { counting_.store(false); }
    void resume() { counting_.store(true); }
    /// How many stores have waited so far.
    [[nodiscard]] std::uint64_t waits() const { return waits_.load(); }

    void stop() {
        stop_.store(true);
        if (thread_.joinable()) {
            thread_.join();
        }
    }

    // After `stop`. In nanoseconds.
    [[nodiscard]] histogram const& idle() const { return idle_; }
    [[nodiscard]] histogram const& all() const { return all_; }
    /// The first store of each call that took longer than `threshold`. A later one need not have
    /// met a window: its page was merged, and copy-on-write is what it took.
    [[nodiscard]] histogram const& waited() const { return waited_; }
    /// Nearly no store takes half as long when nobody interferes.
    [[nodiscard]] std::uint64_t threshold() const { return threshold_; }

  private:
    /// Moves the calling thread to the n-th of the processors that it may use.
    static bool use_processor(int n) {
        cpu_set_t mine;
        CPU_ZERO(&mine);
        if (::sched_getaffinity(0, sizeof mine, &mine) != 0) {
            return false;
        }
        for (std::size_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
            if (CPU_ISSET(cpu, &mine) && n-- == 0) {
                CPU_ZERO(&mine);
                CPU_SET(cpu, &mine);
                return ::sched_setaffinity(0, sizeof mine, &mine) == 0;
            }
        }
        return false;
    }

    std::uint64_t timed_store() {
        random_ = random_ * 6364136223846793005U + 1442695040888963407U;
        std::atomic_ref<std::uint64_t> const word{*words_[(random_ >> 33U) % words_.size()]};
        std::uint64_t const value = word.load(std::memory_order_relaxed);
        std::uint64_t const before = ticks();
        word.store(value, std::memory_order_relaxed);
        return static_cast<std::uint64_t>(static_cast<double>(ticks() - before) * ns_per_tick_);
    }

    void work(std::size_t idle) {
        for (std::size_t i = 0; i < idle; ++i) {
            idle_.add(timed_store());
        }
        threshold_ = std::max<std::uint64_t>(2 * idle_.quantile(0.999), 200);
        ready_.store(true);
        std::uint64_t last = 0;
        while (!stop_.load(std::memory_order_relaxed)) {
            bool const counts = counting_.load();
            std::uint64_t const moment = moment_.load();
            std::uint64_t const taken = timed_store();
            if (!counts) {
                continue;
            }
            all_.add(taken);
            if (moment % 2 != 0 && taken > threshold_ && moment != last) {
                last = moment;
                waited_.add(taken);
                waits_.store(waited_.count());
            }
        }
    }

    std::vector<std::uint64_t*> words_;
    double ns_per_tick_;
    std::uint64_t random_ = 20261124;
    histogram idle_;
    histogram all_;
    histogram waited_;
    std::uint64_t threshold_ = 0;
    std::atomic<std::uint64_t> moment_{0};
    std::atomic<std::uint64_t> waits_{0};
    std::atomic<bool> counting_{false};
    std::atomic<bool> ready_{false};
    std::atomic<bool> stop_{false};
    bool alone_ = false;
    std::thread thread_; // last: it uses all of the above
};

} // namespace bench

#endif
