// SPDX-License-Identifier: BSL-1.0
// Fills a heap with copies of real files, merges its pages, and proves by means that do not
// depend on the library that memory was saved and no byte was lost.
#include <algorithm>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <exception>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include <ksm/format.hpp>
#include <ksm/memory_resource.hpp>
#include <ksm/providers/linux.hpp>
#include <ksm/scanner.hpp>

#include "support/arguments.hpp"
#include "support/claims.hpp"
#include "support/duplicates.hpp"
#include "support/file_heap.hpp"
#include "support/files.hpp"
#include "support/heap_report.hpp"
#include "support/process.hpp"
#include "support/progress.hpp"

#ifndef KSM_SOURCE_DIR
#define KSM_SOURCE_DIR "." // Without the headers the other files must do.
#endif

namespace {

constexpr std::string_view help = R"(usage: dedup_heap [OPTION...] [FILE...]

Reads files into many separate buffers, as a cache or a runtime with several instances does,
merges pages of equal content, and checks the result against the files and the kernel's books.
Without FILE: this program, the headers of ksm and the C++ library.

  --copies N      copies of each file, at least (8)
  --mib N         MiB of buffers, at least; more copies are made to reach it (256)
  --json          print one JSON object instead of tables
  --keep-running  go on writing and scanning every second until SIGINT or SIGTERM
  --help          print this text

Duplicate pages are counted exactly and without the library: n - 1 of n pages of equal content,
all pages of zeros. What is saved is what the kernel says: PSS (and swap) before minus after
merging; all metadata is in it. Each of this must hold:

  * 90 to 100 % of the duplicates are merged, and neither mappings nor memory ran short.
  * PSS falls by their size, less 10 % of it or the metadata if that is more. Program text, which
    is paged in meanwhile, does not count; stable frames that no page maps do.
  * The buffers equal their files before and after merging; after 1 % of the pages were written,
    except for what was written; after these were scanned again; and after unmerging.
  * After unmerging nothing is shared, and PSS is not less than the size of the buffers.

Exit status: 0 if all holds, 1 if something does not, 2 for wrong usage.
)";

struct options {
    std::uint64_t copies = 8;
    std::uint64_t mib = 256;
    bool json = false;
    bool keep_running = false;
    bool help = false;
    std::vector<examples::source_file> files;
};

options parse(std::span<char const* const> words) {
    options o;
    examples::arguments known;
    known.number("--copies", o.copies, 1, 1'000'000);
    known.number("--mib", o.mib, 1, 1'000'000);
    known.flag("--json", o.json);
    known.flag("--keep-running", o.keep_running);
    known.flag("--help", o.help);
    known.flag("-h", o.help);
    auto paths = known.parse(words);
    if (o.help) {
        return o;
    }
    if (paths.empty()) {
        paths = examples::files_at_hand(KSM_SOURCE_DIR "/include/ksm");
    }
    for (auto& path : paths) {
        o.files.emplace_back(std::move(path));
    }
    if (std::ranges::all_of(o.files, [](auto const& file) { return file.size() == 0; })) {
        throw examples::usage_error("all files are empty");
    }
    return o;
}

class demonstration {
  public:
    demonstration(examples::file_heap& heap, bool json) : heap_(heap), json_(json) {}

    /// \returns Whether everything that the help says holds.
    bool run(bool keep_running) {
        if (auto const can = provider_.capabilities(); can.strategy == ksm::write_exclusion::off) {
            throw std::runtime_error(fmt::format("nothing can be merged: {}", can.reason));
        }
        claim_content("every buffer equals its file before merging");
        report_.pages = heap_.pages();
        report_.before.memory = examples::read_memory_use();
        report_.before.duplicates = count_duplicates();
        if (!json_) {
            fmt::print("files {}, copies {}, buffers {}, pages {} of {} bytes\n", heap_.files(),
                       heap_.copies(), heap_.buffers(), heap_.pages(), heap_.page_size());
            fmt::print("while a page is merged: {}\n", provider_.capabilities().reason);
        }
        merge();
        write();
        if (keep_running) {
            write_and_scan_until_signal();
        }
        unmerge();
        if (json_) {
            report_.print_json(claims_.hold());
        } else {
            fmt::print("\n");
            report_.print_table();
            fmt::print("\n");
            claims_.print();
        }
        claims_.print_faults("dedup_heap");
        return claims_.hold();
    }

  private:
    void merge() {
        (void)scanner_.tune("use_zero_pages", 1); // The name and the value are known to be valid.
        auto const duplicates = report_.before.duplicates;
        examples::stopwatch const time;
        (void)provider_.adopt(heap_.bytes().data(), heap_.bytes().size());
        auto why = scanner_.enter(provider_.space());
        if (why == ksm::status::ok) {
            why = scan_until_settled();
        }
        report_.cpu_seconds = time.cpu_seconds();
        report_.wall_seconds = time.wall_seconds();
        claims_.add("merging ended because nothing was left to merge", why == ksm::status::ok,
                    fmt::format("{}, {} of {} mappings are in use", why,
                                provider_.usage().mappings_used, provider_.usage().mapping_budget));
        claim_content("every buffer equals its file after merging");

        // Not earlier: a page counts in PSS only once it was read through its new mapping.
        auto const saved = examples::saved_pages(scanner_.statistics());
        report_.merged = look(duplicates - std::min(saved, duplicates));
        claims_.add("90 to 100 % of the duplicates are merged",
                    saved <= duplicates && saved * 10 >= duplicates * 9,
                    fmt::format("{} of {}", saved, duplicates));
        auto const size = static_cast<std::int64_t>(duplicates * heap_.page_size() / 1024);
        auto const metadata = static_cast<std::int64_t>(report_.merged.metadata_bytes() / 1024);
        auto const fallen = report_.before.heap_kib() - report_.merged.heap_kib();
        claims_.add(
            "PSS fell accordingly", fallen >= size - std::max(size / 10, metadata),
            fmt::format("by {} of {} KiB, with {} KiB of metadata", fallen, size, metadata));
    }

