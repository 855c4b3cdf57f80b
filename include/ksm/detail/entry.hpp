// SPDX-License-Identifier: BSL-1.0
// What the scanner remembers of a page and of a stable frame.
#ifndef KSM_DETAIL_ENTRY_HPP
#define KSM_DETAIL_ENTRY_HPP

#include <cstdint>

#include <boost/intrusive/circular_list_algorithms.hpp>
#include <boost/intrusive/detail/rbtree_node.hpp>
#include <boost/intrusive/rbtree_algorithms.hpp>

#include <ksm/digest.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail {

/// Three words that link an entry into one structure at a time (I4).
using links = boost::intrusive::compact_rbtree_node<void*>;
using tree_traits = boost::intrusive::rbtree_node_traits<void*, true>;
using tree_algorithms = boost::intrusive::rbtree_algorithms<tree_traits>;

/// The same words as a ring: the sharers of a frame.
struct ring_traits {
    using node = links;
    using node_ptr = tree_traits::node_ptr;
    using const_node_ptr = tree_traits::const_node_ptr;
    static node_ptr get_next(const_node_ptr n) { return tree_traits::get_right(n); }
    static void set_next(node_ptr n, node_ptr next) { tree_traits::set_right(n, next); }
    static node_ptr get_previous(const_node_ptr n) { return tree_traits::get_left(n); }
    static void set_previous(node_ptr n, node_ptr prev) { tree_traits::set_left(n, prev); }
};
using ring_algorithms = boost::intrusive::circular_list_algorithms<ring_traits>;

/// Where an item stands. Exactly one of these holds at any time (I4).
enum class item_state : std::uint8_t {
    absent,   ///< No such page: the slot is free.
    loose,    ///< Tracked, in no structure.
    unstable, ///< In the unstable tree of its partition.
    stable,   ///< In the ring of a stable node.
    zero,     ///< Merged into the zero page.
};

inline constexpr unsigned partition_bits = 13;
inline constexpr std::uint32_t max_partitions = 1U << partition_bits;

/// What items and stable nodes have in common: a place in a tree under a frozen key.
struct entry : links {
    explicit entry(std::uint32_t slot_in_chunk) noexcept
        : links{}, digest(0), slot(slot_in_chunk & 63U), partition(0), state(0), has_digest(0),
          untracked(0) {}

    /// Freezes the key. \requires The entry is in no tree.
    void set_digest(std::uint64_t d) noexcept {
        digest = d & ((std::uint64_t{1} << digest_bits) - 1);
    }

    std::uint64_t digest : digest_bits;
    std::uint64_t slot : 6;
    std::uint64_t partition : partition_bits;
    std::uint64_t state : 3;
    std::uint64_t has_digest : 1; ///< `digest` is that of an earlier visit.
    std::uint64_t untracked : 1;  ///< The provider cannot tell whether the page was written.
};

struct stable_node;

/// One tracked page. Its space and address follow from its place in a chunk.
struct rmap_item : entry {
    using entry::entry;

    [[nodiscard]] item_state where() const noexcept {
        return static_cast<item_state>(static_cast<std::uint8_t>(state));
    }
    void go(item_state s) noexcept { state = static_cast<std::uint8_t>(s) & 7U; }

    /// \requires `where() == item_state::stable`.
    [[nodiscard]] stable_node* node() const noexcept;
};
// The kernel's rmap item takes 64 bytes; this size is the library's memory footprint.
static_assert(sizeof(rmap_item) == 32);

/// One stable frame, with the ring of its sharers. The frame follows from the place in a chunk.
struct stable_node : entry {
    using entry::entry;

    void append(rmap_item& item) noexcept {
        if (sharers == nullptr) {
            ring_algorithms::init_header(&item);
            sharers = &item;
        } else {
            ring_algorithms::link_before(sharers, &item);
        }
        tree_traits::set_parent(&item, this);
        item.go(item_state::stable);
    }

    void remove(rmap_item& item) noexcept {
        if (sharers == &item) {
            auto* const next = static_cast<rmap_item*>(ring_traits::get_next(&item));
            sharers = next == &item ? nullptr : next;
        }
        ring_algorithms::unlink(&item);
        item.go(item_state::loose);
    }

    [[nodiscard]] bool in_use() const noexcept { return sharers != nullptr; }

    rmap_item* sharers = nullptr; ///< Any item of the ring; null: there is none.
};
static_assert(sizeof(stable_node) == 40);

inline stable_node* rmap_item::node() const noexcept {
    return static_cast<stable_node*>(tree_traits::get_parent(this));
}

} // namespace detail
KSM_NAMESPACE_END

#endif
