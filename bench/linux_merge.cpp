// SPDX-License-Identifier: BSL-1.0
// What the Linux provider takes to merge pages while nobody writes: one call for each run. A
// scattered page costs a mapping and two splits, which is what runs save.
#include <benchmark/benchmark.h>

#include <ksm/providers/linux.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "support/timing.hpp"
#include "support/workload.hpp"

namespace {

constexpr std::size_t pages = 4096;

/// The argument is the length of the runs, between which one page in two lies untouched.
void merge(benchmark::State& state) {
    auto const run = static_cast<std::size_t>(state.range(0));
    ksm::linux_options options;
    options.strategy = ksm::write_exclusion::quiescent;
    options.quiescent = true;
    ksm::linux_provider provider{options};
    ksm::page_range frames_from;
    ksm::page_range region;
    if (provider.try_map(ksm::page_count{run}, frames_from) ||
        provider.try_map(ksm::page_count{2 * pages}, region)) {
        state.SkipWithError("no memory");
        return;
    }
    auto const fill = [&](ksm::page_number first) {
        for (std::size_t i = 0; i < run; ++i) {
            bench::fill({provider.address(first + ksm::page_count{i}), provider.page_size()},
                        static_cast<std::uint32_t>(1 + i));
        }
    };
    fill(frames_from.first);
    ksm::promotion const made =
        provider.promote(provider.space(), frames_from.first, ksm::page_count{run});
    if (made.made.done != ksm::page_count{run}) {
        state.SkipWithError(name(made.made.why));
        return;
    }

    std::vector<double> taken;
    for (auto _ : state) {
        for (std::size_t i = 0; i < 2 * pages; i += 2 * run) {
            fill(region.first + ksm::page_count{i});
        }
        taken.push_back(bench::cpu_microseconds([&] {
            for (std::size_t i = 0; i < 2 * pages; i += 2 * run) {
                ksm::progress const p =
                    provider.merge(provider.space(), region.first + ksm::page_count{i},
                                   ksm::page_count{run}, made.first);
                if (p.done != ksm::page_count{run}) {
                    state.SkipWithError(name(p.why));
                    break;
                }
            }
        }));
        state.SetIterationTime(taken.back() * 1e-6);
        (void)provider.unmerge(provider.space(), region.first, region.count);
    }
    if (!taken.empty()) {
        state.counters["us_per_page"] = bench::median(taken) / pages;
    }
}

} // namespace

BENCHMARK(merge)->ArgName("run")->Arg(1)->Arg(16)->Arg(64)->UseManualTime();

BENCHMARK_MAIN();
