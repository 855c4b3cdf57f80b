// SPDX-License-Identifier: BSL-1.0
// Turns what a provider reports of a space into items, and into pages that await a visit.
#ifndef KSM_DETAIL_SURVEYOR_HPP
#define KSM_DETAIL_SURVEYOR_HPP

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>

#include <ksm/detail/merger.hpp>
#include <ksm/detail/page_index.hpp>
#include <ksm/page_provider.hpp>
#include <ksm/tunables.hpp>

KSM_NAMESPACE_BEGIN
namespace detail {

inline constexpr page_number end_of_space{std::numeric_limits<std::uint64_t>::max()};

template <class Provider, class Policy>
class surveyor {
  public:
    surveyor(page_index<Provider>& index, merger<Provider, Policy>& m, tunables const& t) noexcept
        : index_(index), merger_(m), tunables_(t) {}

    /// Surveys a space from end to end. `on_run(run)` sees each run once it is noted.
    /// Gives up once `stop()` answers true; the next survey lists every page then.
    /// \returns Whether the space has any page, be it one that there was no memory to track.
    template <class Stop, class OnRun>
    bool survey(space& s, Stop&& stop, OnRun&& on_run) noexcept {
        if (s.unsorted) {
            s.active.sort([](auto const& a, auto const& b) { return a.index < b.index; });
            s.unsorted = false;
        }
        hint_ = s.active.begin();
        merger_.expire();
        // Pages that were left out are not listed again as changes.
        coverage const wanted =
            Policy::uses_tracking && s.known ? coverage::changes : coverage::every_page;
        s.known = true;
        std::array<page_run, 128> runs;
        page_number from;
        page_number listed; // end of the part of the space that the reports have covered
        for (bool end = false; !end;) {
            if (stop()) {
                s.known = false;
                return true;
            }
            releases_ = index_.releases;
            survey_result const r = index_.provider.survey(s.id, from, wanted, runs);
            KSM_ASSERT(r.runs <= runs.size() && (r.end || r.next > from || r.runs > 0),
                       "a survey must advance");
            for (std::size_t i = 0; i < r.runs; ++i) {
                if (r.given == coverage::every_page) {
                    index_.drop_range(s, listed, runs[i].first);
                }
                note(s, runs[i], r.given);
                on_run(runs[i]);
                listed = runs[i].first + runs[i].pages;
            }
            end = r.end || (r.runs == 0 && r.next <= from);
            if (end && r.given == coverage::every_page) {
                index_.drop_range(s, listed, end_of_space);
            }
            from = r.next;
        }
        return s.items != 0 || !s.known;
    }

  private:
    void note(space& s, page_run const& run, coverage given) noexcept {
        page_number const end = run.first + run.pages;
        if (run.state == page_state::gone) {
            index_.drop_range(s, run.first, end);
            return;
        }
        partition* const p = index_.partitions.obtain(
            run.domain, tunables_.merge_across_nodes ? std::uint16_t{0} : run.node);
        if (p == nullptr) {
            index_.drop_range(s, run.first, end);
            leave_out(s, run.pages.value());
            return;
        }
        for (page_number page = run.first; page < end;) {
            std::uint64_t const slot = page.value() % rmap_chunk::size;
            page_count const here{
                static_cast<std::size_t>(std::min(rmap_chunk::size - slot, (end - page).value()))};
            if (rmap_chunk* const c = index_.obtain_chunk(s, page)) {
                for (std::size_t i = 0; i < here.value(); ++i) {
                    note(c->slots[slot + i], run, run.frame + ((page - run.first) + page_count{i}),
                         *p, given);
                }
                if ((c->due | c->pending) != 0) {
                    activate(s, *c);
                } else if (!c->is_linked()) {
                    index_.free_if_empty(*c);
                }
            } else {
                leave_out(s, here.value());
            }
            page += here;
        }
    }

