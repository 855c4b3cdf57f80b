// SPDX-License-Identifier: BSL-1.0
// Boost.Intrusive's red-black tree over entries that are linked by numbers.
#ifndef KSM_DETAIL_NUMBERED_TREE_HPP
#define KSM_DETAIL_NUMBERED_TREE_HPP

#include <boost/intrusive/rbtree_algorithms.hpp>

#include <ksm/detail/entry.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail {

/// A tree while an operation is done on it. All that remains of it in between is the number of its
/// root: the header node that the algorithms work with exists here only, and without the first and
/// the last entry that they would keep in it.
template <class Directory>
class numbered_tree {
  public:
    static constexpr entry_number header_number = Directory::reserved;

    /// What the algorithms take for a pointer.
    class pointer {
      public:
        using element_type = links;

        pointer() = default;
        pointer(numbered_tree* tree, entry_number n) noexcept : tree_(tree), number_(n) {}

        [[nodiscard]] entry_number number() const noexcept { return number_; }
        [[nodiscard]] pointer other(entry_number n) const noexcept { return {tree_, n}; }
        [[nodiscard]] links* operator->() const noexcept {
            return number_ == header_number ? &tree_->header_ : &tree_->entries_[number_];
        }
        [[nodiscard]] links& operator*() const noexcept { return *operator->(); }
        [[nodiscard]] explicit operator bool() const noexcept { return number_ != no_entry; }
        [[nodiscard]] bool operator!() const noexcept { return number_ == no_entry; }
        [[nodiscard]] friend bool operator==(pointer a, pointer b) noexcept {
            return a.number_ == b.number_;
        }
        [[nodiscard]] static pointer const_cast_from(pointer p) noexcept { return p; }

      private:
        numbered_tree* tree_ = nullptr;
        entry_number number_ = no_entry;
    };

    struct traits {
        using node = links;
        using node_ptr = pointer;
        using const_node_ptr = pointer;
        using color = bool;
        static color black() noexcept { return false; }
        static color red() noexcept { return true; }
        static pointer get_parent(pointer n) noexcept { return n.other(n->parent); }
        static pointer get_left(pointer n) noexcept { return n.other(n->left); }
        static pointer get_right(pointer n) noexcept { return n.other(n->right); }
        static color get_color(pointer n) noexcept { return n->is_red != 0; }
        static void set_parent(pointer n, pointer to) noexcept {
            n->parent = to.number() & header_number;
        }
        static void set_left(pointer n, pointer to) noexcept { n->left = to.number(); }
        static void set_right(pointer n, pointer to) noexcept { n->right = to.number(); }
        static void set_color(pointer n, color c) noexcept { n->is_red = c ? 1U : 0U; }
    };
    using algorithms = boost::intrusive::rbtree_algorithms<traits>;

    numbered_tree(Directory const& entries, entry_number& root) noexcept
        : entries_(entries), root_(root), header_{no_entry, no_entry, root & header_number, 1} {}
    ~numbered_tree() { root_ = header_.parent; }
    numbered_tree(numbered_tree const&) = delete;
    numbered_tree& operator=(numbered_tree const&) = delete;

    [[nodiscard]] pointer at(entry_number n) noexcept { return {this, n}; }
    [[nodiscard]] pointer header() noexcept { return at(header_number); }

  private:
    Directory const& entries_;
    entry_number& root_;
    links header_;
};

} // namespace detail
KSM_NAMESPACE_END

#endif
