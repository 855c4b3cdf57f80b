// SPDX-License-Identifier: BSL-1.0
// Red-black trees of entries. In digest order the top bits of the digest choose one of 2^k small
// trees, so that a look-up misses the cache a few times instead of twenty; k = 0 is the plain
// tree, which content order needs.
#ifndef KSM_DETAIL_FOREST_HPP
#define KSM_DETAIL_FOREST_HPP

#include <compare>
#include <cstddef>
#include <cstdint>

#include <ksm/detail/entry.hpp>
#include <ksm/detail/memory.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail {

template <class Entry>
class forest {
  public:
    /// Where a search that found nothing would insert.
    using spot = tree_algorithms::insert_commit_data;

    /// \param grows  Whether the number of trees follows the number of entries.
    forest(metadata_memory& memory, bool grows) noexcept : memory_(memory), grows_(grows) {
        tree_algorithms::init_header(&single_);
    }
    ~forest() { memory_.destroy_array(many_, many_ == nullptr ? 0 : trees()); }
    forest(forest const&) = delete;
    forest& operator=(forest const&) = delete;

    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    [[nodiscard]] std::size_t trees() const noexcept { return std::size_t{1} << bits_; }

    /// Walks the tree of `digest`. `order(entry)` compares what is sought with an entry: less
    /// goes left, greater goes right. \returns An equal entry, or null and the spot.
    /// \complexity One comparison a level.
    template <class Order>
    [[nodiscard]] Entry* find(std::uint64_t digest, Order&& order, spot& where) noexcept {
        links* const header = header_of(digest);
        links* parent = header;
        links* node = tree_traits::get_parent(header);
        bool left = true;
        while (node != nullptr) {
            auto* const e = static_cast<Entry*>(node);
            std::strong_ordering const c = order(*e);
            if (c == 0) {
                return e;
            }
            parent = node;
            left = c < 0;
            node = left ? tree_traits::get_left(node) : tree_traits::get_right(node);
        }
        where.link_left = left;
        where.node = parent;
        return nullptr;
    }

    /// Links `e` where a search ended; nothing may have changed since.
    void insert_at(Entry& e, spot const& where) noexcept {
        tree_algorithms::insert_unique_commit(header_of(e.digest), &e, where);
        grown();
    }

    /// Links `e` behind the entries that are not greater by digest.
    void insert_by_digest(Entry& e) noexcept {
        link_by_digest(e);
        grown();
    }

    void erase(Entry& e) noexcept {
        tree_algorithms::erase(header_of(e.digest), &e);
        --size_;
        if (bits_ > 0 && size_ < trees()) {
            rebuild(bits_ - 1);
        }
    }

    /// The first entry with this digest, or null.
    [[nodiscard]] Entry* first_with(std::uint64_t digest) noexcept {
        Entry* found = nullptr;
        for (links* node = tree_traits::get_parent(header_of(digest)); node != nullptr;) {
            auto* const e = static_cast<Entry*>(node);
            if (e->digest == digest) {
                found = e;
            }
            node = e->digest < digest ? tree_traits::get_right(node) : tree_traits::get_left(node);
        }
        return found;
    }

    /// The entry behind `e` if it has the same digest, or null.
    [[nodiscard]] Entry* next_with_same(Entry& e) noexcept {
        links* const next = tree_algorithms::next_node(&e);
        if (next == header_of(e.digest)) {
            return nullptr;
        }
        auto* const n = static_cast<Entry*>(next);
        return n->digest == e.digest ? n : nullptr;
    }

    /// Empties the forest, handing every entry to `dispose`. \complexity O(entries).
    template <class Dispose>
    void clear(Dispose&& dispose) noexcept {
        for (std::size_t i = 0; i < trees(); ++i) {
            tree_algorithms::clear_and_dispose(
                header(i), [&](links* node) { dispose(static_cast<Entry&>(*node)); });
        }
        size_ = 0;
    }

    /// Calls `visit(entry)` in order.
    template <class Visit>
    void for_each(Visit&& visit) {
        for (std::size_t i = 0; i < trees(); ++i) {
            links* const end = header(i);
            for (links* n = tree_traits::get_left(end); n != end;
                 n = tree_algorithms::next_node(n)) {
                visit(static_cast<Entry&>(*n));
            }
        }
    }

  private:
    // At most this many entries a tree on average: three levels below the root, and a header of
    // 24 bytes costs an entry 3 to 6 bytes.
    static constexpr std::size_t entries_per_tree = 8;

    [[nodiscard]] links* header(std::size_t tree) noexcept {
        return many_ == nullptr ? &single_ : many_ + tree;
    }
    [[nodiscard]] links* header_of(std::uint64_t digest) noexcept {
        return header(static_cast<std::size_t>(digest >> (digest_bits - bits_)));
    }

    void link_by_digest(Entry& e) noexcept {
        tree_algorithms::insert_equal_upper_bound(
            header_of(e.digest), &e, [](links const* a, links const* b) {
                return static_cast<Entry const*>(a)->digest < static_cast<Entry const*>(b)->digest;
            });
    }

    void grown() noexcept {
        ++size_;
        if (grows_ && size_ > entries_per_tree * trees() && bits_ < digest_bits) {
            rebuild(bits_ + 1);
        }
    }

    // Without memory the forest stays as it is, and only its speed suffers.
    void rebuild(unsigned bits) noexcept {
        links* const old = many_;
        std::size_t const old_trees = trees();
        links* const fresh =
            bits == 0 ? nullptr : memory_.create_array<links>(std::size_t{1} << bits);
        if (bits != 0 && fresh == nullptr) {
            return;
        }
        links* chain = nullptr; // all entries, linked through their right pointers
        for (std::size_t i = 0; i < old_trees; ++i) {
            tree_algorithms::clear_and_dispose(header(i), [&](links* node) {
                tree_traits::set_right(node, chain);
                chain = node;
            });
        }
        many_ = fresh;
        bits_ = bits;
        for (std::size_t i = 0; i < trees(); ++i) {
            tree_algorithms::init_header(header(i));
        }
        while (chain != nullptr) {
            links* const node = chain;
            chain = tree_traits::get_right(node);
            link_by_digest(static_cast<Entry&>(*node));
        }
        memory_.destroy_array(old, old == nullptr ? 0 : old_trees);
    }

    metadata_memory& memory_;
    links single_{};
    links* many_ = nullptr;
    std::size_t size_ = 0;
    unsigned bits_ = 0;
    bool grows_;
};

} // namespace detail
KSM_NAMESPACE_END

#endif