    void note(rmap_item& item, page_run const& run, frame_id frame, partition& p,
              coverage given) noexcept {
        rmap_chunk& c = rmap_chunk::of(item);
        std::uint64_t const bit = bit_of(item);
        if (item.where() == item_state::absent) {
            index_.track(item);
        }
        bool const strays = item.partition != p.index && item.where() == item_state::stable;
        if (item.partition != p.index) {
            index_.detach(item);
            item.partition = p.index & (max_partitions - 1);
            item.has_digest = 0;
        }
        switch (run.state) {
        case page_state::merged:
            if (!strays && merger_.adopt(item, frame, index_.releases == releases_)) {
                forgive(item);
                return;
            }
            // A frame whose content another frame already stands for, or (I2) a frame of another
            // partition, from which the page moved away before it was merged: merge it anew.
            if (strays || index_.node_of(frame) != nullptr) {
                (void)index_.provider.unmerge(space_of(item).id, page_of(item), page_count{1});
            }
            item.untracked = 0;
            c.due |= bit;
            return;
        case page_state::zero:
            if (item.where() != item_state::zero) {
                index_.detach(item);
                index_.hang_on_zero(item);
            }
            forgive(item);
            return;
        case page_state::written:
        case page_state::unknown:
            if (is_merged(item)) {
                index_.detach(item);
                if (Policy::uses_tracking && given == coverage::every_page) {
                    set_back(item);
                }
            } else if (!index_.rests(item) &&
                       (run.state == page_state::written || item.where() != item_state::unstable)) {
                index_.detach(item);
            }
            break;
        case page_state::gone: return; // whole runs, above
        }
        item.untracked = !Policy::uses_tracking || run.state == page_state::unknown ? 1U : 0U;
        if (item.untracked != 0 && !index_.rests(item)) {
            c.due |= bit;
            c.pending &= ~bit;
        } else {
            c.due &= ~bit;
            c.pending |= bit;
        }
    }

    // A page that is written with what it holds already looks settled to digests: it would be
    // merged, and its sharing broken, in every other pass. So where merged pages are listed, which
    // is where a provider cannot tell what was written, a page whose sharing did not last until the
    // next survey, twice in a row, rests for some eight passes, then for some thirty-two. Each
    // survey that finds it merged makes up for one time.
    void set_back(rmap_item& item) noexcept {
        constexpr std::uint32_t most = 3;
        if (item.setbacks < most) {
            ++item.setbacks;
        }
        if (item.setbacks > 1) {
            // Three quarters to five quarters of it, else a page that is written as regularly as it
            // comes back might always be written just then; the same for all that were written in
            // one pass, which may be a run. Fibonacci hashing (Knuth, TAOCP 6.4).
            std::uint64_t const mixed = index_.counters.full_scans * 0x9E37'79B9'7F4A'7C15U;
            std::uint32_t const passes = item.setbacks == most ? 32 : 8;
            index_.rest(item,
                        passes * 3 / 4 + static_cast<std::uint32_t>(mixed >> 40U) % (passes / 2));
        }
    }
    static void forgive(rmap_item& item) noexcept {
        if (item.setbacks != 0) {
            --item.setbacks;
        }
    }

    /// Links a chunk into the list of its space, in address order: reports ascend, so the place
    /// is found by walking on from the last one.
    void activate(space& s, rmap_chunk& c) noexcept {
        while (hint_ != s.active.end() && hint_->index < c.index) {
            ++hint_;
        }
        if (!c.is_linked()) {
            hint_ = s.active.insert(hint_, c);
        }
    }

    void leave_out(space& s, std::size_t pages) noexcept {
        s.known = false;
        index_.counters.pages_skipped += pages;
    }

    page_index<Provider>& index_;
    merger<Provider, Policy>& merger_;
    tunables const& tunables_;
    active_list::iterator hint_;
    std::uint64_t releases_ = 0; // when the provider was asked
};

} // namespace detail
KSM_NAMESPACE_END

#endif
