// SPDX-License-Identifier: BSL-1.0
// What a store waits because of merging: when it meets a write window, when it is the first one
// after change tracking was armed, and when it breaks the copy-on-write of a merged page.
#include <fmt/format.h>

#include <ksm/providers/linux.hpp>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <optional>
#include <span>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

#include "support/child.hpp"
#include "support/command_line.hpp"
#include "support/histogram.hpp"
#include "support/kernel_ksm.hpp"
#include "support/storing_thread.hpp"
#include "support/strategies.hpp"
#include "support/ticks.hpp"
#include "support/workload.hpp"
#include "support/write_tracking.hpp"

namespace {

using namespace std::chrono_literals;

struct arguments {
    std::vector<bench::strategy> strategies;
    std::size_t windows = 4000;
    std::size_t pages = 16384; ///< For first stores.
    bool no_kernel = false;
    bool json = false;
    bool smoke = false;
};

constexpr auto patience = 2min; // for one row

/// Times in nanoseconds.
struct times {
    std::uint64_t n, p50, p99, p999, max;

    static times of(bench::histogram const& h) {
        return {h.count(), h.quantile(0.5), h.quantile(0.99), h.quantile(0.999), h.max()};
    }
};

// ---------------------------------------------------------------------------- windows

struct scenario {
    char const* name;
    bool promotes;   ///< Pages become frames; otherwise they are merged with frames.
    std::size_t run; ///< Pages of a call.
};
constexpr std::size_t longest_run = 128; // what the engine merges in one window
constexpr std::size_t isolated = 8;
constexpr scenario scenarios[] = {{"merge isolated page", false, 1},
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
    window_measurement(scenario const& what, bench::strategy const& by)
        : what_(what), provider_(bench::options_for(by)) {}

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
        bench::storing_thread writer{std::move(words), idle_stores};
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
                spin(20us); // the writer goes on
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
        spin(20us);
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

void print_windows(arguments const& a, std::vector<bench::strategy> const& by, bool& complete) {
    if (!a.json) {
        fmt::print("A store that meets a write window [ns]\n{:10} {:22} {:>7} | {:>7} {:>7} {:>7} "
                   "{:>8} | {:>5} {:>6} {:>6} {:>8} | {:>5} {:>6} {:>6}\n",
                   "", "", "windows", "met", "p50", "p99", "max", "all", "p99", "p99.9", "max",
                   "idle", "p99.9", "waits>");
    }
    for (bench::strategy const& s : by) {
        if (s.value == ksm::write_exclusion::quiescent) {
            fmt::print(stderr, "latency: quiescent: nobody stores while a window is open\n");
            continue;
        }
        for (scenario const& what : scenarios) {
            fmt::print(stderr, "{}: {}\n", s.name, what.name);
            std::size_t const windows = what.promotes ? a.windows / 8 : a.windows; // takes memory
            auto const t = bench::in_child(patience, [&] {
                return window_measurement{what, s}.run(windows, a.smoke ? 1000 : 1'000'000);
            });
            if (!t) {
                fmt::print(stderr, "latency: {}: {}: no result\n", s.name, what.name);
                complete = false;
            } else if (a.json) {
                fmt::print(
                    R"({{"measured":"window","strategy":"{}","scenario":"{}","windows":{},)"
                    R"("met":{},"p50":{},"p99":{},"max":{},"all_p50":{},"all_p99":{},)"
                    R"("all_p999":{},"all_max":{},"idle_p50":{},"idle_p999":{},"threshold":{}}})"
                    "\n",
                    s.name, what.name, t->windows, t->waited.n, t->waited.p50, t->waited.p99,
                    t->waited.max, t->all.p50, t->all.p99, t->all.p999, t->all.max, t->idle.p50,
                    t->idle.p999, t->threshold);
            } else {
                fmt::print("{:10} {:22} {:7} | {:7} {:7} {:7} {:8} | {:5} {:6} {:6} {:8} | {:5} "
                           "{:6} {:6}\n",
                           s.name, what.name, t->windows, t->waited.n, t->waited.p50, t->waited.p99,
                           t->waited.max, t->all.p50, t->all.p99, t->all.p999, t->all.max,
                           t->idle.p50, t->idle.p999, t->threshold);
            }
            std::fflush(stdout);
        }
    }
}

// ---------------------------------------------------------------------------- first stores

std::size_t page_size() { return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)); }

std::uint64_t volatile* word_of(std::span<std::byte> memory, std::size_t page) {
    return reinterpret_cast<std::uint64_t volatile*>(&memory[page * page_size()]);
}

/// One store to each page, one after the other.
times store_to_each(std::span<std::byte> memory) {
    bench::histogram taken;
    double const ns = bench::nanoseconds_per_tick();
    for (std::size_t i = 0; i < memory.size() / page_size(); ++i) {
        std::uint64_t const before = bench::ticks();
        *word_of(memory, i) = i;
        taken.add(static_cast<std::uint64_t>(static_cast<double>(bench::ticks() - before) * ns));
    }
    return times::of(taken);
}

void read_each(std::span<std::byte> memory) {
    for (std::size_t i = 0; i < memory.size() / page_size(); ++i) {
        (void)*word_of(memory, i);
    }
}

