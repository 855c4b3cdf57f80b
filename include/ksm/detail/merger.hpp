// SPDX-License-Identifier: BSL-1.0
// A visit of a page: what it is compared with, and how it comes to share a frame.
#ifndef KSM_DETAIL_MERGER_HPP
#define KSM_DETAIL_MERGER_HPP

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include <ksm/detail/attempts.hpp>
#include <ksm/detail/contents.hpp>
#include <ksm/detail/merge_queue.hpp>
#include <ksm/detail/page_index.hpp>
#include <ksm/page_provider.hpp>
#include <ksm/policy.hpp>
#include <ksm/tunables.hpp>

KSM_NAMESPACE_BEGIN
namespace detail {

template <class Provider, class Policy>
class merger {
  public:
    /// The most pages that one provider call is asked to merge. Runs end where page numbers are
    /// multiples of it: the pages of one page table of x86-64, which a kernel that replaces them
    /// all need not empty entry by entry. How many a window takes is the provider's decision.
    static constexpr std::size_t longest_run = 512;

    merger(page_index<Provider>& index, tunables const& t) noexcept
        : index_(index), contents_(index), outcomes_(index), queue_(index, outcomes_),
          tunables_(t) {}

    /// Visits an item, and with it up to `budget − 1` pages behind it that match in one run.
    /// `certain` says that the pages are known not to change (merge_now).
    /// \returns The pages visited, at least one.
    [[nodiscard]] std::size_t visit(rmap_item& a, std::size_t budget, bool certain) noexcept {
        certain_ = certain;
        outcomes_.take(a);
        std::size_t const to_boundary = longest_run - page_of(a).value() % longest_run;
        std::size_t const visited = settle(a, std::min(budget, to_boundary));
        index_.counters.pages_scanned += visited;
        return visited;
    }

    /// Hangs a page on the node of the frame that it maps already (S10). A frame without a node
    /// (an earlier scanner's) gets one unless another frame has its content, or the report is not
    /// `current`: the frame may have been released since it was made.
    [[nodiscard]] bool adopt(rmap_item& item, frame_id frame, bool current) noexcept {
        if (item.where() == item_state::stable &&
            index_type::frame_of(index_.sharing.node_of(item)) == frame) {
            return true;
        }
        index_.detach(item);
        stable_node* node = index_.node_of(frame);
        if (node == nullptr && current) {
            node = make_stable_node(frame, index_.partitions[item.partition]);
            if (node != nullptr) {
                wake_equals_of(*node);
            }
        }
        if (node == nullptr || node->partition != item.partition) {
            return false;
        }
        index_.hang(item, *node);
        return true;
    }

    /// Pages may have been written since they were last looked at.
    void expire() noexcept { memo_item_ = nullptr; }

    /// Merges the pages that were visited but wait for others. To be called before the caller's
    /// call ends, and before a survey.
    void finish() noexcept {
        if constexpr (has_batched_merging<Provider>) {
            queue_.flush();
        }
    }

    /// Of the pass; emptied when one begins.
    [[nodiscard]] shortage& lack() noexcept { return outcomes_.lack; }

  private:
    using index_type = page_index<Provider>;

    // ------------------------------------------------------------------ the order of a visit

    std::size_t settle(rmap_item& a, std::size_t budget) noexcept {
        page_bytes const bytes = contents_.view(a);
        if (bytes.empty()) {
            index_.drop(a);
            return 1;
        }
        partition& p = index_.partitions[a.partition];
        std::uint64_t const digest =
            &a == memo_item_ ? memo_digest_ : contents_.digest_of(bytes, p);
        memo_item_ = nullptr;
        if constexpr (Policy::stable_tree_first) {
            if (std::size_t const n = merge_with_stable(a, p, digest, budget)) {
                return n;
            }
        }
        // While it waited its equals may have come by, taken for others: it may have been another.
        bool const waits = a.where() == item_state::unstable && a.digest() == digest;
        if (waits && Policy::content_order) {
            return 1;
        }
        if (!waits) {
            bool const settled = is_settled(a) || (a.has_digest != 0 && a.digest() == digest);
            index_.detach(a); // before its key changes
            a.set_digest(digest);
            a.has_digest = 1;
            if (!settled) {
                // A provider that tracks changes lists the page again only when it is written.
                index_.revisit(a);
                return 1;
            }
        }
        if (tunables_.use_zero_pages) {
            if (std::size_t const n = merge_with_zero(a, budget)) {
                return n;
            }
        }
        if constexpr (!Policy::stable_tree_first) {
            if (std::size_t const n = merge_with_stable(a, p, digest, budget)) {
                return n;
            }
        }
        return merge_with_unstable(a, p, budget);
    }

