// SPDX-License-Identifier: BSL-1.0
// The frames of a simulated machine, with reference counts. Knows no pages.
#ifndef KSM_PROVIDERS_SIMULATED_FRAMES_HPP
#define KSM_PROVIDERS_SIMULATED_FRAMES_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <ksm/config.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail {

/// Numbered frames. A number is never used twice, so that a stale one is found out.
class simulated_frames {
  public:
    using number = std::uint64_t;
    static constexpr number zero = 0; ///< The zero page: always there, never counted.
    static constexpr std::size_t no_limit = std::numeric_limits<std::size_t>::max();

    simulated_frames(std::size_t frame_size, number first) : next_(first), zeros_(frame_size) {}

    std::size_t limit = no_limit;

    [[nodiscard]] std::size_t in_use() const noexcept { return frames_.size(); }
    [[nodiscard]] std::size_t available() const noexcept {
        return limit - std::min(limit, frames_.size());
    }

    /// Takes `n` consecutive numbers. \returns The first of them.
    number take_numbers(std::size_t n) noexcept { return std::exchange(next_, next_ + n); }

    /// A frame that no page maps yet; a stable one stays until it is released.
    void add(number n, std::span<std::byte const> content, bool stable, std::uint32_t domain) {
        KSM_ASSERT(n != zero && !frames_.contains(n), "a frame number is used once");
        auto& f = frames_[n];
        f.bytes.assign(content.begin(), content.end());
        f.stable = stable;
        f.domain = domain;
        f.checksum = stable ? checksum(content) : 0;
    }
    /// Takes back a stable frame that no page has mapped.
    void discard(number n) noexcept { frames_.erase(n); }

    [[nodiscard]] std::span<std::byte const> bytes(number n) const noexcept {
        auto const found = frames_.find(n);
        return found == frames_.end() ? std::span{zeros_} : std::span{found->second.bytes};
    }
    [[nodiscard]] std::span<std::byte const> zeros() const noexcept { return zeros_; }

    /// The security domain whose pages may map a stable frame (I2).
    [[nodiscard]] std::uint32_t domain(number n) const noexcept {
        auto const found = frames_.find(n);
        return found == frames_.end() ? 0 : found->second.domain;
    }

    [[nodiscard]] bool exists(number n) const noexcept { return n == zero || frames_.contains(n); }
    [[nodiscard]] bool is_stable(number n) const noexcept {
        auto const found = frames_.find(n);
        return found != frames_.end() && found->second.stable;
    }
    /// Stable and not released.
    [[nodiscard]] bool is_live(number n) const noexcept {
        auto const found = frames_.find(n);
        return found != frames_.end() && found->second.stable && !found->second.released;
    }
    /// What a store must not change in place: a stable frame, the zero page, and a frame that
    /// other pages map too.
    [[nodiscard]] bool is_copied_on_write(number n) const noexcept {
        return n == zero || is_stable(n) || references(n) > 1;
    }
    [[nodiscard]] std::size_t references(number n) const noexcept {
        auto const found = frames_.find(n);
        return found == frames_.end() ? 0 : found->second.references;
    }

    /// \requires  `!is_copied_on_write(n)`.
    void write(number n, std::size_t offset, std::span<std::byte const> data) noexcept {
        std::ranges::copy(data, frames_.find(n)->second.bytes.begin() +
                                    static_cast<std::ptrdiff_t>(offset));
    }

    void share(number n) noexcept {
        if (n != zero) {
            ++frames_.find(n)->second.references;
        }
    }
    void drop(number n) noexcept {
        if (n != zero) {
            auto const found = frames_.find(n);
            --found->second.references;
            reclaim_if_unused(found);
        }
    }
    /// \requires  `is_live(n)`.
    void release(number n) noexcept {
        auto const found = frames_.find(n);
        found->second.released = true;
        reclaim_if_unused(found);
    }

    /// Compares with the pages that map each frame, recounted.
    /// \returns  What is wrong, or an empty string.
    [[nodiscard]] std::string_view
    verify(std::unordered_map<number, std::size_t>& recounted) const {
        for (auto const& [n, f] : frames_) {
            if (f.references != recounted[n]) {
                return "a reference count is wrong";
            }
            if (f.references == 0 && (!f.stable || f.released)) {
                return "an unused frame was not reclaimed";
            }
            if (f.stable && f.checksum != checksum(f.bytes)) {
                return "a stable frame changed (I3)";
            }
        }
        if (std::ranges::any_of(zeros_, [](std::byte b) { return b != std::byte{}; })) {
            return "the zero page changed (I3)";
        }
        return "";
    }

  private:
    struct frame {
        std::vector<std::byte> bytes;
        std::size_t references = 0; ///< Pages that map it.
        std::uint32_t domain = 0;
        bool stable = false;
        bool released = false;
        std::size_t checksum = 0; ///< Of a stable frame, taken at promotion.
    };
    using table = std::unordered_map<number, frame>;

    // I11: no page may map a frame whose memory is reclaimed.
    void reclaim_if_unused(table::iterator f) noexcept {
        if (f->second.references == 0 && (!f->second.stable || f->second.released)) {
            frames_.erase(f);
        }
    }

    [[nodiscard]] static std::size_t checksum(std::span<std::byte const> content) noexcept {
        return std::hash<std::string_view>{}(
            {reinterpret_cast<char const*>(content.data()), content.size()});
    }

    table frames_;
    number next_;
    std::vector<std::byte> zeros_;
};

} // namespace detail
KSM_NAMESPACE_END

#endif