    void write() {
        heap_.write_to_pages(one_percent());
        claim_content(
            fmt::format("{} pages were written, and nothing else changed", one_percent()));
        (void)scan_until_settled();
        claim_content("still so after these pages were scanned");
    }

    void write_and_scan_until_signal() {
        sigset_t stop;
        ::sigemptyset(&stop);
        ::sigaddset(&stop, SIGINT);
        ::sigaddset(&stop, SIGTERM);
        ::sigprocmask(SIG_BLOCK, &stop, nullptr);
        constexpr timespec second{1, 0};
        while (::sigtimedwait(&stop, nullptr, &second) < 0) {
            auto const merged = scanner_.statistics().merged_pages_total;
            heap_.restore();
            heap_.write_to_pages(one_percent());
            (void)scanner_.scan_pass();
            if (!json_) {
                auto const now = look(0);
                fmt::print("pass {:>3}: PSS {} KiB, {:>4} pages merged, {} shared, {} sharing, "
                           "{} zero, {} mappings\n",
                           now.engine.full_scans, now.memory.pss,
                           now.engine.merged_pages_total - merged, now.engine.pages_shared,
                           now.engine.pages_sharing, now.engine.ksm_zero_pages,
                           now.provider.mappings_used);
                std::fflush(stdout);
            }
        }
        ::sigprocmask(SIG_UNBLOCK, &stop, nullptr);
        heap_.restore();
        claim_content("every buffer equals its file after all writes were undone");
    }

    void unmerge() {
        auto const why = scanner_.unmerge_all();
        claims_.add("everything was unmerged", why == ksm::status::ok, ksm::name(why));
        claim_content("still so after unmerging");
        report_.unmerged = look(count_duplicates());
        auto const& [memory, provider, engine, duplicates] = report_.unmerged;
        claims_.add("nothing is shared any more",
                    engine.pages_shared + examples::saved_pages(engine) == 0,
                    fmt::format("{} pages are", examples::saved_pages(engine)));
        claims_.add("PSS is not less than the size of the buffers",
                    memory.pss * 1024 >= heap_.bytes().size(), fmt::format("{} KiB", memory.pss));
    }

    /// Scans until a pass leaves as much merged as it found. In the first one nothing may have
    /// rested long enough.
    ksm::status scan_until_settled() {
        std::optional<examples::progress_bar> bar;
        if (!json_) {
            bar.emplace();
        }
        for (unsigned pass = 1;; ++pass) {
            auto const before = merged_pages();
            ksm::scan_result result;
            do {
                result = scanner_.scan(ksm::page_count{1024});
                if (bar) {
                    bar->update(fmt::format("pass {}", pass),
                                examples::saved_pages(scanner_.statistics()),
                                report_.before.duplicates);
                }
            } while (!result.pass_complete);
            if (pass > 1 && merged_pages() == before) {
                return result.why;
            }
        }
    }

    [[nodiscard]] std::uint64_t merged_pages() const noexcept {
        auto const s = scanner_.statistics();
        return s.pages_shared + s.pages_sharing + s.ksm_zero_pages;
    }

    void claim_content(std::string claim) { claims_.add(std::move(claim), heap_.verify()); }

    [[nodiscard]] examples::findings look(std::uint64_t duplicates) const {
        return {examples::read_memory_use(), provider_.usage(), scanner_.statistics(), duplicates};
    }
    [[nodiscard]] std::uint64_t count_duplicates() const {
        return examples::count_duplicates(heap_.bytes(), heap_.page_size());
    }
    [[nodiscard]] std::size_t one_percent() const {
        return std::max<std::size_t>(1, heap_.pages() / 100);
    }

    /// True: the files are read into the buffers before the provider knows these, and there is one
    /// thread.
    static ksm::linux_options promise() {
        ksm::linux_options o;
        o.no_pinned_io = true;
        o.no_readers = true;
        return o;
    }

    examples::file_heap& heap_;
    bool json_;
    ksm::linux_provider provider_{promise()};
    ksm::memory_resource metadata_; // From malloc: only the arena of the buffers is scanned.
    ksm::scanner<ksm::linux_provider> scanner_{provider_, &metadata_};
    examples::heap_report report_;
    examples::claims claims_;
};

/// \returns What `act` does, or `otherwise` after an exception, whose text is printed.
template <class Act>
int guarded(int otherwise, Act act) {
    try {
        return act();
    } catch (std::exception const& error) {
        fmt::print(stderr, "dedup_heap: {}\n", error.what());
        return otherwise;
    }
}

} // namespace

int main(int count, char** words) {
    options o;
    int const usage = guarded(2, [&] {
        o = parse(std::span{words, static_cast<std::size_t>(count)}.subspan(1));
        return 0;
    });
    if (usage != 0 || o.help) {
        fmt::print(usage != 0 ? stderr : stdout, "{}",
                   usage != 0 ? "Try dedup_heap --help\n" : help);
        return usage;
    }
    return guarded(1, [&] {
        examples::file_heap heap{std::move(o.files), o.copies, o.mib << 20U};
        return demonstration{heap, o.json}.run(o.keep_running) ? 0 : 1;
    });
}
