// SPDX-License-Identifier: BSL-1.0
// Puts pages whose copy-on-write is broken back among their anonymous neighbours. A page that was
// merged and then written is private again, but its mapping is still one of a frame, and takes its
// part of the budget until the page is healed. Where the application has come to need mappings that
// merging uses, merged pages are put back, too.
#ifndef KSM_PROVIDERS_LINUX_HEALING_HPP
#define KSM_PROVIDERS_LINUX_HEALING_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <ksm/providers/linux/machinery.hpp>
#include <ksm/providers/linux/mirror.hpp>
#include <ksm/providers/linux/own_memory.hpp>
#include <ksm/providers/linux/pagemap.hpp>
#include <ksm/providers/linux/regions.hpp>
#include <ksm/providers/linux/unmerging.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

/// Works in batches, in address order, so that what it does after a walk is bounded. A page that
/// was just written is perhaps equal to another one at the next walk: a batch waits for two walks,
/// and what has been merged by then stays out.
class healer {
  public:
    static constexpr std::size_t batch_pages = 1024;
    static constexpr std::uint32_t walks_to_wait = 2;

    [[nodiscard]] std::size_t healed() const noexcept { return healed_; }
    [[nodiscard]] std::size_t bytes() const noexcept { return due_.bytes(); }

    /// To be called when a survey has seen all regions.
    /// \param place_of  The pages of one kind from a page on, at most so many; none: a region no
    ///                  more, or still one that is not as it must be.
    template <class PlaceOf>
    void after_walk(machinery& m, mirror_store& mirrors, region_list& regions,
                    PlaceOf const& place_of) noexcept {
        ++walk_;
        bool const urgent = m.mappings() > m.budget.limit();
        bool const exceeded = m.budget.exceeded(m.mappings());
        longest_ = exceeded ? longest_ : 1;
        if (due_.size() == 0) {
            collect(m.table);
        }
        if (due_.size() != 0 && (urgent || walk_ - collected_at_ >= walks_to_wait)) {
            heal(m, mirrors, place_of);
        } else if (exceeded && give_up(m, mirrors, place_of)) {
            return; // one of the three: the writers are stopped once in a call
        } else if (m.table.mappings() != 0) {
            give_mirror(m, mirrors, regions, place_of);
        }
    }

  private:
    /// Looks in a stretch of the regions without a mirror for a page that can be the seed of one:
    /// one that has no memory behind it, so that it is surely zero.
    template <class PlaceOf>
    void give_mirror(machinery& m, mirror_store& mirrors, region_list& regions,
                     PlaceOf const& place_of) noexcept {
        region const* r = regions.at_or_after(looked_at_);
        while (r != nullptr && r->mirror != no_mirror) {
            r = regions.at_or_after(r->pages.end());
        }
        if (r == nullptr) {
            looked_at_ = page_number{0};
            return;
        }
        page_number const first = std::max(looked_at_, r->pages.first);
        auto const entries = m.entries.read(first, (r->pages.end() - first).value());
        std::size_t i = 0;
        while (i < entries.size() && !empty(m, first + page_count{i}, pagemap_entry{entries[i]})) {
            ++i;
        }
        looked_at_ = entries.empty() ? r->pages.end() : first + page_count{i};
        if (i < entries.size() && m.writers.enter() == status::ok) {
            looked_at_ = looked_at_ + page_count{1};
            place const seed = place_of(first + page_count{i}, 1);
            if (seed.pages != 0) {
                regions.set_mirror(seed.first, mirrors.plant_amid(m, seed));
            }
            m.writers.leave();
        }
    }
    [[nodiscard]] static bool empty(machinery const& m, page_number page,
                                    pagemap_entry entry) noexcept {
        backing const k = m.table.at(page).kind();
        return !entry.present() && !entry.swapped() && (k == backing::home || k == backing::zero);
    }