    /// Whether the page needs no second digest to count as not volatile (S5).
    [[nodiscard]] bool is_settled(rmap_item const& a) const noexcept {
        return certain_ || a.untracked == 0;
    }

    // ------------------------------------------------------------------ zero pages

    std::size_t merge_with_zero(rmap_item& a, std::size_t budget) noexcept {
        if constexpr (has_zero_merging<Provider>) {
            space& s = space_of(a);
            page_set zeros = zero_pages_from(a, budget);
            std::size_t done = 0;
            while (!zeros.empty()) {
                progress const p = index_.provider.merge_zero(s.id, zeros);
                index_.count(p.why, p.done.value());
                for (std::size_t n = p.done.value(); n != 0; --n, ++done) {
                    rmap_item& item = *index_.find(s, zeros.first);
                    outcomes_.take(item);
                    index_.detach(item);
                    index_.hang_on_zero(item);
                    zeros = zeros.without(page_count{1});
                }
                if (p.why == status::changed) {
                    return done; // visited next, unless it is the first
                }
                if (p.why != status::ok) {
                    rmap_item& item = *index_.find(s, zeros.first);
                    outcomes_.take(item);
                    outcomes_.give_up(item, p.why);
                    return done + 1;
                }
            }
            return done;
        }
        return 0;
    }

    /// The page of `a` if it is zero, and zero pages close behind it that await a visit.
    [[nodiscard]] page_set zero_pages_from(rmap_item& a, std::size_t budget) noexcept {
        // A page that is not zero mostly shows it in its first word, yet fetching that costs as
        // much as a tenth of a window: look no further where zero pages are rare.
        constexpr std::size_t most_between = 8;
        space& s = space_of(a);
        if (!contents_.zero(s, page_of(a))) {
            return {};
        }
        page_set zeros{page_of(a), 1};
        if constexpr (Policy::predicts_runs) {
            std::size_t last = 0;
            for (std::size_t i = 1; i < page_set::most && i - last <= most_between; ++i) {
                if (zeros.count().value() < budget && follower_of(a, i) != nullptr &&
                    contents_.zero(s, page_of(a) + page_count{i})) {
                    zeros.mask |= std::uint64_t{1} << i;
                    last = i;
                }
            }
        }
        return zeros;
    }

    // ------------------------------------------------------------------ the stable tree

    std::size_t merge_with_stable(rmap_item& a, partition& p, std::uint64_t digest,
                                  std::size_t budget) noexcept {
        if constexpr (Policy::content_order) {
            forest_spot where;
            stable_node* const node =
                p.stable.find(0, contents_.content_order_of(a, nullptr), where);
            // The bytes were equal a moment ago: a page that differs now is being written.
            return node == nullptr ? 0 : std::max<std::size_t>(merge_with(a, *node, budget), 1);
        } else {
            for (stable_node* node = p.stable.first_with(digest); node != nullptr;
                 node = p.stable.next_with_same(*node)) {
                if (std::size_t const n = merge_with(a, *node, budget)) {
                    return n;
                }
            }
            return 0;
        }
    }

    /// Merges a page into a frame, and the pages behind it into the frames behind it.
    /// \returns The pages visited; 0 when the content of the first one differs.
    std::size_t merge_with(rmap_item& a, stable_node& node, std::size_t budget) noexcept {
        frame_id const frame = index_type::frame_of(node);
        auto const joins = [&](std::size_t i) {
            stable_node* const next = index_.node_of(frame + page_count{i});
            return next != nullptr && next->partition == node.partition &&
                   follower_of(a, i) != nullptr;
        };
        auto const equals = [&](std::size_t i) {
            page_bytes const mine = contents_.view(space_of(a), page_of(a) + page_count{i});
            return !mine.empty() && contents_.equal(mine, contents_.view(frame + page_count{i}));
        };
        std::size_t const most = Policy::predicts_runs ? budget : 1;
        if constexpr (has_batched_merging<Provider>) {
            if (index_.provider.prefers_batches()) {
                std::size_t const longest = std::min(most, queue_.longest_run);
                std::size_t n = 0;
                while (n < longest && (n == 0 || joins(n)) && equals(n)) {
                    ++n;
                }
                if (n != 0 && n < queue_.longest_run) {
                    queue_.add(space_of(a), page_of(a), n, frame);
                }
                if (n < queue_.longest_run) {
                    return n;
                }
            }
        }
        return merge_run(a, frame, most, joins, equals);
    }

