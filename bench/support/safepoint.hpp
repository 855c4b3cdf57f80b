// SPDX-License-Identifier: BSL-1.0
// What a runtime gives the provider to stop its one writer: `ksm::linux_options::freeze`.
#ifndef KSM_BENCH_SUPPORT_SAFEPOINT_HPP
#define KSM_BENCH_SUPPORT_SAFEPOINT_HPP

#include <ksm/providers/linux.hpp>

#include <atomic>
#include <thread>

namespace bench {

class safepoint {
  public:
    /// The hooks, to be called by the thread that scans.
    void give_to(ksm::linux_options& options) noexcept {
        options.freeze_context = this;
        options.freeze = [](void* self) noexcept {
            return static_cast<safepoint*>(self)->freeze();
        };
        options.thaw = [](void* self) noexcept { static_cast<safepoint*>(self)->thaw(); };
    }

    // By the writer. It polls between two stores, and wherever it is not running it does not store.
    void begin() noexcept {
        running_.store(true);
        poll();
    }
    void poll() noexcept {
        while (wanted_.load()) {
            parked_.store(true);
            wanted_.wait(true);
            parked_.store(false);
        }
    }
    void end() noexcept { running_.store(false); }

  private:
    bool freeze() noexcept {
        wanted_.store(true); // before running_ is read: `begin` does it the other way round
        while (running_.load() && !parked_.load()) {
            std::this_thread::yield();
        }
        return true;
    }
    void thaw() noexcept {
        wanted_.store(false);
        wanted_.notify_one();
    }

    std::atomic<bool> wanted_{false};
    std::atomic<bool> parked_{false};
    std::atomic<bool> running_{false};
};

} // namespace bench

#endif
