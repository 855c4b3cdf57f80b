// SPDX-License-Identifier: BSL-1.0
// The kernel and this library merge an image by one and the same procedure: whole passes, of which
// only the CPU time of the thread that scans counts.
#ifndef KSM_BENCH_SUPPORT_MERGERS_HPP
#define KSM_BENCH_SUPPORT_MERGERS_HPP

#include <ksm/providers/linux.hpp>
#include <ksm/providers/linux/signals_blocked.hpp>
#include <ksm/scanner.hpp>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include <sys/mman.h>

#include "image.hpp"
#include "kernel_ksm.hpp"
#include "strategies.hpp"
#include "timing.hpp"

namespace bench {

/// How much of the memory is rewritten before each steady pass. [per cent]
inline constexpr std::array<std::size_t, 3> rewritten{0, 1, 10};
/// A page that rests is looked at in one pass of nine by smart_scan, once that has skipped it for
/// sixteen passes or so. As many are averaged.
inline constexpr int steady_passes = 9;
inline constexpr std::uint64_t most_passes = 10; // without convergence after that there is none
inline constexpr std::chrono::seconds pass_patience{60};

/// What one run of one merger came to.
struct measurement {
    double wall_us = 0; ///< Until the counts were exact, at least two passes.
    double cpu_us = 0;  ///< Of the thread that merges, in that time.
    std::array<double, rewritten.size()> steady_us{}; ///< CPU time of a pass.
    exact_counts counts;                              ///< When it had converged.
    std::uint64_t passes = 0;
    std::uint64_t metadata_bytes = 0; ///< Ours only: engine and provider.
    std::uint64_t mappings = 0;       ///< Ours only.
    bool exact = false;               ///< It found what there is to find.
    bool exact_later = false;         ///< And also after everything that was rewritten.
    bool intact = false;              ///< Every page has its content still.
};

/// `Merger` scans `memory`: `pass()` makes one whole pass and returns its CPU time in us.
template <class Merger>
std::optional<measurement> measure(Merger& merger, image& what, std::span<std::byte> memory,
                                   bool steady) {
    measurement m;
    bool complete = true;
    auto const pass = [&] {
        std::optional<double> const cpu = complete ? merger.pass() : std::nullopt;
        complete = cpu.has_value();
        return cpu.value_or(0);
    };
    exact_counts const expected = what.expected();
    while (complete && m.passes < most_passes && (m.passes < 2 || m.counts != expected)) {
        auto const began = std::chrono::steady_clock::now();
        m.cpu_us += pass();
        m.wall_us += microseconds{std::chrono::steady_clock::now() - began}.count();
        m.counts = merger.counts();
        ++m.passes;
    }
    m.exact = m.counts == expected;
    m.exact_later = m.exact;
    merger.describe(m);
    if (steady) {
        merger.begin_steady();
        for (std::size_t i = 0; i < rewritten.size(); ++i) {
            std::size_t const pages = what.pages() * rewritten[i] / 100;
            int const before = i == 0 ? merger.passes_before_steady : 1;
            for (int n = -before; complete && n < steady_passes; ++n) {
                what.rewrite(memory, pages);
                double const cpu = pass();
                m.steady_us[i] += n < 0 ? 0 : cpu / steady_passes;
            }
        }
        // A frame that is left with one page stays a frame, so nothing is said of their number.
        exact_counts const now = what.expected();
        auto const found = [&] {
            exact_counts const c = merger.counts();
            return c.sharing == now.sharing && c.zero == now.zero;
        };
        for (std::uint64_t n = 0; complete && !found() && n < most_passes; ++n) {
            (void)pass();
        }
        m.exact_later = found();
    }
    m.intact = what.is_in(memory);
    return complete ? std::optional{m} : std::nullopt;
}

// ---------------------------------------------------------------------------- the kernel

class kernel_merger {
  public:
    kernel_merger(kernel::thread ksmd, bool smart)
        : passes_before_steady(smart ? 2 * steady_passes : 2), ksmd_(std::move(ksmd)),
          smart_(smart) {}

    std::optional<double> pass() {
        auto const cpu = ksmd_.cpu_time();
        bool const complete = kernel::pass(pass_patience);
        return complete ? std::optional{microseconds{ksmd_.cpu_time() - cpu}.count()}
                        : std::nullopt;
    }
    [[nodiscard]] static exact_counts counts() { return kernel::counts(); }
    static void describe(measurement&) {}
    void begin_steady() const { (void)kernel::set("smart_scan", smart_ ? "1" : "0"); }

    int const passes_before_steady; ///< smart_scan skips more, the longer a page rests.

  private:
    kernel::thread ksmd_;
    bool smart_;
};

/// \requires `kernel::whole_passes` is in force and nothing is merged.
inline std::optional<measurement> merge_by_kernel(image what, bool smart, bool steady) {
    auto ksmd = kernel::thread::find();
    void* const start =
        ::mmap(nullptr, what.bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!ksmd || start == MAP_FAILED || ::madvise(start, what.bytes(), MADV_MERGEABLE) != 0 ||
        !kernel::set("smart_scan", "0") ||
        !kernel::set("use_zero_pages", what.zero_apart() ? "1" : "0")) {
        return {};
    }
    std::span const memory{static_cast<std::byte*>(start), what.bytes()};
    what.write_to(memory);
    kernel_merger merger{std::move(*ksmd), smart};
    return measure(merger, what, memory, steady);
}

// ---------------------------------------------------------------------------- this library

template <class Policy>
class our_merger {
  public:
    explicit our_merger(ksm::linux_provider& provider) : provider_(provider), scanner_(provider) {}

    [[nodiscard]] bool begin(bool zero_apart) {
        return scanner_.tune("use_zero_pages", zero_apart ? 1 : 0) == ksm::tunable_error::none &&
               scanner_.enter(provider_.space()) == ksm::status::ok;
    }
    std::optional<double> pass() {
        ksm::signals_blocked const as_in_the_daemon;
        return cpu_microseconds([this] { (void)scanner_.scan_pass(); });
    }
    [[nodiscard]] exact_counts counts() const {
        auto const s = scanner_.statistics();
        return {s.pages_shared, s.pages_sharing, s.ksm_zero_pages};
    }
    void describe(measurement& m) const {
        auto const usage = provider_.usage();
        m.metadata_bytes = scanner_.statistics().metadata_bytes + usage.metadata_bytes;
        m.mappings = usage.mappings_used;
    }
    static void begin_steady() {}

    /// The first passes after convergence hear of what has just been merged.
    static constexpr int passes_before_steady = 2;

  private:
    ksm::linux_provider& provider_;
    ksm::scanner<ksm::linux_provider, Policy> scanner_;
};

template <class Policy>
std::optional<measurement> merge_by_us(image what, strategy const& by, bool steady) {
    ksm::linux_options options = options_for(by);
    options.quiescent = by.value == ksm::write_exclusion::quiescent; // there is one thread
    options.no_readers = options.quiescent;
    ksm::linux_provider provider{options};
    ksm::page_range region;
    if (provider.try_map(ksm::page_count{what.pages()}, region)) {
        return {};
    }
    std::span const memory{provider.address(region.first), what.bytes()};
    what.write_to(memory);
    our_merger<Policy> merger{provider};
    return merger.begin(what.zero_apart()) ? measure(merger, what, memory, steady) : std::nullopt;
}

} // namespace bench

#endif
