// SPDX-License-Identifier: BSL-1.0
// The pages of a place that one window is about. They need not be consecutive.
#ifndef KSM_PROVIDERS_LINUX_PIECE_LIST_HPP
#define KSM_PROVIDERS_LINUX_PIECE_LIST_HPP

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

/// Consecutive pages, counted from the beginning of a place.
struct piece {
    std::size_t first = 0;
    std::size_t pages = 0;
};

class piece_list {
  public:
    /// Alternate pages of a mask.
    static constexpr std::size_t most = 32;

    piece_list() = default;
    /// The first pages, as one piece.
    [[nodiscard]] static piece_list run(std::size_t pages) noexcept {
        piece_list l;
        if (pages != 0) {
            l.add({0, pages});
        }
        return l;
    }
    /// A piece for each run of ones among the lowest `bits`. \requires The lowest one is set, and
    /// `bits` is not 0.
    [[nodiscard]] static piece_list of(std::uint64_t mask, std::size_t bits) noexcept {
        mask &= ~std::uint64_t{0} >> (64 - std::min<std::size_t>(bits, 64));
        piece_list l;
        for (std::size_t at = 0; mask != 0;) {
            at += static_cast<std::size_t>(std::countr_zero(mask));
            mask >>= std::countr_zero(mask);
            auto const ones = static_cast<std::size_t>(std::countr_one(mask));
            l.add({at, ones});
            at += ones;
            mask = ones < 64 ? mask >> ones : 0;
        }
        return l;
    }

    [[nodiscard]] piece const* begin() const noexcept { return pieces_.data(); }
    [[nodiscard]] piece const* end() const noexcept { return pieces_.data() + size_; }
    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    /// From the beginning of the place to the end of the last piece. \requires There is a piece.
    [[nodiscard]] std::size_t span() const noexcept {
        return pieces_[size_ - 1].first + pieces_[size_ - 1].pages;
    }
    /// Of all pieces together.
    [[nodiscard]] std::size_t pages() const noexcept { return pages_; }

    /// What is left of the piece that holds page number `i` of all of them, from that page on.
    /// \requires `i < pages()`.
    [[nodiscard]] piece from(std::size_t i) const noexcept {
        piece const* p = begin();
        for (; i >= p->pages; ++p) {
            i -= p->pages;
        }
        return {p->first + i, p->pages - i};
    }
    /// The first `n` pieces, or all.
    [[nodiscard]] piece_list front(std::size_t n) const noexcept {
        piece_list l;
        for (piece const* p = begin(); p != begin() + std::min(n, size_); ++p) {
            l.add(*p);
        }
        return l;
    }
    /// The first `n` pages of all of them.
    [[nodiscard]] piece_list lowest(std::size_t n) const noexcept {
        piece_list l;
        for (piece const& p : *this) {
            std::size_t const here = std::min(n - l.pages_, p.pages);
            if (here == 0) {
                break;
            }
            l.add({p.first, here});
        }
        return l;
    }

  private:
    void add(piece p) noexcept {
        pieces_[size_++] = p;
        pages_ += p.pages;
    }

    std::array<piece, most> pieces_;
    std::size_t size_ = 0;
    std::size_t pages_ = 0;
};

} // namespace detail::os
KSM_NAMESPACE_END

#endif
