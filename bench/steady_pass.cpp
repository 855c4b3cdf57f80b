// SPDX-License-Identifier: BSL-1.0
// A pass over memory that nobody wrote, and the survey that it contains, in one run, in turn. The
// engine itself has nothing to do, so a pass may not grow faster than its survey.
#include <benchmark/benchmark.h>

#include <ksm/scanner.hpp>

#include <array>
#include <cstddef>
#include <vector>

#include "support/flat_provider.hpp"
#include "support/timing.hpp"
#include "support/workload.hpp"

namespace {

constexpr std::size_t page_size = 64; // small, because the contents are not what is measured

/// The arguments are the number of pages, and how many of a thousand are written between passes.
void steady_pass(benchmark::State& state) {
    auto const pages = static_cast<std::size_t>(state.range(0));
    auto const written = pages * static_cast<std::size_t>(state.range(1)) / 1000;
    std::vector<std::byte> memory(pages * page_size);
    auto const contents = bench::workloads[0].make(pages);
    for (std::size_t i = 0; i < pages; ++i) {
        bench::fill(std::span{memory}.subspan(i * page_size, page_size), contents[i]);
    }

    bench::flat_provider provider{memory, page_size};
    ksm::scanner scanner{provider};
    if (scanner.enter(provider.space) != ksm::status::ok) {
        state.SkipWithError("no memory");
        return;
    }
    for (int i = 0; i < 4; ++i) { // settled after two
        (void)scanner.scan_pass();
    }

    std::array<ksm::page_run, 128> runs;
    std::vector<double> pass;
    std::vector<double> survey;
    for (auto _ : state) {
        survey.push_back(bench::real_microseconds([&] {
            ksm::survey_result r;
            do {
                r = provider.survey(provider.space, r.next, ksm::coverage::changes, runs);
            } while (!r.end);
        }));
        for (std::size_t i = 0; i < written; ++i) {
            provider.touch(i * (pages / written));
        }
        ksm::scan_result result;
        pass.push_back(bench::real_microseconds([&] { result = scanner.scan_pass(); }));
        benchmark::DoNotOptimize(result);
        state.SetIterationTime(pass.back() * 1e-6);
    }
    state.counters["pass_us"] = bench::median(pass);
    state.counters["survey_us"] = bench::median(survey);
}

} // namespace

BENCHMARK(steady_pass)
    ->ArgNames({"pages", "written_per_mille"})
    ->ArgsProduct({{1 << 16, 1 << 18, 1 << 20}, {0, 10}})
    ->UseManualTime();

BENCHMARK_MAIN();
