// SPDX-License-Identifier: BSL-1.0
// A decorator that holds every call of the engine against the contract of the seam (I9).
#ifndef KSM_TESTS_MODEL_CHECKED_PROVIDER_HPP
#define KSM_TESTS_MODEL_CHECKED_PROVIDER_HPP

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <ksm/page_provider.hpp>
#include <ksm/providers/faulty.hpp>
#include <ksm/providers/simulated.hpp>

namespace model {

using ksm::frame_id;
using ksm::page_count;
using ksm::page_number;

class checked_provider {
  public:
    /// \param calls  Where the engine's calls go; `machine` is where their effects are seen.
    checked_provider(ksm::faulty_provider<ksm::simulated_provider>& calls,
                     ksm::simulated_provider& machine) noexcept
        : calls_(calls), machine_(machine) {}

    /// Somebody else acts during the call: what it leaves behind cannot be foretold.
    void disturb() noexcept { disturbed_ = true; }

    /// The first breach of the contract, or empty.
    [[nodiscard]] std::string const& fault() const noexcept { return fault_; }
    /// How promote, merge and merge_zero ended.
    [[nodiscard]] auto const& by_status() const noexcept { return by_status_; }
    /// Frames that were promoted and not yet released.
    [[nodiscard]] std::set<ksm::frame_id> const& live_frames() const noexcept { return live_; }

    /// Whether pages may have stayed merged against the engine's will.
    [[nodiscard]] bool unmerging_failed() const noexcept { return unmerging_failed_; }

    [[nodiscard]] std::size_t page_size() const noexcept { return machine_.page_size(); }
    ksm::survey_result survey(ksm::space_id space, page_number from, ksm::coverage wanted,
                              std::span<ksm::page_run> out) noexcept {
        return calls_.survey(space, from, wanted, out);
    }
    std::span<std::byte const> view(ksm::space_id space, page_number page) noexcept {
        return calls_.view(space, page);
    }
    std::span<std::byte const> view(frame_id frame) noexcept {
        expect(live_.contains(frame), "I11: the engine reads a frame that it has released");
        return machine_.is_live(frame) ? machine_.view(frame) : std::span<std::byte const>{};
    }

    ksm::promotion promote(ksm::space_id space, page_number first, page_count pages) noexcept {
        ksm::promotion result;
        result.made = checked(
            space, first, pages,
            [&] {
                result = calls_.promote(space, first, pages);
                for (page_count i; i < result.made.done; i += page_count{1}) {
                    live_.insert(result.first + i);
                }
                return result.made;
            },
            [&](page_number page, page_count i) {
                return machine_.frame_of(space, page) == result.first + i;
            });
        ++by_status_[static_cast<std::size_t>(result.made.why)];
        return result;
    }

    ksm::progress merge(ksm::space_id space, page_number first, page_count pages,
                        frame_id frame) noexcept {
        for (page_count i; i < pages; i += page_count{1}) {
            expect(live_.contains(frame + i), "I11: the engine merges into a released frame");
        }
        auto const result = checked(
            space, first, pages, [&] { return calls_.merge(space, first, pages, frame); },
            [&](page_number page, page_count i) {
                return machine_.frame_of(space, page) == frame + i;
            });
        ++by_status_[static_cast<std::size_t>(result.why)];
        return result;
    }

    void merge_batch(ksm::space_id space, std::span<ksm::merge_request> runs) noexcept {
        for (ksm::merge_request& r : runs) {
            r.result = merge(space, r.first, r.pages, r.frame);
        }
    }
    [[nodiscard]] bool prefers_batches() const noexcept { return machine_.prefers_batches(); }

    ksm::progress merge_zero(ksm::space_id space, ksm::page_set pages) noexcept {
        auto const result = checked(
            space, pages_of(pages), [&] { return calls_.merge_zero(space, pages); },
            [&](page_number page, page_count) { return machine_.is_zero(space, page); });
        ++by_status_[static_cast<std::size_t>(result.why)];
        return result;
    }

    ksm::progress unmerge(ksm::space_id space, page_number first, page_count pages) noexcept {
        auto const result = checked(
            space, first, pages, [&] { return calls_.unmerge(space, first, pages); },
            [&](page_number page, page_count) { return machine_.is_private(space, page); });
        unmerging_failed_ =
            unmerging_failed_ || (result.why != ksm::status::ok && result.why != ksm::status::gone);
        return result;
    }

    void release(frame_id first, page_count frames) noexcept {
        for (page_count i; i < frames; i += page_count{1}) {
            expect(live_.erase(first + i) == 1, "I11: the engine releases a frame twice");
        }
        calls_.release(first, frames);
    }

  private:
    struct before {
        std::vector<std::byte> bytes;
        std::optional<frame_id> frame;
        bool zero;

        friend bool operator==(before const&, before const&) = default;
    };

    void expect(bool condition, char const* what) {
        if (!condition && fault_.empty()) {
            fault_ = what;
        }
    }

    [[nodiscard]] before look_at(ksm::space_id space, page_number page) const {
        auto const bytes = machine_.read(space, page);
        return {{bytes.begin(), bytes.end()},
                machine_.frame_of(space, page),
                machine_.is_zero(space, page)};
    }

    static std::vector<page_number> pages_of(ksm::page_set left) {
        std::vector<page_number> pages;
        for (; !left.empty(); left = left.without(page_count{1})) {
            pages.push_back(left.first);
        }
        return pages;
    }

    template <class Call, class Holds>
    ksm::progress checked(ksm::space_id space, page_number first, page_count count, Call&& call,
                          Holds&& holds) {
        std::vector<page_number> pages;
        for (page_count i; i < count; i += page_count{1}) {
            pages.push_back(first + i);
        }
        return checked(space, pages, call, holds);
    }

    /// `holds(page, i)` says whether the call has done what it is for to the `i`-th page.
    template <class Call, class Holds>
    ksm::progress checked(ksm::space_id space, std::vector<page_number> const& pages, Call&& call,
                          Holds&& holds) {
        std::vector<before> snapshot;
        for (page_number const page : pages) {
            snapshot.push_back(look_at(space, page));
        }
        disturbed_ = false;
        ksm::progress const result = call();
        expect(result.done.value() <= pages.size(),
               "I9: a call has done more than it was asked for");
        expect(result.why != ksm::status::ok || result.done > page_count{},
               "I9: a call that answers ok has done nothing");
        for (page_count i; i.value() < pages.size() && !disturbed_; i += page_count{1}) {
            auto const& was = snapshot[i.value()];
            auto const is = look_at(space, pages[i.value()]);
            if (i < result.done) {
                expect(holds(pages[i.value()], i), "I9: a page that a call has done is not done");
                expect(is.bytes == was.bytes, "I1: a call changed the bytes of a page");
            } else {
                expect(is == was, "I9: a call changed a page beyond those that it has done");
            }
        }
        return result;
    }

    ksm::faulty_provider<ksm::simulated_provider>& calls_;
    ksm::simulated_provider& machine_;
    std::string fault_;
    std::array<std::uint64_t, ksm::status_count> by_status_{};
    std::set<frame_id> live_;
    bool disturbed_ = false;
    bool unmerging_failed_ = false;
};

static_assert(ksm::check_page_provider<checked_provider>() &&
              ksm::has_zero_merging<checked_provider> &&
              ksm::has_batched_merging<checked_provider>);

} // namespace model

#endif