    /// The application has taken mappings that merging uses: makes short runs private, the shortest
    /// first. The next survey finds them written. \returns Whether any were.
    template <class PlaceOf>
    [[nodiscard]] bool give_up(machinery& m, mirror_store& mirrors,
                               PlaceOf const& place_of) noexcept {
        if (m.writers.enter() != status::ok) {
            return false;
        }
        std::size_t pages = 0;
        bool go_on = true;
        while (go_on && pages < batch_pages && m.budget.exceeded(m.mappings())) {
            page_range const run = m.table.merged_at_or_after(give_up_at_);
            if (run.count.value() == 0) {
                give_up_at_ = page_number{0};
                longest_ = pages == 0 ? std::min(2 * longest_, window_pages) : longest_;
                break;
            }
            give_up_at_ = run.end();
            std::size_t const n = run.count.value();
            // Between two merged pages it would leave as many mappings as there were.
            if (n > longest_ || m.table.cost(run.first, n, page_entry::home()) >= 0) {
                continue;
            }
            place const there = place_of(run.first, n);
            std::size_t const before = m.mappings();
            go_on = there.pages != n || heal_run(m, mirrors, there);
            pages += m.mappings() < before ? n : 0;
        }
        mirrors.rest();
        m.writers.leave();
        return pages != 0;
    }

    void collect(page_table const& table) noexcept {
        collected_at_ = walk_;
        for (std::size_t pages = 0; pages < batch_pages;) {
            page_range const run =
                table.broken_at_or_after(next_, std::min(window_pages, batch_pages - pages));
            if (run.count.value() == 0) {
                next_ = page_number{0};
                return;
            }
            if (!due_.reserve(due_.size() + 1)) {
                return;
            }
            due_.push_back(run);
            next_ = run.end();
            pages += run.count.value();
        }
    }

    template <class PlaceOf>
    void heal(machinery& m, mirror_store& mirrors, PlaceOf const& place_of) noexcept {
        bool const entered = m.writers.enter() == status::ok;
        bool go_on = entered && m.writers.can_exclude(page_entry::broken(frame_id{0}));
        // Upwards: a mirror that has grown covers the pages behind.
        for (page_range const& run : due_) {
            for (page_number p = run.first; go_on && p < run.end();) {
                page_range const broken = m.table.broken_at_or_after(p, (run.end() - p).value());
                if (broken.count.value() == 0 || !(broken.first < run.end())) {
                    break;
                }
                p = broken.first;
                place const there = place_of(p, std::min(broken.count, run.end() - p).value());
                go_on = there.pages == 0 || heal_run(m, mirrors, there);
                p += page_count{std::max<std::size_t>(there.pages, 1)};
            }
        }
        while (due_.size() != 0) {
            due_.pop_back();
        }
        mirrors.rest();
        if (entered) {
            m.writers.leave();
        }
    }

    /// False: no memory for copies.
    [[nodiscard]] bool heal_run(machinery& m, mirror_store& mirrors, place const& p) noexcept {
        // In the middle of a merged run it would take mappings. Without a mirror it would gain
        // none.
        if (m.table.cost(p.first, p.pages, page_entry::home()) > 0 ||
            mirrors.get(p.mirror, p.first, p.pages) == nullptr) {
            return true;
        }
        restoration const r = restore_pages(m, mirrors, p);
        healed_ += r == restoration::done ? p.pages : 0;
        return r != restoration::no_memory;
    }

    own_array<page_range> due_;
    page_number next_{0};       ///< Where the next batch begins.
    page_number looked_at_{0};  ///< So far, for seeds.
    page_number give_up_at_{0}; ///< Here the next batch begins.
    std::size_t longest_ = 1;   ///< Run that is given up, in pages.
    std::uint32_t walk_ = 0;
    std::uint32_t collected_at_ = 0;
    std::size_t healed_ = 0;
};

} // namespace detail::os
KSM_NAMESPACE_END

#endif