    /// Merges the page of `a` and, while they `join` and await a visit, the pages behind it. The
    /// first and the last of them tell, by `equals(i)`, whether a call takes all along: a wrong
    /// guess costs a write window for all of them, never data, because the provider compares.
    template <class Joins, class Equals>
    std::size_t merge_run(rmap_item& a, frame_id frame, std::size_t most, Joins&& joins,
                          Equals&& equals) noexcept {
        space& s = space_of(a);
        page_number const first = page_of(a);
        std::size_t done = 0;
        for (std::size_t guess = 16;; guess *= 4) {
            // Before all those that might follow are walked: mostly none does.
            std::size_t n = done == 0 ? 1 : 0;
            bool const ends = done + n == most || !joins(done + n) || !equals(done + n);
            if (ends && done != 0) {
                return done;
            }
            while (!ends && done + n < most && joins(done + n)) {
                ++n;
            }
            if (n > guess && !equals(done + n - 1)) {
                n = guess;
            }
            progress const p = index_.provider.merge(s.id, first + page_count{done}, page_count{n},
                                                     frame + page_count{done});
            index_.count(p.why, p.done.value());
            for (std::size_t const end = done + p.done.value(); done < end; ++done) {
                rmap_item& item = *index_.find(s, first + page_count{done});
                outcomes_.take(item);
                index_.detach(item);
                index_.hang(item, *index_.node_of(frame + page_count{done}));
            }
            if (p.why == status::changed || ends) {
                if (done == 0 && p.why != status::changed) {
                    outcomes_.give_up(a, p.why);
                    return 1;
                }
                return done;
            }
            if (p.why != status::ok) {
                rmap_item& item = *index_.find(s, first + page_count{done});
                outcomes_.take(item);
                outcomes_.give_up(item, p.why);
                return done + 1;
            }
        }
    }

    // ------------------------------------------------------------------ the unstable tree

    std::size_t merge_with_unstable(rmap_item& a, partition& p, std::size_t budget) noexcept {
        if constexpr (Policy::content_order) {
            bool gone = false;
            forest_spot where;
            rmap_item* const b = p.unstable.find(0, contents_.content_order_of(a, &gone), where);
            if (b == nullptr) {
                p.unstable.insert_at(a, where);
                index_.enter_unstable(a);
            } else if (gone) {
                index_.drop(*b); // S7: the walk ends without result
            } else {
                return merge_pair(a, *b, 1);
            }
            return 1;
        } else {
            // Equal digests stand side by side: contents that collide, or entries that were
            // written since. Only equal bytes are a match.
            for (rmap_item* b = p.unstable.first_with(a.digest()); b != nullptr;
                 b = p.unstable.next_with_same(*b)) {
                if (b != &a && contents_.equal(a, *b)) {
                    index_.detach(a);
                    return merge_pair(a, *b, matching_pages(a, *b, p, budget));
                }
            }
            if (a.where() != item_state::unstable) {
                p.unstable.insert_by_digest(a);
                index_.enter_unstable(a);
            }
            return 1;
        }
    }

    /// Has the pages visited again that wait for a partner and now have this one. Two pages of
    /// one content wait when one was written, and written back, while the other was visited.
    void wake_equals_of(stable_node& node) noexcept {
        if constexpr (!Policy::drops_unstable_tree) {
            auto& waiting = index_.partitions[node.partition].unstable;
            page_bytes const content = contents_.view(index_type::frame_of(node));
            for (rmap_item* item = waiting.first_with(node.digest()); item != nullptr;) {
                page_bytes const bytes = contents_.view(*item);
                if (bytes.empty() || !contents_.equal(bytes, content)) {
                    item = waiting.next_with_same(*item);
                    continue;
                }
                index_.detach(*item);
                index_.revisit(*item);
                item = waiting.first_with(node.digest());
            }
        }
    }

    /// How many pages from `a` on have the digests of the pages from `b` on.
    std::size_t matching_pages(rmap_item& a, rmap_item& b, partition& p,
                               std::size_t budget) noexcept {
        std::size_t n = 1;
        for (; Policy::predicts_runs && n < budget; ++n) {
            rmap_item* const mine = follower_of(a, n);
            rmap_item* const other = index_.find(space_of(b), page_of(b) + page_count{n});
            if (mine == nullptr || other == nullptr || other->where() != item_state::unstable ||
                other->partition != a.partition) {
                break;
            }
            page_bytes const bytes = contents_.view(*mine);
            if (bytes.empty()) {
                break;
            }
            std::uint64_t const digest = contents_.digest_of(bytes, p);
            if (digest != other->digest() || (!is_settled(*mine) && digest != mine->digest())) {
                memo_item_ = mine; // it is visited next
                memo_digest_ = digest;
                break;
            }
        }
        return n;
    }

