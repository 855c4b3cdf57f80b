// SPDX-License-Identifier: BSL-1.0
// The invariants of docs/invariants.md that the engine's own structures can show, as code.
#ifndef KSM_DETAIL_INVARIANTS_HPP
#define KSM_DETAIL_INVARIANTS_HPP

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <ksm/scanner.hpp>

KSM_NAMESPACE_BEGIN
namespace detail {

/// Expensive consistency check of a scanner, for tests.
template <class Scanner>
class inspector {
  public:
    explicit inspector(Scanner& s) noexcept : index_(s.index_), scanner_(s) {}

    /// \returns Null, or a sentence that begins with the invariant's number.
    /// \complexity O(everything that is tracked).
    [[nodiscard]] char const* broken() {
        items_ = {};
        for (auto const check : {&inspector::items, &inspector::unstable_trees,
                                 &inspector::stable_trees, &inspector::counters}) {
            if (char const* const what = (this->*check)()) {
                return what;
            }
        }
        return nullptr;
    }

    /// Whether the last call of `broken` met a page that rests.
    [[nodiscard]] bool any_rests() { return in_state(item_state::resting) != 0; }

    /// Calls `visit(frame, sharers)` for every stable node.
    template <class Visit>
    void for_each_frame(Visit&& visit) {
        for (partition* const p : index_.partitions) {
            p->stable.for_each([&](stable_node& n) {
                std::uint64_t sharers = 0;
                index_.sharing.for_each(n, [&](rmap_item&) { return ++sharers != 0; });
                visit(page_index_type::frame_of(n), sharers);
            });
        }
    }

  private:
    using index_type = decltype(Scanner::index_);
    using page_index_type = index_type;

    [[nodiscard]] std::uint64_t& in_state(item_state s) {
        return items_[static_cast<std::size_t>(s)];
    }

    char const* items() {
        for (space& s : index_.spaces) {
            std::uint64_t live = 0;
            std::uint64_t merging = 0;
            std::uint64_t zero = 0;
            for (rmap_chunk* c = s.table.at_or_after(0); c != nullptr; c = s.table.after(*c)) {
                std::uint64_t in_chunk = 0;
                for (rmap_item& item : c->slots) {
                    bool const awaited = ((c->due | c->pending) & bit_of(item)) != 0;
                    ++in_state(item.where());
                    in_chunk += item.where() == item_state::absent ? 0U : 1U;
                    merging += item.where() == item_state::stable ? 1U : 0U;
                    zero += item.where() == item_state::zero ? 1U : 0U;
                    if (awaited &&
                        (item.where() == item_state::absent || item.where() == item_state::stable ||
                         item.where() == item_state::zero)) {
                        return "I4: a page that is merged or gone awaits a visit";
                    }
                    if (item.where() == item_state::stable &&
                        index_.sharing.node_of(item).partition != item.partition) {
                        return "I2: a page shares a frame of another partition";
                    }
                }
                if (in_chunk != c->live || (in_chunk == 0 && !c->is_linked())) {
                    return "I6: a chunk's count of pages is wrong";
                }
                if ((c->due | c->pending) != 0 && !c->is_linked()) {
                    return "I4: a page awaits a visit in a chunk that no pass meets";
                }
                live += in_chunk;
            }
            if (live != s.items || merging != s.merging_pages || zero != s.zero_pages) {
                return "I6: the statistics of a space differ from a recount";
            }
        }
        return nullptr;
    }

    char const* unstable_trees() {
        std::uint64_t found = 0;
        char const* what = nullptr;
        for (partition* const p : index_.partitions) {
            rmap_item* previous = nullptr;
            p->unstable.for_each([&](rmap_item& item) {
                ++found;
                if (item.where() != item_state::unstable || item.partition != p->index) {
                    what = "I4: the unstable tree holds an item that says otherwise";
                }
                if (p->unstable.trees() > 1 || !content_order) {
                    if (previous != nullptr && item.digest() < previous->digest()) {
                        what = "I5: the unstable tree is out of order";
                    }
                }
                previous = &item;
            });
        }
        if (what == nullptr && found != in_state(item_state::unstable)) {
            what = "I4: an item says that it is in the unstable tree and is not";
        }
        return what;
    }

    char const* stable_trees() {
        std::uint64_t sharers = 0;
        char const* what = nullptr;
        for (partition* const p : index_.partitions) {
            stable_node* previous = nullptr;
            p->stable.for_each([&](stable_node& node) {
                auto const bytes = index_.provider.view(page_index_type::frame_of(node));
                if (bytes.size() != index_.provider.page_size()) {
                    what = "I3: a stable node names a frame that is not there";
                    return;
                }
                if (previous != nullptr) {
                    auto const before = index_.provider.view(page_index_type::frame_of(*previous));
                    int const order = std::memcmp(before.data(), bytes.data(), bytes.size());
                    bool const ascends =
                        content_order ? order < 0
                                      : previous->digest() < node.digest() ||
                                            (previous->digest() == node.digest() && order != 0);
                    if (!ascends) {
                        what = "I3: the stable tree is not strictly ordered";
                    }
                }
                if (!node.in_use()) {
                    what = "I11: a stable node has no sharer";
                    return;
                }
                index_.sharing.for_each(node, [&](rmap_item& item) {
                    if (item.where() != item_state::stable ||
                        &index_.sharing.node_of(item) != &node) {
                        what = "I4: a sharer does not name its node";
                    }
                    return what == nullptr && ++sharers <= in_state(item_state::stable);
                });
                previous = &node;
            });
        }
        if (what == nullptr && sharers != in_state(item_state::stable)) {
            what = "I4: an item says that it shares a frame and does not";
        }
        return what;
    }

    char const* counters() {
        statistics const s = scanner_.statistics();
        std::uint64_t nodes = 0;
        for_each_frame([&](frame_id, std::uint64_t) { ++nodes; });
        std::uint64_t const loose = in_state(item_state::loose) + in_state(item_state::resting);
        std::uint64_t const stable = in_state(item_state::stable);
        std::uint64_t const zero = in_state(item_state::zero);
        std::uint64_t const unstable = in_state(item_state::unstable);
        bool const same = s.pages_shared == nodes && s.pages_sharing == stable - nodes &&
                          s.pages_unshared == unstable && s.ksm_zero_pages == zero &&
                          s.rmap_items == loose + stable + zero + unstable &&
                          s.pages_volatile == loose;
        return same ? nullptr : "I6: the statistics differ from a recount";
    }

    static constexpr bool content_order = Scanner::policy_type::content_order;

    index_type& index_;
    Scanner& scanner_;
    std::array<std::uint64_t, 6> items_{};
};

} // namespace detail
KSM_NAMESPACE_END

#endif
