// SPDX-License-Identifier: BSL-1.0
// What a store waits because of merging: when it meets a write window, when it is the first one
// after change tracking was armed, and when it breaks the copy-on-write of a merged page.
#include <fmt/format.h>

#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <span>
#include <vector>

#include "support/child.hpp"
#include "support/command_line.hpp"
#include "support/first_store.hpp"
#include "support/kernel_ksm.hpp"
#include "support/strategies.hpp"
#include "support/window_measurement.hpp"

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

// ---------------------------------------------------------------------------- windows

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
        for (bench::scenario const& what : bench::scenarios) {
            fmt::print(stderr, "{}: {}\n", s.name, what.name);
            std::size_t const windows = what.promotes ? a.windows / 8 : a.windows; // takes memory
            auto const t = bench::in_child(patience, [&] {
                return bench::window_measurement{what, s}.run(windows, a.smoke ? 1000 : 1'000'000);
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

bool print_first_store(arguments const& a, bench::first_store const& what) {
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
    for (bench::first_store const& what : bench::first_stores) {
        bool const possible = print_first_store(a, what);
        complete = complete && (possible || what.measure == bench::tracked); // kernels before 6.7
    }
    if (!a.no_kernel && !a.smoke) {
        bench::kernel::settings settings{bench::kernel::whole_passes};
        if (settings.why_not() != nullptr) {
            fmt::print(stderr, "latency: {}\n", settings.why_not());
        } else {
            complete = print_first_store(a, bench::first_store_to_kernels) && complete;
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
            bench::take_options({argv, static_cast<std::size_t>(argc)}, "bench_latency",
                                "What a store waits because of merging.", options)) {
        return *status;
    }
    if (a.smoke) {
        a.windows = 40;
        a.pages = 2 * bench::longest_run;
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