    /// Turns `n` pages from `a` on into frames and merges the pages from `b` on into them (S9).
    /// \returns The pages of the first run that were visited.
    std::size_t merge_pair(rmap_item& a, rmap_item& b, std::size_t n) noexcept {
        if (outcomes_.lack.of_frames) {
            outcomes_.give_up(a, status::out_of_frames);
            return 1;
        }
        space& sa = space_of(a);
        space& sb = space_of(b);
        page_number const pa = page_of(a);
        page_number const pb = page_of(b);
        promotion const made = index_.provider.promote(sa.id, pa, page_count{n});
        index_.count(made.made.why, made.made.done.value());
        if (made.made.done.value() == 0) {
            outcomes_.give_up(a, made.made.why);
            outcomes_.lack.of_frames = made.made.why == status::out_of_frames;
            return 1;
        }
        std::size_t const promoted = made.made.done.value();
        for (std::size_t i = 1; i < promoted; ++i) {
            outcomes_.take(*index_.find(sa, pa + page_count{i}));
        }
        auto const undo_from = [&](std::size_t i, std::size_t pages) {
            outcomes_.make_private(sa, pa + page_count{i}, pages);
            index_.release(made.first + page_count{i}, page_count{pages});
        };
        for (std::size_t i = 0; i < promoted;) {
            progress const merged = index_.provider.merge(
                sb.id, pb + page_count{i}, page_count{promoted - i}, made.first + page_count{i});
            index_.count(merged.why, merged.done.value());
            for (std::size_t end = i + merged.done.value(); i < end; ++i) {
                rmap_item& mine = *index_.find(sa, pa + page_count{i});
                rmap_item& other = *index_.find(sb, pb + page_count{i});
                index_.detach(other);
                stable_node* const node =
                    make_stable_node(made.first + page_count{i}, index_.partitions[mine.partition]);
                if (node != nullptr) {
                    index_.hang(mine, *node);
                    index_.hang(other, *node);
                    wake_equals_of(*node);
                } else {
                    // No protected page is left outside the stable tree (S6, S21).
                    outcomes_.make_private(sb, pb + page_count{i}, 1);
                    undo_from(i, 1);
                }
            }
            if (i == promoted || merged.why == status::ok) {
                continue;
            }
            if (outcomes_.is_shortage(merged.why)) {
                outcomes_.note_shortage(merged.why);
                undo_from(i, promoted - i);
                break;
            }
            rmap_item& other = *index_.find(sb, pb + page_count{i});
            index_.detach(other);
            if (merged.why == status::gone) {
                index_.drop(other);
            } else if (merged.why != status::refused) {
                index_.revisit(other);
            }
            undo_from(i, 1);
            ++i;
        }
        return promoted;
    }

    /// A node in the stable tree; null without memory or when the content is there already.
    [[nodiscard]] stable_node* make_stable_node(frame_id frame, partition& p) noexcept {
        stable_node* const node = index_.make_node(frame, p);
        if (node == nullptr) {
            ++index_.counters.pages_skipped;
            return nullptr;
        }
        page_bytes const content = contents_.view(frame);
        // The frame holds what the page was when it was promoted, which no digest has seen.
        node->set_digest(contents_.digest_of(content, p));
        if constexpr (Policy::content_order) {
            forest_spot where;
            if (p.stable.find(0, contents_.frame_order_of(content), where) == nullptr) {
                p.stable.insert_at(*node, where);
                return node;
            }
        } else {
            stable_node* twin = p.stable.first_with(node->digest());
            while (twin != nullptr &&
                   !contents_.equal(content, contents_.view(index_type::frame_of(*twin)))) {
                twin = p.stable.next_with_same(*twin);
            }
            if (twin == nullptr) {
                p.stable.insert_by_digest(*node);
                return node;
            }
        }
        index_.discard_node(*node);
        return nullptr;
    }

    /// The item `i` pages behind `a` if it could be visited now and belongs to the partition.
    [[nodiscard]] rmap_item* follower_of(rmap_item& a, std::size_t i) noexcept {
        rmap_item* const item = index_.find(space_of(a), page_of(a) + page_count{i});
        bool const ready = item != nullptr && (rmap_chunk::of(*item).due & bit_of(*item)) != 0 &&
                           item->where() == item_state::loose && item->partition == a.partition &&
                           (is_settled(*item) || item->has_digest != 0);
        return ready ? item : nullptr;
    }

    index_type& index_;
    contents<Provider, Policy> contents_;
    attempts<Provider> outcomes_;
    merge_queue<Provider> queue_;
    tunables const& tunables_;
    rmap_item const* memo_item_ = nullptr; // whose digest a failed prediction took
    std::uint64_t memo_digest_ = 0;
    bool certain_ = false;
};

} // namespace detail
KSM_NAMESPACE_END

#endif
