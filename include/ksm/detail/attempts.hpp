// SPDX-License-Identifier: BSL-1.0
// What becomes of pages that were not merged, or are to be private again.
#ifndef KSM_DETAIL_ATTEMPTS_HPP
#define KSM_DETAIL_ATTEMPTS_HPP

#include <cstddef>

#include <ksm/detail/page_index.hpp>
#include <ksm/outcome.hpp>

KSM_NAMESPACE_BEGIN
namespace detail {

/// What some pages of a pass could not have.
struct shortage {
    status first = status::ok; ///< `ok`: nothing was short.
    /// The next promotion would fail as the last one did. Mappings and memory are different: one
    /// run needs less than another.
    bool of_frames = false;
};

template <class Provider>
class attempts {
  public:
    explicit attempts(page_index<Provider>& index) noexcept : index_(index) {}

    detail::shortage lack;

    [[nodiscard]] static constexpr bool is_shortage(status s) noexcept {
        return s == status::out_of_frames || s == status::out_of_mappings ||
               s == status::out_of_memory;
    }
    void note_shortage(status s) noexcept {
        if (is_shortage(s) && lack.first == status::ok) {
            lack.first = s;
        }
    }

    /// The page is being visited.
    static void take(rmap_item& a) noexcept { rmap_chunk::of(a).due &= ~bit_of(a); }

    /// A page was not merged for a reason of its own; `ok`: it was not its turn.
    void give_up(rmap_item& a, status why) noexcept {
        index_.detach(a);
        note_shortage(why);
        if (why == status::gone) {
            index_.drop(a);
        } else if (why != status::refused) {
            index_.revisit(a);
        }
    }

    /// Gives pages private copies again, and has them visited again. A page that cannot have one
    /// goes on to map a frame without a node, which the provider keeps for it: nothing is lost.
    void make_private(space& s, page_number first, std::size_t pages) noexcept {
        for (std::size_t done = 0; done < pages;) {
            progress const p =
                index_.provider.unmerge(s.id, first + page_count{done}, page_count{pages - done});
            done += p.done.value() + (p.why == status::ok ? 0 : 1);
        }
        for (std::size_t i = 0; i < pages; ++i) {
            index_.revisit(*index_.find(s, first + page_count{i}));
        }
    }

  private:
    page_index<Provider>& index_;
};

} // namespace detail
KSM_NAMESPACE_END

#endif
