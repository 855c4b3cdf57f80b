// SPDX-License-Identifier: BSL-1.0
// What becomes of pages that were not merged, or are to be private again.
#ifndef KSM_DETAIL_ATTEMPTS_HPP
#define KSM_DETAIL_ATTEMPTS_HPP

#include <cstddef>

#include <ksm/detail/page_index.hpp>
#include <ksm/outcome.hpp>

KSM_NAMESPACE_BEGIN
namespace detail {

template <class Provider>
class attempts {
  public:
    explicit attempts(page_index<Provider>& index) noexcept : index_(index) {}

    /// Why merging has stopped for this pass; `ok` while it goes on.
    status halt = status::ok;

    [[nodiscard]] static constexpr bool stops_merging(status s) noexcept {
        return s == status::out_of_frames || s == status::out_of_mappings ||
               s == status::out_of_memory;
    }

    /// The page is being visited.
    static void take(rmap_item& a) noexcept { rmap_chunk::of(a).due &= ~bit_of(a); }

    /// A page was not merged for a reason of its own; `ok`: it was not its turn.
    void give_up(rmap_item& a, status why) noexcept {
        index_.detach(a);
        if (stops_merging(why)) {
            halt = why;
            index_.revisit(a);
        } else if (why == status::gone) {
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
