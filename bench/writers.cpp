// SPDX-License-Identifier: BSL-1.0
// What a program that writes loses while its memory is scanned at the default budget: alone, under
// this library's daemon, and under the kernel's KSM, round by round in turn.
#include <fmt/format.h>

#include <ksm/daemon.hpp>
#include <ksm/providers/linux.hpp>
#include <ksm/providers/linux/daemon_thread.hpp>
#include <ksm/scanner.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "support/applications.hpp"
#include "support/child.hpp"
#include "support/command_line.hpp"
#include "support/kernel_ksm.hpp"
#include "support/safepoint.hpp"
#include "support/strategies.hpp"
#include "support/timing.hpp"

namespace {

using namespace std::chrono_literals;
using seconds = std::chrono::duration<double>;

/// The defaults of the kernel, and of `ksm::tunables`.
constexpr bench::kernel::settings::list default_budget{{"advisor_mode", "none"},
                                                       {"smart_scan", "1"},
                                                       {"sleep_millisecs", "20"},
                                                       {"pages_to_scan", "100"},
                                                       {"use_zero_pages", "0"}};
constexpr std::size_t operations_between_polls = 256;

struct arguments {
    std::vector<std::string> applications;
    std::vector<bench::strategy> strategies;
    std::size_t mib = 64;
    std::size_t rounds = 9;
    std::size_t round_ms = 2000;
    bool no_kernel = false;
    bool json = false;
    bool smoke = false;
};

/// What the parent asks for.
struct request {
    std::chrono::milliseconds work; ///< 0: check the memory instead.
};

/// What a round, or the whole of it, came to.
struct answer {
    double operations;
    double wall_s;
    double cpu_s;                ///< Of the thread that writes.
    double scan_cpu_s;           ///< Of the thread that scans.
    std::uint64_t pages_scanned; ///< So far.
    std::uint64_t pages_sharing; ///< Now.
    std::uint64_t merged;        ///< So far; ours only.
    bool intact;
};

// ---------------------------------------------------------------------------- the processes

/// Works for a time, polling wherever it could be stopped.
answer work(bench::application& application, bench::safepoint& safepoint,
            std::chrono::milliseconds how_long) {
    answer a{};
    auto const began = std::chrono::steady_clock::now();
    auto const cpu = bench::cpu_time();
    safepoint.begin();
    while (std::chrono::steady_clock::now() - began < how_long) {
        for (int i = 0; i < 16; ++i) {
            application.work(operations_between_polls);
            safepoint.poll();
            a.operations += operations_between_polls;
        }
    }
    safepoint.end();
    a.wall_s = seconds{std::chrono::steady_clock::now() - began}.count();
    a.cpu_s = seconds{bench::cpu_time() - cpu}.count();
    return a;
}

/// Answers requests. `scan(true)` lets the scanner go on, `scan(false)` stops it;
/// `describe(answer)` adds what it has done.
template <class Scan, class Describe>
void serve(bench::channel parent, bench::application& application, bench::safepoint& safepoint,
           Scan&& scan, Describe&& describe) {
    while (auto const r = parent.receive<request>(10min)) {
        answer a{};
        if (r->work == 0ms) {
            a.intact = application.intact();
        } else {
            scan(true);
            a = work(application, safepoint, r->work);
            scan(false);
        }
        describe(a);
        if (!parent.send(a)) {
            break;
        }
    }
}

/// With nobody, or the kernel, to scan.
void run_plain(bench::channel parent, bench::application_kind const& kind, std::size_t bytes,
               bool mergeable) {
    void* const start =
        ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED || (mergeable && ::madvise(start, bytes, MADV_MERGEABLE) != 0)) {
        return;
    }
    auto const application = kind.start({static_cast<std::byte*>(start), bytes},
                                        static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)));
    bench::safepoint safepoint;
    namespace kernel = bench::kernel;
    std::optional<kernel::thread> const ksmd = kernel::thread::find();
    std::chrono::nanoseconds cpu{};
    std::uint64_t const scanned = mergeable ? kernel::number("pages_scanned") : 0;
    serve(
        parent, *application, safepoint,
        [&](bool go_on) {
            if (mergeable) {
                cpu = go_on ? ksmd->cpu_time() : ksmd->cpu_time() - cpu;
                (void)kernel::set("run", go_on ? "1" : "0");
            }
        },
        [&](answer& a) {
            if (mergeable) {
                a.scan_cpu_s = seconds{cpu}.count();
                a.pages_scanned = kernel::number("pages_scanned") - scanned;
                a.pages_sharing = kernel::counts().sharing;
            }
        });
}

