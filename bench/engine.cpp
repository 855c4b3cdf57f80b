// SPDX-License-Identifier: BSL-1.0
// The engine by itself: the time to converge on each workload over a provider that costs next to
// nothing, and the bytes of metadata for each page that is then tracked.
#include <benchmark/benchmark.h>

#include <ksm/scanner.hpp>

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "support/flat_provider.hpp"
#include "support/timing.hpp"
#include "support/workload.hpp"

namespace {

constexpr std::size_t page_size = 4096;
constexpr std::size_t pages = 1 << 16;

template <class Policy>
void converge(benchmark::State& state, bench::workload const& w) {
    auto const contents = w.make(pages);
    bool const zero_apart = w.name == std::string{"W5"};
    auto const expected = bench::count(contents, zero_apart);
    std::vector<std::byte> memory(pages * page_size);
    for (std::size_t i = 0; i < pages; ++i) {
        bench::fill(std::span{memory}.subspan(i * page_size, page_size), contents[i]);
    }

    ksm::statistics s;
    std::vector<double> taken;
    for (auto _ : state) {
        bench::flat_provider provider{memory, page_size};
        ksm::scanner<bench::flat_provider, Policy> scanner{provider};
        if (scanner.tune("use_zero_pages", zero_apart ? 1 : 0) != ksm::tunable_error::none ||
            scanner.enter(provider.space) != ksm::status::ok) {
            state.SkipWithError("not set up");
            return;
        }
        taken.push_back(bench::cpu_microseconds([&] {
            (void)scanner.scan_pass();
            (void)scanner.scan_pass();
        }));
        state.SetIterationTime(taken.back() * 1e-6);
        s = scanner.statistics();
    }
    if (bench::exact_counts{s.pages_shared, s.pages_sharing, s.ksm_zero_pages} != expected) {
        state.SkipWithError("the counts are not exact");
    }
    state.counters["us_per_page"] = bench::median(taken) / pages;
    state.counters["bytes_per_page"] =
        static_cast<double>(s.metadata_bytes) / static_cast<double>(s.rmap_items);
    state.counters["digests_per_page"] =
        static_cast<double>(s.digests) / static_cast<double>(s.rmap_items);
}

} // namespace

int main(int argc, char** argv) {
    benchmark::Initialize(&argc, argv);
    for (bench::workload const& w : bench::workloads) {
        benchmark::RegisterBenchmark((std::string{"standard/"} + w.name).c_str(),
                                     converge<ksm::standard_policy>, w)
            ->UseManualTime();
        benchmark::RegisterBenchmark((std::string{"classic/"} + w.name).c_str(),
                                     converge<ksm::classic_policy>, w)
            ->UseManualTime();
    }
    benchmark::RunSpecifiedBenchmarks();
}
