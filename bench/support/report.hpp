// SPDX-License-Identifier: BSL-1.0
// Tables and JSON of what the mergers of one image came to.
#ifndef KSM_BENCH_SUPPORT_REPORT_HPP
#define KSM_BENCH_SUPPORT_REPORT_HPP

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "image.hpp"
#include "mergers.hpp"
#include "timing.hpp"

namespace bench {

/// All runs of one merger.
struct record {
    std::string merger;
    std::vector<measurement> runs;
};

class report {
  public:
    /// \param kernels  How many of the records, the first ones, are the kernel's: 0; 1; 2: with
    ///                 smart_scan 0, then 1.
    report(image const& what, std::vector<record> const& records, std::size_t kernels)
        : what_(what), records_(records), kernels_(kernels) {}

    void print(bool steady, bool json) const {
        if (json) {
            json_of_convergence();
        } else {
            table_of_convergence();
        }
        for (std::size_t f = 0; steady && f < rewritten.size(); ++f) {
            if (json) {
                json_of_steady(f);
            } else {
                table_of_steady(f);
            }
        }
        std::fflush(stdout);
    }

  private:
    using field = std::function<double(measurement const&)>;

    static spread of(std::vector<measurement> const& runs, field const& f) {
        std::vector<double> values;
        for (measurement const& m : runs) {
            values.push_back(f(m));
        }
        return spread_of(values);
    }
    template <class T>
    static double median_of(record const& r, T measurement::*member) {
        return of(r.runs, [=](auto const& m) { return static_cast<double>(m.*member); }).median;
    }
    /// Of runs that followed each other: what else the machine does has hit both.
    static spread ratio(std::vector<measurement> const& runs, std::vector<measurement> const& to,
                        field const& f) {
        std::vector<double> values;
        for (std::size_t i = 0; i < runs.size(); ++i) {
            values.push_back(f(runs[i]) / f(to[i]));
        }
        return spread_of(values);
    }
    /// What the records after it are compared with; nothing when it was not measured.
    [[nodiscard]] std::optional<spread> to_kernel(record const& r, std::size_t kernel,
                                                  field const& f, bool inverse = false) const {
        if (kernel >= kernels_) {
            return {};
        }
        auto const& k = records_[kernel].runs;
        return inverse ? ratio(k, r.runs, f) : ratio(r.runs, k, f);
    }
    static bool exact(record const& r, bool measurement::*when) {
        return std::ranges::all_of(r.runs, [=](auto const& m) { return m.*when && m.intact; });
    }
    [[nodiscard]] double pages() const { return static_cast<double>(what_.pages()); }
    [[nodiscard]] double metadata_of(record const& r) const {
        return median_of(r, &measurement::metadata_bytes) / pages();
    }
    [[nodiscard]] field cpu_per_page() const {
        return [n = pages()](measurement const& m) { return m.cpu_us / n; };
    }
    static field cpu_of_pass(std::size_t f) {
        return [f](measurement const& m) { return m.steady_us[f]; };
    }

    static std::string text(std::optional<spread> const& s, int digits) {
        return s ? fmt::format("{:.{}f} ({:.{}f}-{:.{}f})", s->median, digits, s->min, digits,
                               s->max, digits)
                 : "";
    }
    static std::string array(std::optional<spread> const& s) {
        return s ? fmt::format("[{:.6g},{:.6g},{:.6g}]", s->median, s->min, s->max) : "null";
    }

    void table_of_convergence() const {
        fmt::print("\n{}, {} pages, {} runs\n", what_.name(), what_.pages(),
                   records_[0].runs.size());
        fmt::print("{:20} {:>2} {:>9} {:>22} {:>22} {:>7} {:>8} {:>7} {:>6} {:>6}\n", "converge",
                   "p", "wall ms", "us/page (min-max)", "/kernel (min-max)", "shared", "sharing",
                   "zero", "B/page", "maps");
        for (record const& r : records_) {
            exact_counts const& n = r.runs.back().counts;
            fmt::print(
                "{:20} {:2} {:9.1f} {:>22} {:>22} {:7} {:8} {:7} {:6.1f} {:6.0f}{}\n", r.merger,
                median_of(r, &measurement::passes), median_of(r, &measurement::wall_us) / 1e3,
                text(of(r.runs, cpu_per_page()), 3), text(to_kernel(r, 0, cpu_per_page()), 3),
                n.shared, n.sharing, n.zero, metadata_of(r), median_of(r, &measurement::mappings),
                exact(r, &measurement::exact) ? "" : " *");
        }
    }
    void table_of_steady(std::size_t f) const {
        fmt::print("{:20} {:>30} {:>26} {:>26}\n",
                   fmt::format("steady, {}% rewritten", rewritten[f]), "us/pass (min-max)",
                   "x smart_scan 0 (min-max)", "x smart_scan 1 (min-max)");
        for (record const& r : records_) {
            fmt::print("{:20} {:>30} {:>26} {:>26}{}\n", r.merger,
                       text(of(r.runs, cpu_of_pass(f)), 0),
                       text(to_kernel(r, 0, cpu_of_pass(f), true), 1),
                       text(to_kernel(r, 1, cpu_of_pass(f), true), 1),
                       exact(r, &measurement::exact_later) ? "" : " *");
        }
    }

    void json_of_convergence() const {
        for (record const& r : records_) {
            exact_counts const& n = r.runs.back().counts;
            fmt::print(
                R"({{"measured":"converge","workload":"{}","pages":{},"merger":"{}","runs":{},)"
                R"("passes":{},"wall_ms":{:.3f},"cpu_us_per_page":{},"cpu_ratio":{},)",
                what_.name(), what_.pages(), r.merger, r.runs.size(),
                median_of(r, &measurement::passes), median_of(r, &measurement::wall_us) / 1e3,
                array(of(r.runs, cpu_per_page())), array(to_kernel(r, 0, cpu_per_page())));
            fmt::print(R"("pages_shared":{},"pages_sharing":{},"ksm_zero_pages":{},)"
                       R"("metadata_bytes_per_page":{:.1f},"mappings":{},"exact":{}}})"
                       "\n",
                       n.shared, n.sharing, n.zero, metadata_of(r),
                       median_of(r, &measurement::mappings), exact(r, &measurement::exact));
        }
    }
    void json_of_steady(std::size_t f) const {
        for (record const& r : records_) {
            fmt::print(
                R"({{"measured":"steady","workload":"{}","pages":{},"merger":"{}","runs":{},)"
                R"("rewritten_per_cent":{},"cpu_us_per_pass":{},"times_cheaper":{},)"
                R"("times_cheaper_than_smart_scan":{},"exact":{}}})"
                "\n",
                what_.name(), what_.pages(), r.merger, r.runs.size(), rewritten[f],
                array(of(r.runs, cpu_of_pass(f))), array(to_kernel(r, 0, cpu_of_pass(f), true)),
                array(to_kernel(r, 1, cpu_of_pass(f), true)), exact(r, &measurement::exact_later));
        }
    }

    image const& what_;
    std::vector<record> const& records_;
    std::size_t kernels_;
};

} // namespace bench

#endif
