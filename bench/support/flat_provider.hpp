// SPDX-License-Identifier: BSL-1.0
// The cheapest provider that there can be, so that what is measured is the engine: one space, a
// plain array that only its owner writes, and tracking by a bit a page. ksm::simulated_provider
// copies each page that is looked at and keeps a map of frames, which would drown the engine.
#ifndef KSM_BENCH_SUPPORT_FLAT_PROVIDER_HPP
#define KSM_BENCH_SUPPORT_FLAT_PROVIDER_HPP

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include <ksm/page_provider.hpp>

namespace bench {

class flat_provider {
  public:
    static constexpr ksm::space_id space{1};

    /// \requires `memory` holds a multiple of 64 pages.
    flat_provider(std::span<std::byte> memory, std::size_t page_size)
        : memory_(memory), page_size_(page_size),
          written_(memory.size() / page_size / 64, ~std::uint64_t{0}) {}

    /// Has the next survey report a page as written.
    void touch(std::size_t page) noexcept {
        written_[page / 64] |= std::uint64_t{1} << (page % 64);
    }

    [[nodiscard]] std::size_t page_size() const noexcept { return page_size_; }

    // The first survey reports every page, for all of them start as written. Not inlined, so that
    // it is the same code wherever it is timed.
    [[gnu::noinline]] ksm::survey_result survey(ksm::space_id, ksm::page_number from, ksm::coverage,
                                                std::span<ksm::page_run> out) noexcept {
        std::size_t n = 0;
        std::size_t page = from.value();
        std::size_t w = page / 64;
        for (; w < written_.size() && n < out.size(); ++w) {
            while (written_[w] != 0 && n < out.size()) {
                auto const first = static_cast<unsigned>(std::countr_zero(written_[w]));
                auto const length = static_cast<unsigned>(std::countr_one(written_[w] >> first));
                written_[w] &= ~((~std::uint64_t{0} >> (64 - length)) << first);
                out[n++] = {ksm::page_number{64 * w + first},
                            ksm::page_count{length},
                            ksm::page_state::written,
                            {},
                            0,
                            0,
                            false};
            }
            if (written_[w] != 0) {
                break;
            }
        }
        return {n, ksm::page_number{64 * w}, w == written_.size(), ksm::coverage::changes};
    }

    std::span<std::byte const> view(ksm::space_id, ksm::page_number page) noexcept {
        return bytes(page.value());
    }
    std::span<std::byte const> view(ksm::frame_id frame) noexcept {
        return bytes(frames_[frame.value()]);
    }

    // A frame is the page that was promoted, for nobody writes it again.
    ksm::promotion promote(ksm::space_id, ksm::page_number first, ksm::page_count n) noexcept {
        ksm::frame_id const frame{frames_.size()};
        for (std::size_t i = 0; i < n.value(); ++i) {
            frames_.push_back(static_cast<std::uint32_t>(first.value() + i));
        }
        return {frame, {n, ksm::status::ok}};
    }

    ksm::progress merge(ksm::space_id, ksm::page_number first, ksm::page_count n,
                        ksm::frame_id frame) noexcept {
        for (std::size_t i = 0; i < n.value(); ++i) {
            auto const mine = bytes(first.value() + i);
            if (std::memcmp(mine.data(), view(frame + ksm::page_count{i}).data(), page_size_) !=
                0) {
                return {ksm::page_count{i}, ksm::status::changed};
            }
        }
        return {n, ksm::status::ok};
    }

    ksm::progress merge_zero(ksm::space_id, ksm::page_set pages) noexcept {
        ksm::page_count const all = pages.count();
        for (; !pages.empty(); pages = pages.without(ksm::page_count{1})) {
            auto const mine = bytes(pages.first.value());
            if (mine[0] != std::byte{} ||
                std::memcmp(mine.data(), mine.data() + 1, page_size_ - 1) != 0) {
                return {all - pages.count(), ksm::status::changed};
            }
        }
        return {all, ksm::status::ok};
    }

    ksm::progress unmerge(ksm::space_id, ksm::page_number, ksm::page_count n) noexcept {
        return {n, ksm::status::ok};
    }

    void release(ksm::frame_id, ksm::page_count) noexcept {}

  private:
    [[nodiscard]] std::span<std::byte const> bytes(std::uint64_t page) const noexcept {
        return memory_.subspan(page * page_size_, page_size_);
    }

    std::span<std::byte> memory_;
    std::size_t page_size_;
    std::vector<std::uint64_t> written_;
    std::vector<std::uint32_t> frames_;
};

static_assert(ksm::check_page_provider<flat_provider>());

} // namespace bench

#endif
