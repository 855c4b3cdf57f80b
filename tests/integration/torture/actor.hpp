// SPDX-License-Identifier: BSL-1.0
// An actor of the soak tests: a thread that repeats one small step until it is told to stop. What
// it finds wrong it notes; only the main thread, after all have ended, turns that into a failure.
#ifndef KSM_TESTS_INTEGRATION_TORTURE_ACTOR_HPP
#define KSM_TESTS_INTEGRATION_TORTURE_ACTOR_HPP

#include <array>
#include <atomic>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <thread>

#include <ksm/outcome.hpp>

namespace torture {

/// What all actors together have done.
struct totals {
    std::uint64_t checked_stores = 0;
    std::uint64_t syscall_writes = 0;
    std::uint64_t datagrams = 0;
    std::uint64_t pinned_writes = 0;
    std::uint64_t reads = 0;
    std::uint64_t forks = 0;
    std::uint64_t threads = 0;
    std::uint64_t abuses = 0;
    std::uint64_t merges = 0;
    std::uint64_t unmerges = 0;
    std::uint64_t windows = 0; ///< Calls of the provider that open one window or more.
    /// How they ended, those that un-merge left out.
    std::array<std::uint64_t, ksm::status_count> by_status{};
};

/// Random numbers that repeat with the seed.
class dice {
  public:
    explicit dice(std::uint64_t seed) : x_(seed) {}
    /// One of 0 .. `sides - 1`.
    std::size_t operator()(std::size_t sides) {
        x_ = x_ * 6364136223846793005U + 1442695040888963407U;
        return static_cast<std::size_t>(x_ >> 33) % sides;
    }

  private:
    std::uint64_t x_;
};

class actor {
  public:
    explicit actor(char const* name) : name_(name) {}
    virtual ~actor() = default;
    actor(actor const&) = delete;
    actor& operator=(actor const&) = delete;

    /// Why the kernel does not let it act; empty if it does.
    [[nodiscard]] virtual std::string refusal() const { return {}; }
    /// After all actors have ended: looks once more at everything that it owns.
    virtual void finish() {}
    virtual void add_to(totals&) const = 0;

    void start(std::atomic<bool> const& stop) {
        stop_ = &stop;
        thread_ = std::thread{[this] {
            while (!stopping()) {
                step();
                steps_.fetch_add(1, std::memory_order_relaxed);
            }
            ended_ = true;
        }};
    }
    void join() { thread_.join(); }

    [[nodiscard]] char const* name() const { return name_; }
    [[nodiscard]] char const* doing() const { return doing_.load(std::memory_order_relaxed); }
    [[nodiscard]] std::uint64_t steps() const { return steps_.load(std::memory_order_relaxed); }
    [[nodiscard]] bool ended() const { return ended_; }

    /// Valid after `join`, here and below.
    [[nodiscard]] std::uint64_t faults() const { return faults_; }
    [[nodiscard]] std::string first_fault() const { return first_fault_; }

  protected:
    virtual void step() = 0;

    /// A step that waits for another actor ends when this says so: that one may have ended.
    [[nodiscard]] bool stopping() const { return stop_->load(std::memory_order_relaxed); }

    /// What the watchdog says of this actor if nothing follows.
    void now(char const* doing) { doing_.store(doing, std::memory_order_relaxed); }

    [[gnu::format(printf, 2, 3)]] void complain(char const* format, ...) {
        if (faults_++ == 0) {
            std::va_list arguments;
            va_start(arguments, format);
            std::vsnprintf(first_fault_, sizeof first_fault_, format, arguments);
            va_end(arguments);
        }
    }

  private:
    char const* name_;
    std::atomic<bool> const* stop_ = nullptr;
    std::thread thread_;
    std::atomic<char const*> doing_{"starts"};
    std::atomic<std::uint64_t> steps_{0};
    std::atomic<bool> ended_{false};
    std::uint64_t faults_ = 0;
    char first_fault_[200] = "";
};

} // namespace torture

#endif
