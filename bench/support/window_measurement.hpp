// SPDX-License-Identifier: BSL-1.0
// How long a store waits that meets a write window.
#ifndef KSM_BENCH_SUPPORT_WINDOW_MEASUREMENT_HPP
#define KSM_BENCH_SUPPORT_WINDOW_MEASUREMENT_HPP

#include <fmt/format.h>

#include <ksm/providers/linux.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <utility>
#include <vector>

#include "histogram.hpp"
#include "storing_thread.hpp"
#include "strategies.hpp"
#include "workload.hpp"

namespace bench {

struct scenario {
    char const* name;
    bool promotes;   ///< Pages become frames; otherwise they are merged with frames.
    std::size_t run; ///< Pages of a call.
};
inline constexpr std::size_t longest_run = 128; // what the engine merges in one window
inline constexpr std::size_t isolated = 8;
inline constexpr scenario scenarios[] = {{"merge isolated page", false, 1},
                                         {"merge run of 128", false, longest_run},
                                         {"promote isolated page", true, 1},
                                         {"promote run of 128", true, longest_run}};

struct window_times {
    std::uint64_t windows;
    times waited, all, idle;
    std::uint64_t threshold;
};

/// Merges the same pages again and again, a window a call, while a thread stores to them.
class window_measurement {
  public:
    window_measurement(scenario const& what, strategy const& by)
        : what_(what), provider_(options_for(by)) {}

    std::optional<window_times> run(std::size_t windows, std::size_t idle_stores) {
        ksm::page_count const run{what_.run};
        std::size_t const runs = what_.run == 1 ? isolated : 1;
        ksm::page_range source;
        // What lies between isolated pages keeps them apart.
        if (provider_.try_map(run, source) ||
            provider_.try_map(ksm::page_count{2 * what_.run * runs}, region_)) {
            return {};
        }
        fill(source.first);
        std::vector<std::uint64_t*> words;
        for (std::size_t r = 0; r < runs; ++r) {
            fill(first_of(r));
            for (std::size_t i = 0; i < what_.run; ++i) {
                std::byte* const page = provider_.address(first_of(r) + ksm::page_count{i});
                words.push_back(reinterpret_cast<std::uint64_t*>(page + 64 * (i % 64)));
            }
        }
        ksm::promotion const made = provider_.promote(provider_.space(), source.first, run);
        if (made.made.done != run) {
            return {};
        }
        storing_thread writer{std::move(words), idle_stores};
        if (!writer.alone()) {
            fmt::print(stderr, "latency: one processor: few stores meet a window\n");
        }
        std::uint64_t opened = 0;
        // Where the writer is not always running many windows meet no store.
        while (writer.waits() < windows && opened < 4 * windows) {
            writer.resume();
            for (std::size_t r = 0; r < runs; ++r) {
                bool done = false;
                writer.during([&] { done = replace(first_of(r), run, made.first); });
                spin(std::chrono::microseconds{20}); // the writer goes on
                opened += done ? 1 : 0;
                if (!done && ++failures_ > windows) {
                    return {};
                }
            }
            writer.pause();
            if (!make_private()) {
                return {};
            }
        }
        writer.stop();
        return window_times{opened, times::of(writer.waited()), times::of(writer.all()),
                            times::of(writer.idle()), writer.threshold()};
    }

  private:
    [[nodiscard]] ksm::page_number first_of(std::size_t run) const {
        return region_.first + ksm::page_count{2 * run * what_.run};
    }
    void fill(ksm::page_number first) {
        for (std::size_t i = 0; i < what_.run; ++i) {
            bench::fill({provider_.address(first + ksm::page_count{i}), provider_.page_size()},
                        static_cast<std::uint32_t>(1 + i));
        }
    }
    [[nodiscard]] bool replace(ksm::page_number first, ksm::page_count run, ksm::frame_id frame) {
        if (!what_.promotes) {
            return provider_.merge(provider_.space(), first, run, frame).done == run;
        }
        ksm::promotion const p = provider_.promote(provider_.space(), first, run);
        if (p.made.done.value() != 0) {
            promoted_.push_back({p.first, p.made.done});
        }
        return p.made.done == run;
    }
    [[nodiscard]] bool make_private() {
        bool const all = provider_.unmerge(provider_.space(), region_.first, region_.count).why ==
                         ksm::status::ok;
        for (auto const& [frame, n] : promoted_) {
            provider_.release(frame, n);
        }
        promoted_.clear();
        spin(std::chrono::microseconds{20});
        return all;
    }
    static void spin(std::chrono::microseconds t) {
        auto const until = std::chrono::steady_clock::now() + t;
        while (std::chrono::steady_clock::now() < until) {
        }
    }

    struct frames {
        ksm::frame_id first;
        ksm::page_count n;
    };

    scenario const& what_;
    ksm::linux_provider provider_;
    ksm::page_range region_;
    std::vector<frames> promoted_;
    std::size_t failures_ = 0;
};

} // namespace bench

#endif