std::chrono::nanoseconds cpu_time_of(clockid_t clock) {
    timespec t{};
    ::clock_gettime(clock, &t);
    return std::chrono::seconds{t.tv_sec} + std::chrono::nanoseconds{t.tv_nsec};
}

void run_ours(bench::channel parent, bench::application_kind const& kind, std::size_t bytes,
              bench::strategy const& by) {
    bench::safepoint safepoint;
    ksm::linux_options options = bench::options_for(by);
    if (by.value == ksm::write_exclusion::quiescent) {
        safepoint.give_to(options);
    }
    ksm::linux_provider provider{options};
    ksm::page_range region;
    if (provider.try_map(ksm::page_count{bytes / provider.page_size()}, region)) {
        return;
    }
    auto const application =
        kind.start({provider.address(region.first), bytes}, provider.page_size());
    ksm::scanner<ksm::linux_provider> scanner{provider};
    if (scanner.enter(provider.space()) != ksm::status::ok) {
        return;
    }
    clockid_t clock{};
    std::atomic<bool> started{false};
    ksm::daemon_options daemon_options;
    daemon_options.on_start = [&] {
        ::pthread_getcpuclockid(::pthread_self(), &clock);
        started.store(true);
        started.notify_one();
    };
    ksm::daemon<ksm::scanner<ksm::linux_provider>, ksm::linux_daemon_thread> daemon{
        scanner, std::move(daemon_options)};
    started.wait(false);
    std::chrono::nanoseconds cpu{};
    serve(
        parent, *application, safepoint,
        [&](bool go_on) {
            cpu = go_on ? cpu_time_of(clock) : cpu_time_of(clock) - cpu;
            daemon.control([&](auto& s) { (void)s.tune("run", go_on ? 1 : 0); });
        },
        [&](answer& a) {
            ksm::statistics const s = daemon.control([](auto& it) { return it.statistics(); });
            a.scan_cpu_s = seconds{cpu}.count();
            a.pages_scanned = s.pages_scanned;
            a.pages_sharing = s.pages_sharing;
            a.merged = s.merged_pages_total;
        });
}

// ---------------------------------------------------------------------------- rounds

struct mode {
    std::string name;
    std::function<void(bench::channel, bench::application_kind const&, std::size_t bytes)> run;
};

/// The first is what the others are compared with; the second, the same, says what noise is.
std::vector<mode> modes(arguments const& a, bool with_kernel) {
    auto const plain = [](bool mergeable) {
        return [=](bench::channel parent, bench::application_kind const& kind, std::size_t bytes) {
            run_plain(parent, kind, bytes, mergeable);
        };
    };
    std::vector<mode> all{{"alone", plain(false)}, {"alone, too", plain(false)}};
    for (bench::strategy const& s : bench::available(a.strategies, "writers")) {
        all.push_back({s.name, [=](bench::channel parent, bench::application_kind const& kind,
                                   std::size_t bytes) { run_ours(parent, kind, bytes, s); }});
    }
    if (with_kernel) {
        all.push_back({"kernel", plain(true)});
    }
    return all;
}

/// All rounds of a mode, and what it came to in the end.
struct outcome {
    std::vector<answer> rounds;
    answer end{};
};

