// SPDX-License-Identifier: BSL-1.0
// Linux's own KSM and this library merge the same memory, in turn, each in a process of its own.
// Exit status: 0, 1 when counts differ from the exact ones or contents have changed, 2 for wrong
// arguments, 77 when the kernel's KSM cannot be used.
#include <fmt/format.h>

#include <ksm/policy.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <unistd.h>

#include "support/child.hpp"
#include "support/command_line.hpp"
#include "support/image.hpp"
#include "support/kernel_ksm.hpp"
#include "support/mergers.hpp"
#include "support/report.hpp"
#include "support/strategies.hpp"
#include "support/workload.hpp"

namespace {

using namespace std::chrono_literals;
using bench::image;
using bench::measurement;

constexpr std::size_t real_mib = 256;
constexpr auto run_patience = 15min; // for one run, with making and checking the memory

struct arguments {
    std::vector<std::string> workloads;
    std::size_t mib = 0; ///< 0: as the workload is reported.
    std::size_t repeat = 5;
    std::vector<bench::strategy> strategies;
    std::vector<std::string> policies;
    bool json = false;
    bool smoke = false;

    [[nodiscard]] bool wants(std::string_view name) const {
        return std::ranges::find(workloads, name) != workloads.end();
    }
    [[nodiscard]] bool steady() const { return wants("W6"); }
};

struct merger {
    std::string name;
    std::function<std::optional<measurement>(image const&, bool steady)> run;
    bool is_kernel = false;
};

/// The kernel with smart_scan is there for steady passes only: to converge it does the same.
std::vector<merger> mergers(arguments const& a) {
    std::vector<merger> all;
    if (!a.smoke) {
        for (bool const smart : {false, true}) {
            if (!smart || a.steady()) {
                all.push_back({smart ? "kernel, smart_scan" : "kernel",
                               [=](image const& what, bool steady) {
                                   return bench::merge_by_kernel(what, smart, steady);
                               },
                               true});
            }
        }
    }
    for (std::string const& policy : a.policies) {
        auto const run = policy == "standard" ? bench::merge_by_us<ksm::standard_policy>
                                              : bench::merge_by_us<ksm::classic_policy>;
        for (bench::strategy const& s : bench::available(a.strategies, "vs_kernel")) {
            all.push_back({policy + ", " + s.name,
                           [=](image const& what, bool steady) { return run(what, s, steady); }});
        }
    }
    return all;
}

// ---------------------------------------------------------------------------- runs

/// Whether the run is complete; says so when it is not exact.
bool run_once(merger const& who, image const& what, bool steady, bench::record& into, bool& exact) {
    if (who.is_kernel && !bench::kernel::unmerge_all()) {
        fmt::print(stderr, "vs_kernel: the kernel does not unmerge everything\n");
        return false;
    }
    auto const m = bench::in_child(run_patience, [&] { return who.run(what, steady); });
    if (!m) {
        fmt::print(stderr, "vs_kernel: {}: {} did not end its work\n", what.name(), who.name);
        return false;
    }
    if (!m->exact || !m->exact_later || !m->intact) {
        exact = false;
        auto const e = what.expected();
        fmt::print(stderr,
                   "vs_kernel: {}: {}: shared {}, sharing {}, zero {} instead of {}, {}, {}{}{}\n",
                   what.name(), who.name, m->counts.shared, m->counts.sharing, m->counts.zero,
                   e.shared, e.sharing, e.zero, m->exact_later ? "" : "; not exact after rewriting",
                   m->intact ? "" : "; contents have changed");
    }
    into.runs.push_back(*m);
    return true;
}

/// The images one after the other, since each takes memory.
std::vector<std::function<image()>> images(arguments const& a) {
    auto const page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    auto const pages = [=](std::size_t mib) {
        return (a.mib == 0 ? mib : a.mib) * 1024 * 1024 / page;
    };
    bool const only_steady = a.workloads.size() == 1 && a.steady();
    std::vector<std::function<image()>> all;
    for (bench::workload const& w : bench::workloads) {
        if (only_steady || a.wants(w.name)) {
            all.emplace_back([=, &w] { return image{w, pages(w.mib), page}; });
        }
    }
    if (a.wants("W7")) {
        all.emplace_back([=] { return image::of_files(pages(real_mib), page); });
    }
    return all;
}

int compare(arguments const& a) {
    bool exact = true;
    std::vector<merger> const all = mergers(a);
    auto const kernels =
        static_cast<std::size_t>(std::ranges::count_if(all, std::identity{}, &merger::is_kernel));
    for (auto const& make : images(a)) {
        image const what = make();
        std::vector<bench::record> records;
        for (merger const& m : all) {
            records.push_back({m.name, {}});
        }
        for (std::size_t r = 0; r < a.repeat; ++r) {
            for (std::size_t i = 0; i < all.size(); ++i) { // in turn: a shared load hits all
                fmt::print(stderr, "{}: run {} of {}: {}\n", what.name(), r + 1, a.repeat,
                           all[i].name);
                if (!run_once(all[i], what, a.steady(), records[i], exact)) {
                    return EXIT_FAILURE;
                }
            }
        }
        bench::report{what, records, kernels}.print(a.steady(), a.json);
    }
    return exact ? EXIT_SUCCESS : EXIT_FAILURE;
}

int compare_with_kernel(arguments const& a) {
    constexpr int skipped = 77;
    bench::kernel::settings settings{bench::kernel::whole_passes};
    if (settings.why_not() != nullptr) {
        fmt::print(stderr, "vs_kernel: {}\n", settings.why_not());
        return skipped;
    }
    int const status = compare(a);
    if (!settings.restore()) {
        fmt::print(stderr, "vs_kernel: the kernel's settings could not be restored\n");
        return EXIT_FAILURE;
    }
    return status;
}

auto add_workloads(std::vector<std::string>& out) {
    return [&out](std::string_view list) {
        return bench::for_each_word(list, [&](std::string_view word) {
            for (char const* const name : {"W1", "W2", "W3", "W4", "W5", "W6", "W7"}) {
                if (word == name || word == "all") {
                    out.emplace_back(name);
                }
            }
            return word == "all" || (!out.empty() && word == out.back());
        });
    };
}

auto add_policies(std::vector<std::string>& out) {
    return [&out](std::string_view list) {
        return bench::for_each_word(list, [&](std::string_view word) {
            out.emplace_back(word);
            return word == "standard" || word == "classic";
        });
    };
}

} // namespace

