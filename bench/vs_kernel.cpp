// SPDX-License-Identifier: BSL-1.0
// Linux's own KSM and this library merge the same memory, in turn, each in a process of its own:
//   vs_kernel [--workload W1..W5|all] [--mib N] [--repeat N] [--json]
// Exit status: 0, 1 when counts differ from the exact ones or contents have changed, 2 for wrong
// arguments, 77 when the kernel's KSM cannot be used.
#include <fmt/format.h>

#include <ksm/providers/linux.hpp>
#include <ksm/scanner.hpp>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/kernel_ksm.hpp"
#include "support/timing.hpp"
#include "support/workload.hpp"

namespace {

using namespace std::chrono_literals;
using bench::exact_counts;
using bench::microseconds;

constexpr int most_passes = 10;         // without convergence after that there is none
constexpr int later_passes = 3;         // over unchanged memory, averaged
constexpr auto kernel_patience = 100s;  // for all passes of one run
constexpr auto process_patience = 200s; // for one run, with making and checking the memory

/// What one run of one merger came to. Goes through a pipe.
struct measurement {
    double wall_us = 0;       ///< Until the counts were exact, at least two passes.
    double cpu_us = 0;        ///< Of the thread that merges, in that time.
    double later_pass_us = 0; ///< CPU time of a pass over unchanged memory.
    exact_counts counts;
    std::uint64_t passes = 0;
    std::uint64_t metadata_bytes = 0; ///< Ours only: engine and provider.
    std::uint64_t mappings = 0;       ///< Ours only.
    bool intact = false;              ///< Every page has its content still.
};

/// The memory to merge: the same for every merger.
struct image {
    std::vector<std::uint32_t> contents;
    bool zero_apart;
    exact_counts expected;

    image(bench::workload const& w, std::size_t pages)
        : contents(w.make(pages)), zero_apart(std::string_view{w.name} == "W5"),
          expected(bench::count(contents, zero_apart)) {}

    [[nodiscard]] std::size_t pages() const { return contents.size(); }

    void write_to(std::span<std::byte> memory) const {
        std::size_t const page = memory.size() / pages();
        for (std::size_t i = 0; i < pages(); ++i) {
            bench::fill(memory.subspan(i * page, page), contents[i]);
        }
    }

    [[nodiscard]] bool is_in(std::span<std::byte const> memory) const {
        std::size_t const page = memory.size() / pages();
        std::vector<std::byte> expected_page(page);
        for (std::size_t i = 0; i < pages(); ++i) {
            bench::fill(expected_page, contents[i]);
            if (!std::ranges::equal(expected_page, memory.subspan(i * page, page))) {
                return false;
            }
        }
        return true;
    }
};

// ---------------------------------------------------------------------------- the two mergers

std::optional<measurement> merge_by_kernel(image const& what) {
    namespace kernel = bench::kernel;
    auto const ksmd = kernel::thread::find();
    std::size_t const size = what.pages() * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    void* const start =
        ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!ksmd || start == MAP_FAILED) {
        return {};
    }
    std::span const memory{static_cast<std::byte*>(start), size};
    what.write_to(memory);
    if (::madvise(start, size, MADV_MERGEABLE) != 0) {
        return {};
    }

    measurement m;
    auto const began = std::chrono::steady_clock::now();
    auto const cpu_before = ksmd->cpu_time();
    auto const wait_until = [&](auto&& done) {
        while (!done()) {
            if (std::chrono::steady_clock::now() - began > kernel_patience ||
                m.passes > most_passes) {
                return false;
            }
            std::this_thread::sleep_for(200us);
            m.passes = kernel::number("full_scans");
        }
        return true;
    };
    if (!kernel::set("run", "1")) {
        return {};
    }
    bool const converged =
        wait_until([&] { return m.passes >= 2 && kernel::counts() == what.expected; });
    m.wall_us = microseconds{std::chrono::steady_clock::now() - began}.count();
    m.cpu_us = microseconds{ksmd->cpu_time() - cpu_before}.count();
    m.counts = kernel::counts();
    if (converged) {
        std::uint64_t const converged_at = m.passes;
        wait_until([&] { return m.passes > converged_at; });
        auto const cpu = ksmd->cpu_time();
        std::uint64_t const first = m.passes;
        wait_until([&] { return m.passes >= first + later_passes; });
        m.later_pass_us = microseconds{ksmd->cpu_time() - cpu}.count() /
                          static_cast<double>(std::max<std::uint64_t>(m.passes - first, 1));
        m.counts = kernel::counts();
        m.passes = converged_at;
    }
    m.intact = what.is_in(memory);
    return m;
}

