// SPDX-License-Identifier: BSL-1.0
// Looking at pages and frames: views, comparisons and digests, and the counters of these.
#ifndef KSM_DETAIL_CONTENTS_HPP
#define KSM_DETAIL_CONTENTS_HPP

#include <compare>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include <ksm/detail/page_index.hpp>
#include <ksm/page_provider.hpp>

KSM_NAMESPACE_BEGIN
namespace detail {

using page_bytes = std::span<std::byte const>;

/// \requires At least 8 bytes. Pages that are not zero mostly tell in the first word.
[[nodiscard]] inline bool is_zero(page_bytes bytes) noexcept {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data(), sizeof word);
    return word == 0 &&
           std::memcmp(bytes.data(), bytes.data() + sizeof word, bytes.size() - sizeof word) == 0;
}

template <class Provider, class Policy>
class contents {
  public:
    explicit contents(page_index<Provider>& index) noexcept : index_(index) {}

    [[nodiscard]] page_bytes view(rmap_item& a) noexcept {
        return index_.provider.view(space_of(a).id, page_of(a));
    }
    [[nodiscard]] page_bytes view(space& s, page_number page) noexcept {
        return index_.provider.view(s.id, page);
    }
    [[nodiscard]] page_bytes view(frame_id frame) noexcept { return index_.provider.view(frame); }

    [[nodiscard]] bool equal(page_bytes x, page_bytes y) noexcept { return order(x, y) == 0; }

    /// Whether both pages are there and have the same bytes now.
    [[nodiscard]] bool equal(rmap_item& a, rmap_item& b) noexcept {
        page_bytes const x = view(a);
        page_bytes const y = view(b);
        return !x.empty() && !y.empty() && equal(x, y);
    }
    /// Whether the page is there and zero now.
    [[nodiscard]] bool zero(space& s, page_number page) noexcept {
        page_bytes const bytes = view(s, page);
        return !bytes.empty() && is_zero(bytes);
    }

    [[nodiscard]] std::strong_ordering order(page_bytes x, page_bytes y) noexcept {
        ++index_.counters.pages_compared;
        return std::memcmp(x.data(), y.data(), x.size()) <=> 0;
    }

    /// Compares the page of `a` with an entry's. A page that is gone ends the walk as if equal.
    [[nodiscard]] auto content_order_of(rmap_item& a, bool* gone) noexcept {
        return [this, &a, gone](auto& e) {
            page_bytes const mine = view(a);
            page_bytes other;
            if constexpr (requires { e.sharer; }) {
                other = index_.provider.view(page_index<Provider>::frame_of(e));
            } else {
                other = view(e);
                if (other.empty()) {
                    *gone = true;
                    return std::strong_ordering::equal;
                }
            }
            return mine.empty() ? std::strong_ordering::less : order(mine, other);
        };
    }

    [[nodiscard]] auto frame_order_of(page_bytes content) noexcept {
        return [this, content](stable_node& e) {
            return order(content, index_.provider.view(page_index<Provider>::frame_of(e)));
        };
    }

    /// Zero pages have digest 0, so that they cost none.
    [[nodiscard]] std::uint64_t digest_of(page_bytes bytes, partition const& p) noexcept {
        if (is_zero(bytes)) {
            return 0;
        }
        ++index_.counters.digests;
        return Policy::digest(bytes, p.seed);
    }

  private:
    page_index<Provider>& index_;
};

} // namespace detail
KSM_NAMESPACE_END

#endif
