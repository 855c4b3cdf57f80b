// SPDX-License-Identifier: BSL-1.0
// The items whose pages share a frame: a ring that the frame's node holds by one of them.
#ifndef KSM_DETAIL_SHARERS_HPP
#define KSM_DETAIL_SHARERS_HPP

#include <ksm/detail/entry.hpp>
#include <ksm/detail/partition.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail {

class sharers {
  public:
    explicit sharers(directories const& entries) noexcept : entries_(entries) {}

    /// \requires The item is in no structure.
    void append(stable_node& node, rmap_item& item) noexcept {
        entry_number const n = item_directory::number_of(item);
        if (!node.in_use()) {
            node.sharer = n;
            item.left = n;
        } else {
            rmap_item& first = entries_.items[node.sharer];
            item.left = first.left;
            entries_.items[first.left].right = n;
            first.left = n;
        }
        item.right = node.sharer;
        item.parent = node_directory::number_of(node) & node_directory::reserved;
        item.go(item_state::stable);
    }

    /// \requires `item` shares the frame of `node`.
    void remove(stable_node& node, rmap_item& item) noexcept {
        entry_number const n = item_directory::number_of(item);
        if (node.sharer == n) {
            node.sharer = item.right == n ? no_entry : item.right;
        }
        entries_.items[item.left].right = item.right;
        entries_.items[item.right].left = item.left;
        item.go(item_state::loose);
    }

    /// \requires `item.where() == item_state::stable`.
    [[nodiscard]] stable_node& node_of(rmap_item const& item) const noexcept {
        return entries_.nodes[item.parent];
    }

    /// Calls `visit(item)`, which changes nothing, for the sharers of a frame until it answers
    /// false.
    template <class Visit>
    void for_each(stable_node const& node, Visit&& visit) const {
        bool more = node.in_use();
        for (entry_number n = node.sharer; more;) {
            rmap_item& item = entries_.items[n];
            n = item.right;
            more = visit(item) && n != node.sharer;
        }
    }

  private:
    directories const& entries_;
};

} // namespace detail
KSM_NAMESPACE_END

#endif
