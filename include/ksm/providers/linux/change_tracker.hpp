// SPDX-License-Identifier: BSL-1.0
// Which pages were written since they were last asked about: PAGEMAP_SCAN over memory that a
// userfaultfd write-protects asynchronously (Linux 6.7). The first write to a page after it was
// armed costs the writer a fault, so pages that are written all the time are armed less and less
// often, and pass for written in between.
#ifndef KSM_PROVIDERS_LINUX_CHANGE_TRACKER_HPP
#define KSM_PROVIDERS_LINUX_CHANGE_TRACKER_HPP

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>

#include <ksm/page_provider.hpp>
#include <ksm/providers/linux/own_memory.hpp>
#include <ksm/providers/linux/pagemap.hpp>
#include <ksm/providers/linux/userfault.hpp>
#include <ksm/types.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

class change_tracker {
  public:
    change_tracker(userfault const& faults, pagemap& entries, bool wanted,
                   unsigned page_shift) noexcept
        : faults_(faults), entries_(entries), page_shift_(page_shift),
          heat_(wanted && faults.has(userfault::write_protect | userfault::track_writes)
                    ? static_cast<std::uint8_t*>(own_map(blocks))
                    : nullptr) {}
    ~change_tracker() {
        if (heat_ != nullptr) {
            sys::munmap(heat_, blocks);
        }
    }
    change_tracker(change_tracker const&) = delete;
    change_tracker& operator=(change_tracker const&) = delete;

    [[nodiscard]] bool available() const noexcept { return heat_ != nullptr && !disabled_; }

    /// A walk over all regions begins.
    void begin_walk(coverage wanted) noexcept {
        // An application that closes all descriptors ends tracking.
        disabled_ = disabled_ || (heat_ != nullptr && !faults_.intact());
        // Who asks for every page twice in a row has no use for tracking.
        arming_ = available() && (wanted == coverage::changes || last_ == coverage::changes);
        last_ = wanted;
        if (wanted == coverage::changes) {
            looks_for_copies_ = copy_walks_to_skip_ == 0;
            if (looks_for_copies_) {
                ++quiet_;
                copy_walks_to_skip_ = (1U << (std::min(quiet_, 5U) - 1)) - 1; // 0, 1, 3, 7, 15
            } else {
                --copy_walks_to_skip_;
            }
        }
    }
    /// Whether a walk that lists every page arms them.
    [[nodiscard]] bool arming() const noexcept { return arming_ && available(); }
    /// Looking for broken copy-on-write costs time for each mapping, so that it is done less and
    /// less often (at most every sixteenth walk) while nothing is found.
    [[nodiscard]] bool looks_for_copies() const noexcept { return looks_for_copies_; }
    /// Pages were merged, or a copy was found.
    void expect_copies() noexcept {
        quiet_ = 0;
        copy_walks_to_skip_ = 0;
    }

    /// Anonymous memory becomes tracked; all of it passes for written. False: it cannot be.
    bool enroll(std::byte const* at, std::size_t bytes) noexcept {
        return available() && faults_.enroll(at, bytes, userfault::protected_from_writes) == 0;
    }
    void dismiss(std::byte const* at, std::size_t bytes) noexcept {
        if (available()) {
            static_cast<void>(faults_.dismiss(at, bytes));
        }
    }

    struct answer {
        std::size_t ranges = 0;
        page_number end;     ///< What was looked at ends here.
        bool failed = false; ///< Nothing is known of the pages from `end` on.
    };
    /// Finds written pages of a range, in ranges, and arms those that are not hot.
    [[nodiscard]] answer written(page_range range, std::span<page_range> out) noexcept {
        answer a{0, range.first, false};
        while (a.end < range.end() && a.ranges < out.size() && !a.failed) {
            page_number const end = same_mood(a.end, range.end());
            bool const arm = !is_hot(a.end);
            answer const part = scan({a.end, end - a.end}, arm, out.subspan(a.ranges));
            note({a.end, part.end - a.end}, out.subspan(a.ranges, part.ranges), arm);
            a.ranges += part.ranges;
            a.end = part.end;
            a.failed = part.failed;
            if (part.end < end) {
                break;
            }
        }
        return a;
    }

    /// Arms every page of a range. False: it cannot be done.
    [[nodiscard]] bool arm(page_range range) noexcept {
        page_range found[16];
        while (range.count.value() != 0) {
            answer const a = scan(range, true, found);
            if (a.failed) {
                return false;
            }
            range = {a.end, range.end() - a.end};
        }
        return true;
    }

