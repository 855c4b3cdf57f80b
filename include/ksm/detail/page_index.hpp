// SPDX-License-Identifier: BSL-1.0
// The books: which page stands where, which frame has which sharers, and the counters that say so.
// Every change of an item's state goes through here, so that I4 and I6 are kept in one file.
#ifndef KSM_DETAIL_PAGE_INDEX_HPP
#define KSM_DETAIL_PAGE_INDEX_HPP

#include <algorithm>
#include <bit>
#include <cstdint>

#include <ksm/detail/partition.hpp>
#include <ksm/detail/sharers.hpp>
#include <ksm/detail/space.hpp>
#include <ksm/page_provider.hpp>
#include <ksm/statistics.hpp>

KSM_NAMESPACE_BEGIN
namespace detail {

[[nodiscard]] inline page_number page_of(rmap_item& item) noexcept {
    return page_number{rmap_chunk::number_of(item)};
}
[[nodiscard]] inline space& space_of(rmap_item& item) noexcept {
    return *rmap_chunk::of(item).owner;
}
[[nodiscard]] inline bool is_merged(rmap_item const& item) noexcept {
    return item.where() == item_state::stable || item.where() == item_state::zero;
}
[[nodiscard]] inline std::uint64_t bit_of(rmap_item const& item) noexcept {
    return std::uint64_t{1} << item.slot;
}

template <page_provider Provider>
class page_index {
  public:
    page_index(Provider& p, std::pmr::memory_resource* resource, bool forests_grow,
               std::uint64_t seed) noexcept
        : provider(p), memory(resource), entries(memory),
          partitions(memory, entries, forests_grow, seed), frames(memory, entries.nodes),
          sharing(entries) {}
    ~page_index() {
        spaces.clear_and_dispose([this](space* s) { memory.destroy(s); });
    }
    page_index(page_index const&) = delete;
    page_index& operator=(page_index const&) = delete;

    /// The item of a page, or null.
    [[nodiscard]] rmap_item* find(space& s, page_number page) noexcept {
        rmap_chunk* const c = s.table.find(page.value());
        if (c == nullptr) {
            return nullptr;
        }
        rmap_item& item = c->slots[page.value() % rmap_chunk::size];
        return item.where() == item_state::absent ? nullptr : &item;
    }

    /// The chunk of a page, made if need be; null without memory.
    [[nodiscard]] rmap_chunk* obtain_chunk(space& s, page_number page) noexcept {
        rmap_chunk* const c = s.table.obtain(page.value());
        if (c != nullptr && c->owner == nullptr) {
            c->owner = &s;
            ++s.chunks;
        }
        return c;
    }

    /// Begins to track the page of a free slot.
    void track(rmap_item& item) noexcept {
        rmap_chunk& c = rmap_chunk::of(item);
        item.go(item_state::loose);
        item.has_digest = 0;
        item.setbacks = 0;
        ++c.live;
        ++c.owner->items;
        ++counters.rmap_items;
    }

    /// Forgets a page (S4). Its chunk goes with its last page, unless a pass still has to meet it.
    void drop(rmap_item& item) noexcept {
        detach(item);
        rmap_chunk& c = rmap_chunk::of(item);
        item.go(item_state::absent);
        settle(item);
        --c.live;
        --c.owner->items;
        --counters.rmap_items;
        if (!c.is_linked()) {
            free_if_empty(c);
        }
    }

    /// Forgets the pages in [first, last). \complexity O(chunks that exist there).
    void drop_range(space& s, page_number first, page_number last) noexcept {
        rmap_chunk* c = first < last ? s.table.at_or_after(first.value()) : nullptr;
        while (c != nullptr && c->index * rmap_chunk::size < last.value()) {
            rmap_chunk* const next = s.table.after(*c);
            ++c->live; // keeps the chunk while its slots are walked
            for (rmap_item& item : c->slots) {
                if (item.where() != item_state::absent && page_of(item) >= first &&
                    page_of(item) < last) {
                    drop(item);
                }
            }
            --c->live;
            if (!c->is_linked()) {
                free_if_empty(*c);
            }
            c = next;
        }
    }

    void free_if_empty(rmap_chunk& c) noexcept {
        if (c.live == 0) {
            space& s = *c.owner;
            --s.chunks;
            s.table.remove(c);
        }
    }

    /// Takes an item out of whatever structure it is in. The last sharer takes its frame along.
    void detach(rmap_item& item) noexcept {
        switch (item.where()) {
        case item_state::absent:
        case item_state::loose: return;
        case item_state::unstable:
            partitions[item.partition].unstable.erase(item);
            --counters.pages_unshared;
            break;
        case item_state::stable: {
            stable_node& node = sharing.node_of(item);
            sharing.remove(node, item);
            --space_of(item).merging_pages;
            if (node.in_use()) {
                --counters.pages_sharing;
            } else {
                --counters.pages_shared;
                free_node(node);
            }
            break;
        }
        case item_state::zero:
            --space_of(item).zero_pages;
            --counters.ksm_zero_pages;
            break;
        case item_state::resting: break;
        }
        item.go(item_state::loose);
    }

