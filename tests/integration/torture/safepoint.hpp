// SPDX-License-Identifier: BSL-1.0
// Where user writers park while a provider of the strategy `quiescent` merges.
#ifndef KSM_TESTS_INTEGRATION_TORTURE_SAFEPOINT_HPP
#define KSM_TESTS_INTEGRATION_TORTURE_SAFEPOINT_HPP

#include <atomic>

#include <sched.h>

namespace torture {

class safepoint {
  public:
    /// Stores are made while one of these exists, and none comes to exist in a frozen world.
    class running {
      public:
        explicit running(safepoint& s) : safepoint_(s) {
            for (;;) {
                safepoint_.running_.fetch_add(1);
                if (!safepoint_.frozen_) {
                    return;
                }
                safepoint_.running_.fetch_sub(1);
                safepoint_.frozen_.wait(true);
            }
        }
        ~running() { safepoint_.running_.fetch_sub(1); }
        running(running const&) = delete;
        running& operator=(running const&) = delete;

      private:
        safepoint& safepoint_;
    };

    /// The hooks of `linux_options`; the context is a safepoint.
    static bool freeze(void* context) noexcept {
        auto& s = *static_cast<safepoint*>(context);
        s.frozen_ = true;
        while (s.running_ != 0) {
            ::sched_yield();
        }
        return true;
    }
    static void thaw(void* context) noexcept {
        auto& s = *static_cast<safepoint*>(context);
        s.frozen_ = false;
        s.frozen_.notify_all();
    }

  private:
    std::atomic<bool> frozen_{false};
    std::atomic<int> running_{0};
};

} // namespace torture

#endif
