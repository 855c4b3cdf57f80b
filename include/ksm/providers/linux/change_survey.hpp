// SPDX-License-Identifier: BSL-1.0
// Lists the pages that may have changed since the previous survey. Of an unchanged region nothing
// is listed, and the kernel is asked once.
#ifndef KSM_PROVIDERS_LINUX_CHANGE_SURVEY_HPP
#define KSM_PROVIDERS_LINUX_CHANGE_SURVEY_HPP

#include <algorithm>
#include <cstddef>
#include <span>

#include <ksm/page_provider.hpp>
#include <ksm/providers/linux/machinery.hpp>
#include <ksm/providers/linux/regions.hpp>
#include <ksm/providers/linux/survey.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

/// Reports found ranges. What was armed must be reported now, so a range for whose pieces there is
/// no room is reported as one that was written, which is always true enough.
class change_report {
  public:
    change_report(machinery& m, run_list& runs, std::size_t ranges) noexcept
        : machine_(m), runs_(runs), ranges_left_(ranges) {}

    /// Pages of tracked anonymous memory were written.
    void written(page_range range) noexcept {
        --ranges_left_;
        for (page_number p = range.first; p < range.end(); p += page_count{1}) {
            if (machine_.table.at(p).kind() == backing::zero) {
                machine_.table.set(p, 1, page_entry::home());
            }
            add(p, page_state::written);
        }
    }
    /// Mappings of frames have private copies; or it is anonymous memory that is not tracked.
    void copied(page_range range) noexcept {
        --ranges_left_;
        machine_.tracker.expect_copies();
        for (page_number p = range.first; p < range.end(); p += page_count{1}) {
            page_entry const e = machine_.table.at(p);
            if (e.kind() == backing::merged) {
                machine_.table.set(p, 1, page_entry::broken(e.frame()));
            }
            bool const mergeable = machine_.writers.can_exclude(machine_.table.at(p));
            add(p, !mergeable                    ? page_state::gone
                   : e.kind() == backing::merged ? page_state::written
                                                 : page_state::unknown);
        }
    }

  private:
    void add(page_number page, page_state state) noexcept {
        bool const joins = runs_.would_join(page, state);
        if (!joins && runs_.room() <= ranges_left_) {
            runs_.extend(page);
            return;
        }
        static_cast<void>(runs_.add(page, state, frame_id{}));
    }

    machinery& machine_;
    run_list& runs_;
    std::size_t ranges_left_;
};

/// Pages that one call looks at: some milliseconds when all of them were written.
inline constexpr std::size_t change_step = 131072;

/// \requires `out` is not empty.
[[nodiscard]] inline survey_result survey_changes(machinery& m, region_list const& regions,
                                                  page_number from,
                                                  std::span<page_run> out) noexcept {
    constexpr std::size_t most = 64;
    page_range copies[most];
    page_range writes[most];
    run_list runs{out};
    std::size_t left = change_step;
    while (region const* const r = regions.at_or_after(from)) {
        page_number page = std::max(from, r->pages.first);
        while (page < r->pages.end()) {
            if (runs.room() == 0 || left == 0) {
                return {runs.size(), page, false, coverage::changes};
            }
            page_number const stop = std::min(r->pages.end(), page + page_count{left});
            page_number const begin = page;
            bool known = r->tracked && m.tracker.available();
            if (known) {
                std::size_t const half = std::clamp<std::size_t>(runs.room() / 2, 1, most);
                // Copies first: looking for them arms nothing, so they can be found again.
                change_tracker::answer c{0, stop, false};
                if (m.tracker.looks_for_copies()) {
                    c = m.tracker.copied({page, stop - page}, std::span{copies, half});
                }
                page_number end = c.end;
                if (runs.room() == 1 && c.ranges != 0) {
                    end = copies[0].first;
                }
                change_tracker::answer w{0, end, false};
                if (page < end) {
                    w = m.tracker.written({page, end - page}, std::span{writes, half});
                }
                page_number seen = w.end;
                if (seen == end && end < c.end && !w.failed && w.ranges == 0) {
                    seen = copies[0].end(); // the one place is the copy's
                }
                while (c.ranges != 0 && copies[c.ranges - 1].first >= seen) {
                    --c.ranges; // found again by the next call
                }
                change_report report{m, runs, w.ranges + c.ranges};
                std::size_t i = 0;
                for (std::size_t j = 0; j < c.ranges; ++j) {
                    for (; i < w.ranges && writes[i].first < copies[j].first; ++i) {
                        report.written(writes[i]);
                    }
                    report.copied(
                        {copies[j].first, std::min(copies[j].end(), seen) - copies[j].first});
                }
                for (; i < w.ranges; ++i) {
                    report.written(writes[i]);
                }
                known = !c.failed && !w.failed;
                page = seen;
            }
            if (!known) {
                page = list_pages(m, runs, page, stop, {r->in_place, page_state::unknown, true});
            }
            left -= (page - begin).value();
        }
        from = r->pages.end();
    }
    return {runs.size(), from, true, coverage::changes};
}

} // namespace detail::os
KSM_NAMESPACE_END

#endif
