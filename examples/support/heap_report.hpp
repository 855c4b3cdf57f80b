// SPDX-License-Identifier: BSL-1.0
// What merging a heap has brought and cost, as a table and as JSON.
#ifndef KSM_EXAMPLES_HEAP_REPORT_HPP
#define KSM_EXAMPLES_HEAP_REPORT_HPP

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include <fmt/format.h>

#include <ksm/providers/linux.hpp>
#include <ksm/statistics.hpp>

#include "process.hpp"

namespace examples {

/// Pages that need no frame of their own any more.
[[nodiscard]] inline std::uint64_t saved_pages(ksm::statistics const& s) {
    return s.pages_sharing + s.ksm_zero_pages;
}

/// What there is to know at one moment.
struct findings {
    memory_use memory;
    ksm::linux_usage provider;
    ksm::statistics engine;
    std::uint64_t duplicates = 0; ///< Not merged.

    [[nodiscard]] std::uint64_t metadata_bytes() const {
        return engine.metadata_bytes + provider.metadata_bytes;
    }
    /// PSS without program text, which is paged in by and by, but with the frames that no page
    /// maps, which PSS does not show. [KiB]
    [[nodiscard]] std::int64_t heap_kib() const {
        auto const frames = std::uint64_t{provider.frame_bytes} / 1024;
        auto const unseen = frames > memory.pss_shmem ? frames - memory.pss_shmem : 0;
        return static_cast<std::int64_t>(memory.pss - memory.pss_file + unseen);
    }
};

struct heap_report {
    std::size_t pages = 0;
    findings before;
    findings merged;
    findings unmerged;
    double cpu_seconds = 0; ///< For merging.
    double wall_seconds = 0;

    /// What the kernel says, all costs included.
    [[nodiscard]] std::int64_t saved_bytes() const {
        return (static_cast<std::int64_t>(before.memory.pss) -
                static_cast<std::int64_t>(merged.memory.pss)) *
               1024;
    }

    void print_table() const {
        using F = findings const&;
        fmt::print("{:<28}{:>12}{:>12}{:>12}\n", "", "before", "merged", "unmerged");
        row("PSS [MiB]", [](F f) { return static_cast<double>(f.memory.pss) / 1024; });
        row("duplicates not merged", [](F f) { return f.duplicates; });
        row("pages_shared", [](F f) { return f.engine.pages_shared; });
        row("pages_sharing", [](F f) { return f.engine.pages_sharing; });
        row("ksm_zero_pages", [](F f) { return f.engine.ksm_zero_pages; });
        row("mappings used", [](F f) { return f.provider.mappings_used; });
        row("stable frames [MiB]", [](F f) { return mib(f.provider.frame_bytes); });
        row("metadata [MiB]", [](F f) { return mib(f.metadata_bytes()); });
        fmt::print("\nsaved {:.1f} MiB; passes {}, CPU time {:.2f} s, wall time {:.2f} s\n",
                   static_cast<double>(saved_bytes()) / mib_bytes, merged.engine.full_scans,
                   cpu_seconds, wall_seconds);
    }

    void print_json(bool verified) const {
        auto const field = [](std::string_view name, auto value) {
            fmt::print("\"{}\": {}, ", name, value);
        };
        fmt::print("{{");
        field("pages", pages);
        field("duplicate_pages", before.duplicates);
        field("pages_shared", merged.engine.pages_shared);
        field("pages_sharing", merged.engine.pages_sharing);
        field("zero_pages", merged.engine.ksm_zero_pages);
        field("pss_before_kib", before.memory.pss);
        field("pss_after_kib", merged.memory.pss);
        field("pss_unmerged_kib", unmerged.memory.pss);
        field("saved_bytes", saved_bytes());
        field("metadata_bytes", merged.metadata_bytes());
        field("mappings_used", merged.provider.mappings_used);
        field("passes", merged.engine.full_scans);
        field("merge_cpu_seconds", cpu_seconds);
        fmt::print("\"verified\": {}}}\n", verified);
    }

  private:
    static constexpr double mib_bytes = 1U << 20U;
    [[nodiscard]] static double mib(std::uint64_t bytes) {
        return static_cast<double>(bytes) / mib_bytes;
    }

    template <class Value>
    void row(std::string_view what, Value value) const {
        fmt::print("{:<28}", what);
        for (findings const* const f : {&before, &merged, &unmerged}) {
            if constexpr (std::floating_point<decltype(value(*f))>) {
                fmt::print("{:>12.1f}", value(*f));
            } else {
                fmt::print("{:>12}", value(*f));
            }
        }
        fmt::print("\n");
    }
};

} // namespace examples

#endif