/// Each run of 128 pages has the same contents.
void fill_with_runs(std::span<std::byte> memory) {
    for (std::size_t i = 0; i < memory.size() / page_size(); ++i) {
        bench::fill(memory.subspan(i * page_size(), page_size()),
                    static_cast<std::uint32_t>(1 + i % longest_run));
    }
}

std::optional<std::span<std::byte>> new_memory(std::size_t pages) {
    void* const p = ::mmap(nullptr, pages * page_size(), PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED
               ? std::nullopt
               : std::optional{std::span{static_cast<std::byte*>(p), pages * page_size()}};
}

std::optional<times> untouched(std::size_t pages) {
    auto const memory = new_memory(pages);
    return memory ? std::optional{store_to_each(*memory)} : std::nullopt;
}

std::optional<times> written(std::size_t pages) {
    auto const memory = new_memory(pages);
    if (!memory) {
        return {};
    }
    fill_with_runs(*memory);
    return store_to_each(*memory);
}

/// \returns Whether the provider tracks changes, and has just begun to anew.
bool survey(ksm::linux_provider& provider) {
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
std::optional<times> tracked(std::size_t pages) {
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
    bench::write_tracking kernel{memory};
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

std::optional<times> merged_by_kernel(std::size_t pages) {
    namespace kernel = bench::kernel;
    auto const memory = new_memory(pages);
    if (!memory) {
        return {};
    }
    fill_with_runs(*memory);
    bool going = ::madvise(memory->data(), memory->size(), MADV_MERGEABLE) == 0;
    for (int i = 0; going && i < 3; ++i) {
        going = kernel::pass(60s);
    }
    bool const all =
        going && kernel::counts() == bench::exact_counts{longest_run, pages - longest_run, 0};
    return all ? std::optional{store_to_each(*memory)} : std::nullopt;
}

struct first_store {
    char const* name;
    std::optional<times> (*measure)(std::size_t pages);
};

constexpr first_store by_us[] = {
    {"page that was written before", written},        {"page that was never touched", untouched},
    {"change tracking was armed", tracked},           {"merged by us", merged_by_us<false>},
    {"merged by us, read since", merged_by_us<true>},
};
constexpr first_store by_kernel{"merged by the kernel", merged_by_kernel};

bool print_first_store(arguments const& a, first_store const& what) {
    fmt::print(stderr, "first store: {}\n", what.name);
    auto const t = bench::in_child(patience, [&] { return what.measure(a.pages); });
    if (!t) {
        fmt::print(stderr, "latency: {}: not possible here\n", what.name);
        return false;
    }
    if (a.json) {
        fmt::print(R"({{"measured":"first store","to":"{}","n":{},"p50":{},"p99":{},"max":{}}})"
                   "\n",
                   what.name, t->n, t->p50, t->p99, t->max);
    } else {
        fmt::print("{:30} {:7} {:7} {:7} {:8}\n", what.name, t->n, t->p50, t->p99, t->max);
    }
    std::fflush(stdout);
    return true;
}

int measure(arguments const& a) {
    bool complete = true;
    print_windows(a, bench::available(a.strategies, "latency"), complete);
    if (!a.json) {
        fmt::print("\nThe first store to a page [ns]\n{:30} {:>7} {:>7} {:>7} {:>8}\n", "", "n",
                   "p50", "p99", "max");
    }
    for (first_store const& what : by_us) {
        bool const possible = print_first_store(a, what);
        complete = complete && (possible || what.measure == tracked); // kernels before 6.7
    }
    if (!a.no_kernel && !a.smoke) {
        bench::kernel::settings settings{bench::kernel::whole_passes};
        if (settings.why_not() != nullptr) {
            fmt::print(stderr, "latency: {}\n", settings.why_not());
        } else {
            complete = print_first_store(a, by_kernel) && complete;
        }
        if (!settings.restore()) {
            fmt::print(stderr, "latency: the kernel's settings could not be restored\n");
            complete = false;
        }
    }
    return complete ? EXIT_SUCCESS : EXIT_FAILURE;
}

} // namespace

int main(int argc, char** argv) {
    arguments a;
    bench::option const options[] = {
        {"--strategy", "LIST", bench::strategies_help, bench::add_to(a.strategies)},
        {"--windows", "N", "stores that have met a window, for each row; otherwise 4000",
         bench::set(a.windows)},
        {"--no-kernel", nullptr, "leave the kernel's KSM alone; it needs root otherwise",
         bench::set(a.no_kernel)},
        {"--json", nullptr, "one object a line, times in ns", bench::set(a.json)},
        {"--smoke", nullptr, "only whether it works, without the kernel", bench::set(a.smoke)},
    };
    if (auto const status =
            bench::take_options({argv, static_cast<std::size_t>(argc)}, "latency",
                                "What a store waits because of merging.", options)) {
        return *status;
    }
    if (a.smoke) {
        a.windows = 40;
        a.pages = 2 * longest_run;
    }
    bench::catch_interruptions();
    int status = EXIT_FAILURE;
    try {
        status = measure(a);
    } catch (std::exception const& e) { // nobody reads what is printed: the settings are restored
        std::fputs(e.what(), stderr);
    }
    return bench::interrupted != 0 ? 128 + bench::interrupted : status;
}