bench::spread loss(outcome const& of, outcome const& alone, double answer::*time) {
    std::vector<double> values;
    for (std::size_t i = 0; i < of.rounds.size(); ++i) {
        answer const& a = of.rounds[i];
        answer const& b = alone.rounds[i];
        values.push_back(100 * (1 - a.operations / a.*time / (b.operations / b.*time)));
    }
    return bench::spread_of(values);
}

template <class F>
double median(outcome const& of, F&& f) {
    std::vector<double> values;
    std::ranges::transform(of.rounds, std::back_inserter(values), f);
    return bench::median(std::move(values));
}

void print(arguments const& a, char const* application, std::vector<mode> const& who,
           std::vector<outcome> const& all) {
    if (!a.json) {
        fmt::print("\n{}, {} MiB, {} rounds of {} ms\n{:12} {:>8} {:>22} {:>22} {:>9} {:>10} "
                   "{:>8} {:>8}\n",
                   application, a.mib, a.rounds, a.round_ms, "", "Mop/s", "loss % (min-max)",
                   "of CPU time % (...)", "scan CPU%", "pages/s", "sharing", "merged");
    }
    for (std::size_t i = 0; i < who.size(); ++i) {
        outcome const& o = all[i];
        double time = 0;
        for (answer const& r : o.rounds) {
            time += r.wall_s;
        }
        auto const scanned =
            static_cast<double>(o.end.pages_scanned - o.rounds.front().pages_scanned);
        double const rate = scanned / (time - o.rounds.front().wall_s);
        double const rate_of_operations =
            median(o, [](answer const& r) { return r.operations / r.wall_s / 1e6; });
        double const scan_cpu =
            median(o, [](answer const& r) { return 100 * r.scan_cpu_s / r.wall_s; });
        bench::spread const wall = loss(o, all[0], &answer::wall_s);
        bench::spread const cpu = loss(o, all[0], &answer::cpu_s);
        if (a.json) {
            fmt::print(R"({{"application":"{}","mode":"{}","rounds":{},"mops":{:.3f},)"
                       R"("loss_per_cent":[{:.2f},{:.2f},{:.2f}],)"
                       R"("loss_of_cpu_time_per_cent":[{:.2f},{:.2f},{:.2f}],)"
                       R"("scan_cpu_per_cent":{:.2f},"pages_scanned_per_s":{:.0f},)"
                       R"("pages_sharing":{},"merged":{},"intact":{}}})"
                       "\n",
                       application, who[i].name, o.rounds.size(), rate_of_operations, wall.median,
                       wall.min, wall.max, cpu.median, cpu.min, cpu.max, scan_cpu, rate,
                       o.end.pages_sharing, o.end.merged, o.end.intact);
        } else {
            auto const text = [](bench::spread const& s) {
                return fmt::format("{:.2f} ({:.1f}-{:.1f})", s.median, s.min, s.max);
            };
            fmt::print("{:12} {:8.3f} {:>22} {:>22} {:9.2f} {:10.0f} {:8} {:8}{}\n", who[i].name,
                       rate_of_operations, text(wall), text(cpu), scan_cpu, rate,
                       o.end.pages_sharing, o.end.merged, o.end.intact ? "" : " LOST STORES");
        }
    }
    std::fflush(stdout);
}

