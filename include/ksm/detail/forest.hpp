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
#include <ksm/detail/numbered_tree.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail {

/// Where a search that found nothing would insert.
struct forest_spot {
    entry_number parent = no_entry;
    bool is_left = true;
};

/// \tparam Directory  A chunk_directory of the entries.
template <class Directory>
class forest {
  public:
    using entry_type = typename Directory::slot_type;

    /// \param grows  Whether the number of trees follows the number of entries.
    forest(metadata_memory& memory, Directory const& entries, bool grows) noexcept
        : memory_(memory), entries_(entries), grows_(grows) {}
    ~forest() { memory_.destroy_array(many_, many_ == nullptr ? 0 : trees()); }
    forest(forest const&) = delete;
    forest& operator=(forest const&) = delete;

    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    [[nodiscard]] std::size_t trees() const noexcept { return std::size_t{1} << bits_; }

    /// Walks the tree of `digest`. `order(entry)` compares what is sought with an entry: less
    /// goes left, greater goes right. \returns An equal entry, or null and the spot.
    /// \complexity One comparison a level.
    template <class Order>
    [[nodiscard]] entry_type* find(std::uint64_t digest, Order&& order,
                                   forest_spot& where) noexcept {
        where = {tree::header_number, true};
        for (entry_number n = root_of(digest); n != no_entry;) {
            entry_type& e = entries_[n];
            std::strong_ordering const c = order(e);
            if (c == 0) {
                return &e;
            }
            where = {n, c < 0};
            n = c < 0 ? e.left : e.right;
        }
        return nullptr;
    }

    /// Links `e` where a search ended; nothing may have changed since.
    void insert_at(entry_type& e, forest_spot const& where) noexcept {
        link_at(e, where);
        ++size_;
        if (grows_ && size_ > entries_per_tree * trees() && bits_ < digest_bits) {
            rebuild(bits_ + 1);
        }
    }

    /// Links `e` behind the entries that are not greater by digest.
    void insert_by_digest(entry_type& e) noexcept { insert_at(e, spot_by_digest(e)); }

    void erase(entry_type& e) noexcept {
        {
            tree t{entries_, root_of(e.digest())};
            tree::algorithms::erase(t.header(), t.at(Directory::number_of(e)));
        }
        --size_;
        if (bits_ > 0 && size_ < trees()) {
            rebuild(bits_ - 1);
        }
    }

    /// The first entry with this digest, or null.
    [[nodiscard]] entry_type* first_with(std::uint64_t digest) noexcept {
        entry_type* found = nullptr;
        for (entry_number n = root_of(digest); n != no_entry;) {
            entry_type& e = entries_[n];
            if (e.digest() == digest) {
                found = &e;
            }
            n = e.digest() < digest ? e.right : e.left;
        }
        return found;
    }

    /// The entry behind `e` if it has the same digest, or null.
    [[nodiscard]] entry_type* next_with_same(entry_type& e) noexcept {
        tree t{entries_, root_of(e.digest())};
        auto const next = tree::algorithms::next_node(t.at(Directory::number_of(e)));
        if (next == t.header()) {
            return nullptr;
        }
        entry_type& n = entries_[next.number()];
        return n.digest() == e.digest() ? &n : nullptr;
    }

    /// Empties the forest, handing every entry to `dispose`. \complexity O(entries).
    template <class Dispose>
    void clear(Dispose&& dispose) noexcept {
        for (std::size_t i = 0; i < trees(); ++i) {
            tree t{entries_, root(i)};
            tree::algorithms::clear_and_dispose(
                t.header(), [&](auto node) { dispose(entries_[node.number()]); });
        }
        size_ = 0;
    }

    /// Calls `visit(entry)` in order.
    template <class Visit>
    void for_each(Visit&& visit) {
        for (std::size_t i = 0; i < trees(); ++i) {
            if (root(i) == no_entry) {
                continue;
            }
            tree t{entries_, root(i)};
            for (auto n = tree::algorithms::minimum(t.at(root(i))); n != t.header();
                 n = tree::algorithms::next_node(n)) {
                visit(entries_[n.number()]);
            }
        }
    }

  private:
    using tree = numbered_tree<Directory>;

    // At most this many entries a tree on average, and half as many after it has grown: three
    // levels. A root of four bytes costs an entry one or two; four where many entries have gone.
    static constexpr std::size_t entries_per_tree = 4;

    [[nodiscard]] entry_number& root(std::size_t i) noexcept {
        return many_ == nullptr ? single_ : many_[i];
    }
    [[nodiscard]] entry_number& root_of(std::uint64_t digest) noexcept {
        return root(static_cast<std::size_t>(digest >> (digest_bits - bits_)));
    }

    [[nodiscard]] forest_spot spot_by_digest(entry_type const& e) noexcept {
        forest_spot where;
        static_cast<void>(find(
            e.digest(),
            [&](entry_type const& other) {
                return e.digest() < other.digest() ? std::strong_ordering::less
                                                   : std::strong_ordering::greater;
            },
            where));
        return where;
    }

    void link_at(entry_type& e, forest_spot const& where) noexcept {
        tree t{entries_, root_of(e.digest())};
        typename tree::algorithms::insert_commit_data spot;
        spot.link_left = where.is_left;
        spot.node = t.at(where.parent);
        tree::algorithms::insert_unique_commit(t.header(), t.at(Directory::number_of(e)), spot);
    }

    // Without memory the forest stays as it is, and only its speed suffers.
    void rebuild(unsigned bits) noexcept {
        entry_number* const old = many_;
        std::size_t const old_trees = trees();
        auto* const fresh =
            bits == 0 ? nullptr : memory_.create_array<entry_number>(std::size_t{1} << bits);
        if (bits != 0 && fresh == nullptr) {
            return;
        }
        entry_number chain = no_entry; // all entries, linked through their right links
        std::size_t const size = size_;
        clear([&](entry_type& e) {
            e.right = chain;
            chain = Directory::number_of(e);
        });
        size_ = size;
        many_ = fresh;
        bits_ = bits;
        while (chain != no_entry) {
            entry_type& e = entries_[chain];
            chain = e.right;
            link_at(e, spot_by_digest(e));
        }
        memory_.destroy_array(old, old == nullptr ? 0 : old_trees);
    }

    metadata_memory& memory_;
    Directory const& entries_;
    entry_number single_ = no_entry;
    entry_number* many_ = nullptr;
    std::size_t size_ = 0;
    unsigned bits_ = 0;
    bool grows_;
};

} // namespace detail
KSM_NAMESPACE_END

#endif