    /// Finds mappings of frames whose copy-on-write was broken.
    [[nodiscard]] answer copied(page_range range, std::span<page_range> out) noexcept {
        pagemap::query q;
        q.inverted = pagemap::is_file | pagemap::is_tracked;
        q.all_of = q.inverted;
        q.any_of = pagemap::is_present | pagemap::is_swapped;
        q.returned = pagemap::is_written;
        return ask(range, q, out);
    }

  private:
    // Sixteen pages share a mood, and blocks far apart share a place: it is only a hint.
    static constexpr unsigned block_shift = 4;
    static constexpr std::size_t blocks = 65536;
    // Of a mood, three bits count the armed walks in a row that found the block written (at most
    // `hottest`), five the walks until it is armed again.
    static constexpr unsigned hottest = 6;

    [[nodiscard]] static std::uint64_t block(page_number p) noexcept {
        return p.value() >> block_shift;
    }
    [[nodiscard]] std::uint8_t& mood(std::uint64_t block) noexcept { return heat_[block % blocks]; }
    [[nodiscard]] bool is_hot(page_number p) noexcept {
        return warm_ != 0 && mood(block(p)) >> 3 != 0;
    }
    /// The end of the blocks that are all to be armed, or all not.
    [[nodiscard]] page_number same_mood(page_number from, page_number end) noexcept {
        if (warm_ == 0) {
            return end;
        }
        bool const hot = is_hot(from);
        std::uint64_t b = block(from) + 1;
        while (b <= block(page_number{end.value() - 1}) && (mood(b) >> 3 != 0) == hot) {
            ++b;
        }
        return std::min(end, page_number{b << block_shift});
    }
    void note(page_range looked_at, std::span<page_range const> written, bool armed) noexcept {
        if (looked_at.count.value() == 0 || (written.empty() && warm_ == 0)) {
            return;
        }
        std::size_t w = 0;
        for (std::uint64_t b = block(looked_at.first);
             b <= block(page_number{looked_at.end().value() - 1}); ++b) {
            page_number const first{b << block_shift};
            page_number const end{(b + 1) << block_shift};
            while (w < written.size() && written[w].end() <= first) {
                ++w;
            }
            bool const hit = w < written.size() && written[w].first < end;
            std::uint8_t& m = mood(b);
            unsigned count = m & 7U;
            unsigned wait = m >> 3;
            warm_ -= m != 0;
            if (!armed) {
                --wait;
            } else if (hit) {
                count = std::min(count + 1, hottest);
                wait = count < 2 ? 0 : (1U << (count - 1)) - 1; // 1, 3, 7, 15, 31 walks
            } else {
                count = 0;
            }
            m = static_cast<std::uint8_t>(wait << 3 | count);
            warm_ += m != 0;
        }
    }

    [[nodiscard]] answer scan(page_range range, bool arm, std::span<page_range> out) noexcept {
        pagemap::query q;
        q.arm = arm;
        q.inverted = pagemap::is_zero; // what a read has put where nothing was
        q.all_of = pagemap::is_tracked | pagemap::is_written | pagemap::is_zero;
        q.any_of = pagemap::is_present | pagemap::is_swapped;
        q.returned = pagemap::is_written;
        return ask(range, q, out);
    }
    [[nodiscard]] answer ask(page_range range, pagemap::query const& q,
                             std::span<page_range> out) noexcept {
        answer a{0, range.first, false};
        while (a.end < range.end() && a.ranges < out.size()) {
            pagemap::found const f =
                entries_.scan({a.end, range.end() - a.end}, page_shift_, q, out.subspan(a.ranges));
            if (f.error != 0) {
                // Pages may have been armed without being reported: they count as not looked at.
                a.failed = true;
                disabled_ = disabled_ || f.error != ENOMEM;
                break;
            }
            a.ranges += f.ranges;
            a.end = f.end;
        }
        return a;
    }

    userfault const& faults_;
    pagemap& entries_;
    unsigned page_shift_;
    std::uint8_t* heat_;
    std::size_t warm_ = 0; ///< Blocks whose mood is not zero.
    coverage last_ = coverage::changes;
    unsigned quiet_ = 0; ///< Walks in a row that looked for copies and found none.
    unsigned copy_walks_to_skip_ = 0;
    bool looks_for_copies_ = true;
    bool arming_ = false;
    bool disabled_ = false;
};

} // namespace detail::os
KSM_NAMESPACE_END

#endif