bool measure(arguments const& a, bench::application_kind const& kind,
             std::vector<mode> const& who) {
    std::vector<std::unique_ptr<bench::child>> processes;
    for (mode const& m : who) {
        processes.push_back(std::make_unique<bench::child>(
            [&](bench::channel parent) { m.run(parent, kind, a.mib * 1024 * 1024); }));
    }
    std::vector<outcome> all(who.size());
    std::chrono::milliseconds const work{a.round_ms};
    auto const ask = [&](std::size_t i, std::chrono::milliseconds how_long) {
        auto const& c = processes[i]->connection();
        auto const r = c.send(request{how_long}) ? c.receive<answer>(how_long + 60s) : std::nullopt;
        if (!r) {
            fmt::print(stderr, "writers: {}: {} does not answer\n", kind.name, who[i].name);
        }
        return r;
    };
    for (std::size_t r = 0; r <= a.rounds; ++r) {
        fmt::print(stderr, "{}: round {} of {}\n", kind.name, r, a.rounds);
        for (std::size_t n = 0; n < who.size(); ++n) {
            std::size_t const i = (n + r) % who.size(); // nobody is always the first
            auto const round = ask(i, work);
            if (!round) {
                return false;
            }
            if (r != 0) { // the first one finds cold caches, and pages without page tables
                all[i].rounds.push_back(*round);
            }
        }
    }
    bool intact = true;
    for (std::size_t i = 0; i < who.size(); ++i) {
        auto const end = ask(i, 0ms);
        if (!end) {
            return false;
        }
        all[i].end = *end;
        intact = intact && end->intact;
    }
    print(a, kind.name, who, all);
    return intact;
}

int measure_all(arguments const& a, bool with_kernel) {
    std::vector<mode> const who = modes(a, with_kernel);
    bool good = true;
    for (bench::application_kind const& kind : bench::applications) {
        if (a.applications.empty() ||
            std::ranges::find(a.applications, std::string_view{kind.name}) !=
                a.applications.end()) {
            good = measure(a, kind, who) && good;
        }
    }
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}

int measure_with_kernel(arguments const& a) {
    bench::kernel::settings settings{default_budget};
    if (settings.why_not() != nullptr) {
        fmt::print(stderr, "writers: {}\n", settings.why_not());
    }
    int status = measure_all(a, settings.why_not() == nullptr);
    if (!settings.restore()) {
        fmt::print(stderr, "writers: the kernel's settings could not be restored\n");
        status = EXIT_FAILURE;
    }
    return status;
}

auto add_applications(std::vector<std::string>& out) {
    return [&out](std::string_view list) {
        return bench::for_each_word(list, [&](std::string_view word) {
            out.emplace_back(word);
            return std::ranges::any_of(bench::applications,
                                       [&](auto const& known) { return word == known.name; });
        });
    };
}

} // namespace

int main(int argc, char** argv) {
    arguments a;
    bench::option const options[] = {
        {"--application", "LIST", "stores,table; otherwise both", add_applications(a.applications)},
        {"--strategy", "LIST", bench::strategies_help, bench::add_to(a.strategies)},
        {"--mib", "N", "memory of each process; otherwise 64", bench::set(a.mib)},
        {"--rounds", "N", "otherwise 9, of which the medians are printed", bench::set(a.rounds)},
        {"--round-ms", "N", "length of a round; otherwise 2000", bench::set(a.round_ms)},
        {"--no-kernel", nullptr, "leave the kernel's KSM alone; it needs root otherwise",
         bench::set(a.no_kernel)},
        {"--json", nullptr, "one object a line; spreads are [median,min,max]", bench::set(a.json)},
        {"--smoke", nullptr, "only whether it works: 1 MiB, short rounds, without the kernel",
         bench::set(a.smoke)},
    };
    if (auto const status = bench::take_options(
            {argv, static_cast<std::size_t>(argc)}, "bench_writers",
            "What a program that writes loses while its memory is scanned.", options)) {
        return *status;
    }
    if (a.smoke) {
        a.mib = 1;
        a.rounds = 3;
        a.round_ms = 50;
    }
    bench::catch_interruptions();
    int status = EXIT_FAILURE;
    try {
        status = a.no_kernel || a.smoke ? measure_all(a, false) : measure_with_kernel(a);
    } catch (std::exception const& e) { // nobody reads what is printed: the settings are restored
        std::fputs(e.what(), stderr);
    }
    return bench::interrupted != 0 ? 128 + bench::interrupted : status;
}
