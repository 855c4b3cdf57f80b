// SPDX-License-Identifier: BSL-1.0
// Bits in the provider's own memory, and the runs that they form.
#ifndef KSM_PROVIDERS_LINUX_BIT_ROW_HPP
#define KSM_PROVIDERS_LINUX_BIT_ROW_HPP

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

/// A view; copies are views of the same bits.
class bit_row {
  public:
    bit_row() = default;
    /// \requires The words, `words_for(bits)` of them, are zero behind the last bit.
    bit_row(std::uint64_t* words, std::size_t bits) noexcept : words_(words), size_(bits) {}

    [[nodiscard]] static constexpr std::size_t words_for(std::size_t bits) noexcept {
        return (bits + 63) / 64;
    }
    [[nodiscard]] std::size_t size() const noexcept { return size_; }

    void fill(std::size_t first, std::size_t n, bool value) noexcept {
        for (std::size_t i = first; i < first + n;) {
            std::size_t const k = std::min(first + n - i, 64 - i % 64);
            std::uint64_t const mask = (k == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << k) - 1)
                                       << (i % 64);
            std::uint64_t& w = words_[i / 64];
            w = value ? w | mask : w & ~mask;
            i += k;
        }
    }
    /// The first set bit from `i` on, or `size()`.
    [[nodiscard]] std::size_t next(std::size_t i) const noexcept {
        while (i < size_) {
            std::uint64_t const w = words_[i / 64] >> (i % 64);
            if (w != 0) {
                return i + static_cast<std::size_t>(std::countr_zero(w));
            }
            i += 64 - i % 64;
        }
        return size_;
    }
    /// Bits from `i` on that are set without a gap; at most `most` are looked for.
    [[nodiscard]] std::size_t run(std::size_t i, std::size_t most) const noexcept {
        std::size_t n = 0;
        while (n < most && i + n < size_) {
            std::size_t const left = 64 - (i + n) % 64;
            auto const ones =
                static_cast<std::size_t>(std::countr_one(words_[(i + n) / 64] >> ((i + n) % 64)));
            n += ones;
            if (ones < left) {
                break;
            }
        }
        return std::min(n, most);
    }

    struct found {
        std::size_t at;   ///< `size()` if there is no such run.
        std::size_t most; ///< The longest run that was met; at least as long as wanted if found.
    };
    /// The first run of at least `wanted` bits from `from` on.
    [[nodiscard]] found find(std::size_t from, std::size_t wanted) const noexcept {
        std::size_t most = 0;
        for (std::size_t i = next(from); i < size_;) {
            std::size_t const n = run(i, wanted);
            if (n == wanted) {
                return {i, n};
            }
            most = std::max(most, n);
            i = next(i + n);
        }
        return {size_, most};
    }

  private:
    std::uint64_t* words_ = nullptr;
    std::size_t size_ = 0;
};

} // namespace detail::os
KSM_NAMESPACE_END

#endif