    /// Has a page left alone for so many passes, or until it is visited all the same.
    /// \requires The item is loose.
    void rest(rmap_item& item, std::uint32_t passes) noexcept {
        item.go(item_state::resting);
        item.left = pass() + passes; // no structure uses the link meanwhile
    }
    [[nodiscard]] bool rests(rmap_item const& item) const noexcept {
        return item.where() == item_state::resting &&
               static_cast<std::int32_t>(item.left - pass()) > 0;
    }

    /// \requires The item is loose, and has been linked into the unstable tree of its partition.
    void enter_unstable(rmap_item& item) noexcept {
        item.go(item_state::unstable);
        ++counters.pages_unshared;
    }

    /// \requires The item is loose, and its page maps the node's frame.
    void hang(rmap_item& item, stable_node& node) noexcept {
        settle(item);
        ++(node.in_use() ? counters.pages_sharing : counters.pages_shared);
        ++space_of(item).merging_pages;
        sharing.append(node, item);
    }

    /// \requires The item is loose, and its page reads as zero through merge_zero.
    void hang_on_zero(rmap_item& item) noexcept {
        settle(item);
        item.go(item_state::zero);
        ++space_of(item).zero_pages;
        ++counters.ksm_zero_pages;
    }

    /// The node of a frame that has sharers, or null. \complexity As chunk_table::find.
    [[nodiscard]] stable_node* node_of(frame_id frame) noexcept {
        stable_chunk* const c = frames.find(frame.value());
        if (c == nullptr) {
            return nullptr;
        }
        stable_node& node = c->slots[frame.value() % stable_chunk::size];
        return node.in_use() ? &node : nullptr;
    }

    /// A node without sharers for a frame, in no tree yet; null without memory.
    [[nodiscard]] stable_node* make_node(frame_id frame, partition& p) noexcept {
        stable_chunk* const c = frames.obtain(frame.value());
        if (c == nullptr) {
            return nullptr;
        }
        ++c->live;
        stable_node& node = c->slots[frame.value() % stable_chunk::size];
        node.partition = p.index & (max_partitions - 1);
        return &node;
    }

    /// Forgets a node that never entered a tree; its frame is the caller's.
    void discard_node(stable_node& node) noexcept {
        stable_chunk& c = stable_chunk::of(node);
        if (--c.live == 0) {
            frames.remove(c);
        }
    }

    /// Gives frames back to the provider.
    void release(frame_id first, page_count count) noexcept {
        ++releases;
        provider.release(first, count);
    }

    [[nodiscard]] static frame_id frame_of(stable_node& node) noexcept {
        return frame_id{stable_chunk::number_of(node)};
    }

    /// Has the page visited in the next pass.
    void revisit(rmap_item& item) noexcept {
        rmap_chunk& c = rmap_chunk::of(item);
        c.pending |= bit_of(item);
        if (!c.is_linked()) {
            c.owner->active.push_back(c);
            c.owner->unsorted = true;
        }
    }

    /// Counts how a call that was to merge pages ended.
    void count(status why, std::size_t pages) noexcept {
        ++counters.by_status[static_cast<std::size_t>(why)];
        counters.merged_pages_total += pages;
        counters.runs_merged += pages == 0 ? 0 : 1;
        counters.longest_run = std::max<std::uint64_t>(counters.longest_run, pages);
    }

    Provider& provider;
    metadata_memory memory;
    directories entries;
    partition_table partitions;
    stable_table frames;
    sharers sharing;
    boost::intrusive::list<space, boost::intrusive::base_hook<list_hook>,
                           boost::intrusive::constant_time_size<false>>
        spaces; ///< In the order in which they are scanned.
    ksm::statistics counters;
    std::uint64_t releases = 0; ///< Calls of `release`: reports from before one may be outdated.

  private:
    [[nodiscard]] std::uint32_t pass() const noexcept {
        return static_cast<std::uint32_t>(counters.full_scans);
    }

    /// No visit is due any more.
    static void settle(rmap_item& item) noexcept {
        rmap_chunk& c = rmap_chunk::of(item);
        c.due &= ~bit_of(item);
        c.pending &= ~bit_of(item);
    }

    void free_node(stable_node& node) noexcept {
        frame_id const frame = frame_of(node);
        partitions[node.partition].stable.erase(node);
        discard_node(node);
        release(frame, page_count{1});
    }
};

} // namespace detail
KSM_NAMESPACE_END

#endif
