// SPDX-License-Identifier: BSL-1.0
// The digest of pages against the rate at which one core reads memory, both in one run, in turn.
#include <benchmark/benchmark.h>

#include <ksm/digest.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "support/timing.hpp"
#include "support/workload.hpp"

namespace {

constexpr std::size_t page_size = 4096;
constexpr std::uint64_t seed = 7;
using bytes = std::span<std::byte const>;

#if defined(__x86_64__)
#define BENCH_TARGET_AVX2 [[gnu::target("avx2")]]
#else
#define BENCH_TARGET_AVX2
#endif

/// Reads a buffer as fast as is possible: nothing else is done with the bytes than to use them.
BENCH_TARGET_AVX2 [[gnu::noinline]] std::uint64_t read_all(bytes buffer) {
    using wide [[gnu::vector_size(32)]] = std::uint64_t;
    wide a{};
    wide b{};
    for (std::size_t i = 0; i < buffer.size(); i += 2 * sizeof(wide)) {
        wide x;
        wide y;
        std::memcpy(&x, &buffer[i], sizeof x);
        std::memcpy(&y, &buffer[i + sizeof x], sizeof y);
        a ^= x;
        b ^= y;
    }
    a ^= b;
    return a[0] ^ a[1] ^ a[2] ^ a[3];
}

std::uint64_t by_ksm(bytes page) { return ksm::page_digest(page, seed); }

/// As xxhash.h has it for the instructions that the compiler may use.
std::uint64_t by_xxhash(bytes page) {
    return XXH3_64bits_withSeed(page.data(), page.size(), seed) >> (64U - ksm::digest_bits);
}

template <std::uint64_t (*Digest)(bytes)>
std::uint64_t digest_all(bytes buffer) {
    std::uint64_t all = 0;
    for (std::size_t i = 0; i < buffer.size(); i += page_size) {
        all ^= Digest(buffer.subspan(i, page_size));
    }
    return all;
}

/// The argument is the size of the buffer in KiB.
template <std::uint64_t (*Digest)(bytes)>
void digest(benchmark::State& state) {
    std::vector<std::byte> buffer(static_cast<std::size_t>(state.range(0)) * 1024);
    bench::fill(buffer, 1);
    std::vector<double> reading;
    std::vector<double> digesting;
    for (auto _ : state) {
        reading.push_back(
            bench::cpu_microseconds([&] { benchmark::DoNotOptimize(read_all(buffer)); }));
        digesting.push_back(
            bench::cpu_microseconds([&] { benchmark::DoNotOptimize(digest_all<Digest>(buffer)); }));
        state.SetIterationTime(digesting.back() * 1e-6);
    }
    double const pages = static_cast<double>(buffer.size() / page_size);
    double const read = bench::median(reading);
    double const digested = bench::median(digesting);
    state.counters["us_per_page"] = digested / pages;
    state.counters["read_us_per_page"] = read / pages;
    state.counters["of_read_bandwidth"] = read / digested;
}

} // namespace

BENCHMARK(digest<by_ksm>)->Arg(512)->Arg(256 * 1024)->UseManualTime();
BENCHMARK(digest<by_xxhash>)->Arg(512)->Arg(256 * 1024)->UseManualTime();

BENCHMARK_MAIN();
