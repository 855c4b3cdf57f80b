// SPDX-License-Identifier: BSL-1.0
// How long the first store to a page takes, by what has become of the page before.
#ifndef KSM_BENCH_SUPPORT_FIRST_STORE_HPP
#define KSM_BENCH_SUPPORT_FIRST_STORE_HPP

#include <ksm/providers/linux.hpp>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include <sys/mman.h>
#include <unistd.h>

#include "histogram.hpp"
#include "kernel_ksm.hpp"
#include "ticks.hpp"
#include "window_measurement.hpp"
#include "workload.hpp"
#include "write_tracking.hpp"

namespace bench {

inline std::size_t page_size() { return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)); }

inline std::uint64_t volatile* word_of(std::span<std::byte> memory, std::size_t page) {
    return reinterpret_cast<std::uint64_t volatile*>(&memory[page * page_size()]);
}

/// One store to each page, one after the other.
inline times store_to_each(std::span<std::byte> memory) {
    histogram taken;
    double const ns = nanoseconds_per_tick();
    for (std::size_t i = 0; i < memory.size() / page_size(); ++i) {
        std::uint64_t const before = ticks();
        *word_of(memory, i) = i;
        taken.add(static_cast<std::uint64_t>(static_cast<double>(ticks() - before) * ns));
    }
    return times::of(taken);
}

inline void read_each(std::span<std::byte> memory) {
    for (std::size_t i = 0; i < memory.size() / page_size(); ++i) {
        (void)*word_of(memory, i);
    }
}

/// Each run of 128 pages has the same contents.
inline void fill_with_runs(std::span<std::byte> memory) {
    for (std::size_t i = 0; i < memory.size() / page_size(); ++i) {
        fill(memory.subspan(i * page_size(), page_size()),
             static_cast<std::uint32_t>(1 + i % longest_run));
    }
}

inline std::optional<std::span<std::byte>> new_memory(std::size_t pages) {
    void* const p = ::mmap(nullptr, pages * page_size(), PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED
               ? std::nullopt
               : std::optional{std::span{static_cast<std::byte*>(p), pages * page_size()}};
}

inline std::optional<times> untouched(std::size_t pages) {
    auto const memory = new_memory(pages);
    return memory ? std::optional{store_to_each(*memory)} : std::nullopt;
}

inline std::optional<times> written(std::size_t pages) {
    auto const memory = new_memory(pages);
    if (!memory) {
        return {};
    }
    fill_with_runs(*memory);
    return store_to_each(*memory);
}

/// \returns Whether the provider tracks changes, and has just begun to anew.
inline bool survey(ksm::linux_provider& provider) {
    std::array<ksm::page_run, 64> runs{};
    ksm::page_number from;
    for (;;) {
        auto const s = provider.survey(provider.space(), from, ksm::coverage::changes, runs);
        if (s.end) {
            return s.given == ksm::coverage::changes;
        }
        from = s.next;
    }
}

/// By the provider, or the kernel's mechanism by itself while the provider does not track.
inline std::optional<times> tracked(std::size_t pages) {
    ksm::linux_options options;
    options.quiescent = true;
    ksm::linux_provider provider{options};
    ksm::page_range region;
    if (provider.try_map(ksm::page_count{pages}, region)) {
        return {};
    }
    std::span const memory{provider.address(region.first), pages * page_size()};
    fill_with_runs(memory);
    (void)survey(provider); // the first one must list every page
    if (survey(provider)) {
        return store_to_each(memory);
    }
    write_tracking kernel{memory};
    return kernel.arm() ? std::optional{store_to_each(memory)} : std::nullopt;
}

template <bool Read>
std::optional<times> merged_by_us(std::size_t pages) {
    ksm::linux_options options;
    options.strategy = ksm::write_exclusion::quiescent;
    options.quiescent = true;
    ksm::linux_provider provider{options};
    ksm::page_range region;
    if (provider.try_map(ksm::page_count{pages}, region)) {
        return {};
    }
    std::span const memory{provider.address(region.first), pages * page_size()};
    fill_with_runs(memory);
    ksm::page_count const run{longest_run};
    auto const made = provider.promote(provider.space(), region.first, run);
    bool all = made.made.done == run;
    for (std::size_t i = longest_run; all && i < pages; i += longest_run) {
        all = provider.merge(provider.space(), region.first + ksm::page_count{i}, run, made.first)
                  .done == run;
    }
    if (!all) {
        return {};
    }
    if (Read) {
        read_each(memory);
    }
    return store_to_each(memory);
}

inline std::optional<times> merged_by_kernel(std::size_t pages) {
    auto const memory = new_memory(pages);
    if (!memory) {
        return {};
    }
    fill_with_runs(*memory);
    bool going = ::madvise(memory->data(), memory->size(), MADV_MERGEABLE) == 0;
    for (int i = 0; going && i < 3; ++i) {
        going = kernel::pass(std::chrono::seconds{60});
    }
    bool const all = going && kernel::counts() == exact_counts{longest_run, pages - longest_run, 0};
    return all ? std::optional{store_to_each(*memory)} : std::nullopt;
}

struct first_store {
    char const* name;
    std::optional<times> (*measure)(std::size_t pages);
};

inline constexpr first_store first_stores[] = {
    {"page that was written before", written},        {"page that was never touched", untouched},
    {"change tracking was armed", tracked},           {"merged by us", merged_by_us<false>},
    {"merged by us, read since", merged_by_us<true>},
};
inline constexpr first_store first_store_to_kernels{"merged by the kernel", merged_by_kernel};

} // namespace bench

#endif