int main(int argc, char** argv) {
    arguments a;
    bench::option const options[] = {
        {"--workload", "LIST",
         "W1,...,W7 or all, which it is otherwise; W6: steady passes of the\nothers "
         "that are named, or of W1 to W5",
         add_workloads(a.workloads)},
        {"--mib", "N", "size of the memory, otherwise that of the workload", bench::set(a.mib)},
        {"--repeat", "N", "runs of each merger, of which the medians are printed; otherwise 5",
         bench::set(a.repeat)},
        {"--strategy", "LIST", bench::strategies_help, bench::add_to(a.strategies)},
        {"--policy", "LIST", "standard,classic; otherwise standard", add_policies(a.policies)},
        {"--json", nullptr, "one object a line; spreads are [median,min,max]", bench::set(a.json)},
        {"--smoke", nullptr, "only whether it works: 4 MiB, one run, without the kernel",
         bench::set(a.smoke)},
    };
    if (auto const status = bench::take_options(
            {argv, static_cast<std::size_t>(argc)}, "bench_vs_kernel",
            "The kernel's KSM and this library merge the same memory.", options)) {
        return *status;
    }
    if (a.workloads.empty()) {
        (void)add_workloads(a.workloads)("all");
    }
    if (a.policies.empty()) {
        a.policies.emplace_back("standard");
    }
    if (a.smoke) {
        a.mib = 4;
        a.repeat = 1;
        a.policies = {"standard", "classic"};
    }
    bench::catch_interruptions();
    int status = EXIT_FAILURE;
    try {
        status = a.smoke ? compare(a) : compare_with_kernel(a);
    } catch (std::exception const& e) { // nobody reads what is printed: the settings are restored
        std::fputs(e.what(), stderr);
    }
    return bench::interrupted != 0 ? 128 + bench::interrupted : status;
}
