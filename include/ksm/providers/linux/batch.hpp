// SPDX-License-Identifier: BSL-1.0
// Many short runs in one window, where nobody reads either: the pages are given back together,
// which flushes the TLBs once, and mapping frames over what is empty then flushes none.
#ifndef KSM_PROVIDERS_LINUX_BATCH_HPP
#define KSM_PROVIDERS_LINUX_BATCH_HPP

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>

#include <sys/uio.h>

#include <ksm/outcome.hpp>
#include <ksm/page_provider.hpp>
#include <ksm/providers/linux/fork_gate.hpp>
#include <ksm/providers/linux/machinery.hpp>
#include <ksm/providers/linux/place.hpp>
#include <ksm/providers/linux/write_window.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

class batch {
  public:
    static constexpr std::size_t most = 64;

    /// \requires Nobody reads or writes regions while this exists.
    explicit batch(machinery& m) noexcept : m_(m) {}
    batch(batch const&) = delete;
    batch& operator=(batch const&) = delete;

    [[nodiscard]] bool full() const noexcept { return size_ == most; }

    /// Takes a run in, as far as it lies in `p`, unless it is better merged by itself.
    void add(merge_request& r, place p) noexcept {
        p.pages = std::min(p.pages, m_.frames.to_arena_end(r.frame));
        auto const entry = page_entry::merged(r.frame);
        // Of a mapping of a frame, giving pages back would show that frame.
        if (full() || !p.anonymous || p.first < end_ ||
            !m_.table.prepare(p.first, p.pages, entry, end_)) {
            return;
        }
        if (!affords(p.first, p.pages, entry)) {
            return;
        }
        m_.split_huge_pages(p);
        end_ = p.first + page_count{p.pages};
        runs_[size_++] = {&r, p, r.frame};
    }

    /// Merges what was taken in, and says in the requests how far that got. What went wrong for a
    /// reason of the run's own is left for another attempt.
    void merge() noexcept {
        if (size_ < 2 || !replace()) {
            return;
        }
        for (run const& r : runs()) {
            if (r.repaired) {
                m_.table.set(r.where.first, r.equal, page_entry::home());
            }
            if (r.error != 0) {
                r.request->result.why = m_.refused("mmap", r.error, false);
            } else if (r.equal != 0) {
                m_.tracker.expect_copies();
                m_.table.set(r.where.first, r.equal, page_entry::merged(r.frame));
                r.request->result.done = page_count{r.equal};
            }
        }
    }

  private:
    struct run {
        merge_request* request;
        place where;
        frame_id frame;
        std::size_t equal = 0; ///< Pages that are to be replaced.
        int error = 0;
        bool repaired = false;
    };

    /// Whether the budget has room for a run beside those that it has had room for before. Each is
    /// priced as if the others were not there, which is never too little.
    [[nodiscard]] bool affords(page_number first, std::size_t pages, page_entry entry) noexcept {
        std::ptrdiff_t const cost = std::max<std::ptrdiff_t>(m_.table.cost(first, pages, entry), 0);
        std::size_t const used = m_.mappings() + planned_;
        if (!m_.budget.allows(used, cost) || !m_.budget.worth(used, cost, pages)) {
            return false;
        }
        planned_ += static_cast<std::size_t>(cost);
        return true;
    }

    [[nodiscard]] std::span<run> runs() noexcept { return std::span{runs_}.first(size_); }

    /// False: the window could not be opened, or a fork is under way; nothing has changed.
    [[nodiscard]] bool replace() noexcept {
        place all = runs_[0].where;
        all.pages = (end_ - all.first).value();
        write_window window{m_.writers, all, m_.page};
        if (window.why() != status::ok) {
            return false;
        }
        std::array<iovec, most> parts;
        std::size_t n = 0;
        planned_ = 0;
        for (run& r : runs()) {
            int unread = 0;
            r.equal = m_.reader.equal(r.where.at, m_.frames.view(r.frame), r.where.pages,
                                      r.where.in_place, unread);
            // A part may cost more than the whole, which would have joined its neighbours.
            if (r.equal != 0 && !affords(r.where.first, r.equal, page_entry::merged(r.frame))) {
                r.equal = 0;
            }
            if (r.equal != 0) {
                parts[n++] = {r.where.at, r.equal * m_.page};
            }
        }
        if (!fork_gate::instance().enter()) { // a child would keep the empty pages
            return false;
        }
        // What this does not give back is replaced all the same.
        static_cast<void>(sys::process_madvise({parts.data(), n}, MADV_DONTNEED));
        for (run& r : runs()) {
            if (r.equal != 0) {
                replace(r);
            }
        }
        fork_gate::instance().leave();
        return true;
    }

    void replace(run& r) const noexcept {
        place const& p = r.where;
        std::byte const* const content = m_.frames.view(r.frame);
        r.error = m_.frames.map(p.at, r.frame, r.equal, p.map_flags);
        r.repaired = r.error == ENOMEM && m_.repair(p.at, r.equal, content, p.map_flags);
        if (r.error != 0 && !r.repaired && !has_hole(p.at, r.equal * m_.page, m_.page)) {
            live_copy(p.at, content, r.equal * m_.page); // the pages may be empty
        }
    }

    machinery& m_;
    std::array<run, most> runs_;
    std::size_t size_ = 0;
    std::size_t planned_ = 0; ///< Mappings.
    page_number end_;         ///< Of the last run.
};

} // namespace detail::os
KSM_NAMESPACE_END

#endif