template <class Policy>
std::optional<measurement> merge_by_us(image const& what) {
    ksm::linux_options options;
    options.strategy = ksm::write_exclusion::quiescent;
    options.quiescent = true; // this process has one thread
    options.mapping_share = 1;
    ksm::linux_provider provider{options};
    ksm::page_range const region = provider.map(ksm::page_count{what.pages()});
    std::span const memory{provider.address(region.first), what.pages() * provider.page_size()};
    what.write_to(memory);

    ksm::scanner<ksm::linux_provider, Policy> scanner{provider};
    if (scanner.tune("use_zero_pages", what.zero_apart ? 1 : 0) != ksm::tunable_error::none) {
        return {};
    }
    measurement m;
    auto const began = std::chrono::steady_clock::now();
    auto const cpu_before = bench::cpu_time();
    auto const counts = [&] {
        auto const s = scanner.statistics();
        return exact_counts{s.pages_shared, s.pages_sharing, s.ksm_zero_pages};
    };
    if (scanner.enter(provider.space()) != ksm::status::ok) {
        return {};
    }
    while (m.passes < most_passes && (m.passes < 2 || counts() != what.expected)) {
        (void)scanner.scan_pass();
        ++m.passes;
    }
    m.wall_us = microseconds{std::chrono::steady_clock::now() - began}.count();
    m.cpu_us = microseconds{bench::cpu_time() - cpu_before}.count();
    (void)scanner.scan_pass(); // the survey's last reports of what has just been merged
    auto const cpu = bench::cpu_time();
    for (int i = 0; i < later_passes; ++i) {
        (void)scanner.scan_pass();
    }
    m.later_pass_us = microseconds{bench::cpu_time() - cpu}.count() / later_passes;
    m.counts = counts();
    auto const usage = provider.usage();
    m.metadata_bytes = scanner.statistics().metadata_bytes + usage.metadata_bytes;
    m.mappings = usage.mappings_used;
    m.intact = what.is_in(memory);
    return m;
}

struct merger {
    char const* name;
    std::optional<measurement> (*run)(image const&);
};

constexpr merger mergers[] = {
    {"kernel", merge_by_kernel},
    {"standard", merge_by_us<ksm::standard_policy>},
    {"classic", merge_by_us<ksm::classic_policy>},
};

// ---------------------------------------------------------------------------- processes

int volatile interrupted = 0;

/// Runs a merger in a child, so that none finds what another has left behind, and so that
/// whatever becomes of it, this process can put the kernel's settings right.
std::optional<measurement> run(merger const& who, image const& what) {
    int ends[2];
    if (::pipe(ends) != 0) {
        return {};
    }
    pid_t const parent = ::getpid();
    pid_t const child = ::fork();
    if (child == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        ::prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0); // the same pages for everybody
        for (int const s : {SIGINT, SIGTERM, SIGHUP}) {
            std::signal(s, SIG_DFL);
        }
        int status = EXIT_FAILURE;
        if (::getppid() == parent) {
            auto const m = who.run(what);
            if (m && ::write(ends[1], &*m, sizeof *m) == static_cast<ssize_t>(sizeof *m)) {
                status = EXIT_SUCCESS;
            }
        }
        ::_exit(status);
    }
    ::close(ends[1]);
    measurement m;
    bool complete = false;
    if (child > 0) {
        pollfd waiting{ends[0], POLLIN, 0};
        auto const patience = std::chrono::milliseconds{process_patience};
        complete = interrupted == 0 &&
                   ::poll(&waiting, 1, static_cast<int>(patience.count())) == 1 &&
                   ::read(ends[0], &m, sizeof m) == static_cast<ssize_t>(sizeof m);
        if (!complete) {
            ::kill(child, SIGKILL);
        }
        while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
        }
    }
    ::close(ends[0]);
    return complete ? std::optional{m} : std::nullopt;
}

// ---------------------------------------------------------------------------- results

template <class Field>
double median(std::vector<measurement> const& runs, Field measurement::*field) {
    std::vector<double> values;
    for (measurement const& m : runs) {
        values.push_back(static_cast<double>(m.*field));
    }
    return bench::median(std::move(values));
}

/// Prints what was measured of one merger; ratios are to the kernel.
void print(bench::workload const& w, image const& what, merger const& who,
           std::vector<measurement> const& runs, std::vector<measurement> const& kernel,
           bool json) {
    auto const pages = static_cast<double>(what.pages());
    auto const ratio = [&](auto field) { return median(runs, field) / median(kernel, field); };
    exact_counts const& c = runs.back().counts;
    fmt::print(
        fmt::runtime(
            json ? R"({{"workload":"{}","pages":{},"merger":"{}","runs":{},"passes":{},)"
                   R"("wall_ms":{:.3f},"cpu_us_per_page":{:.4f},"cpu_ratio":{:.4f},)"
                   R"("later_pass_us":{:.1f},"later_pass_ratio":{:.6f},"pages_shared":{},)"
                   R"("pages_sharing":{},"ksm_zero_pages":{},"metadata_bytes_per_page":{:.1f},)"
                   R"("mappings":{:.0f}}})"
                   "\n"
                 : "{:3} {:7} {:9} {:2} {:2} {:9.1f} {:9.3f} {:7.3f} {:11.0f} {:8.4f} {:8} {:8} "
                   "{:8} {:6.1f} {:6.0f}\n"),
        w.name, what.pages(), who.name, runs.size(), median(runs, &measurement::passes),
        median(runs, &measurement::wall_us) / 1e3, median(runs, &measurement::cpu_us) / pages,
        ratio(&measurement::cpu_us), median(runs, &measurement::later_pass_us),
        ratio(&measurement::later_pass_us), c.shared, c.sharing, c.zero,
        median(runs, &measurement::metadata_bytes) / pages, median(runs, &measurement::mappings));
    std::fflush(stdout);
}

struct arguments {
    std::string_view workload = "all";
    std::size_t mib = 0; ///< 0: as the workload is reported.
    std::size_t repeat = 3;
    bool json = false;
};

std::optional<arguments> parse(std::span<char*> words) {
    arguments a;
    auto const number = [](char const* text, std::size_t& out) {
        char* end = nullptr;
        out = std::strtoul(text, &end, 10);
        return *end == '\0' && out > 0;
    };
    for (std::size_t i = 1; i < words.size(); ++i) {
        std::string_view const word = words[i];
        bool const more = i + 1 < words.size();
        if (word == "--json") {
            a.json = true;
        } else if (word == "--workload" && more) {
            a.workload = words[++i];
        } else if (!(word == "--mib" && more && number(words[++i], a.mib)) &&
                   !(word == "--repeat" && more && number(words[++i], a.repeat))) {
            return {};
        }
    }
    bool const known = std::ranges::any_of(
        bench::workloads, [&](bench::workload const& w) { return a.workload == w.name; });
    return known || a.workload == "all" ? std::optional{a} : std::nullopt;
}

int compare(arguments const& a) {
    bool exact = true;
    auto const page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    for (bench::workload const& w : bench::workloads) {
        if (a.workload != "all" && a.workload != w.name) {
            continue;
        }
        image const what{w, (a.mib == 0 ? w.mib : a.mib) * 1024 * 1024 / page};
        std::vector<measurement> runs[std::size(mergers)];
        for (std::size_t r = 0; r < a.repeat; ++r) {
            for (std::size_t i = 0; i < std::size(mergers);
                 ++i) { // in turn: a shared load hits all
                if (!bench::kernel::unmerge_all() ||
                    !bench::kernel::set("use_zero_pages", what.zero_apart ? "1" : "0")) {
                    fmt::print(stderr, "vs_kernel: the kernel does not unmerge everything\n");
                    return EXIT_FAILURE;
                }
                auto const m = run(mergers[i], what);
                if (!m) {
                    fmt::print(stderr, "vs_kernel: {}: {} did not end its work\n", w.name,
                               mergers[i].name);
                    return EXIT_FAILURE;
                }
                if (m->counts != what.expected || !m->intact) {
                    exact = false;
                    fmt::print(stderr,
                               "vs_kernel: {}: {}: shared {}, sharing {}, zero {} instead of {}, "
                               "{}, {}{}\n",
                               w.name, mergers[i].name, m->counts.shared, m->counts.sharing,
                               m->counts.zero, what.expected.shared, what.expected.sharing,
                               what.expected.zero, m->intact ? "" : "; contents have changed");
                }
                runs[i].push_back(*m);
            }
        }
        for (std::size_t i = 0; i < std::size(mergers); ++i) {
            print(w, what, mergers[i], runs[i], runs[0], a.json);
        }
    }
    return exact ? EXIT_SUCCESS : EXIT_FAILURE;
}

} // namespace

int main(int argc, char** argv) {
    auto const a = parse({argv, static_cast<std::size_t>(argc)});
    if (!a) {
        fmt::print(stderr,
                   "usage: vs_kernel [--workload W1..W5|all] [--mib N] [--repeat N] [--json]\n");
        return 2;
    }
    namespace kernel = bench::kernel;
    constexpr int skipped = 77;
    if (::geteuid() != 0 || !kernel::get("run") || !kernel::thread::find()) {
        fmt::print(stderr, "vs_kernel: needs root and a kernel with KSM\n");
        return skipped;
    }
    if (kernel::counts() != exact_counts{}) {
        fmt::print(stderr, "vs_kernel: KSM is in use, and its counts are the whole machine's\n");
        return skipped;
    }
    struct sigaction on_signal {};
    on_signal.sa_handler = [](int s) { interrupted = s; }; // and poll() ends
    for (int const s : {SIGINT, SIGTERM, SIGHUP}) {
        ::sigaction(s, &on_signal, nullptr);
    }
    if (!a->json) {
        fmt::print("{:3} {:7} {:9} {:2} {:2} {:>9} {:>9} {:>7} {:>11} {:>8} {:>8} {:>8} {:>8} "
                   "{:>6} {:>6}\n",
                   "", "pages", "merger", "n", "p", "wall ms", "us/page", "ratio", "later us",
                   "ratio", "shared", "sharing", "zero", "B/page", "maps");
    }

    kernel::settings settings;
    int status = EXIT_FAILURE;
    if (!settings.in_force()) {
        fmt::print(stderr, "vs_kernel: the kernel does not take the settings\n");
    } else {
        status = compare(*a);
    }
    if (!settings.restore()) {
        fmt::print(stderr, "vs_kernel: the kernel's settings could not be restored\n");
        status = EXIT_FAILURE;
    }
    return interrupted != 0 ? 128 + interrupted : status;
}
