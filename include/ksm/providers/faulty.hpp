// SPDX-License-Identifier: BSL-1.0
// Failures on schedule, over any provider: the answers that a healthy provider gives rarely.
#ifndef KSM_PROVIDERS_FAULTY_HPP
#define KSM_PROVIDERS_FAULTY_HPP

#include <algorithm>
#include <array>
#include <cstddef>
#include <functional>
#include <limits>
#include <span>
#include <vector>

#include <ksm/outcome.hpp>
#include <ksm/page_provider.hpp>
#include <ksm/providers/operation.hpp>
#include <ksm/types.hpp>

KSM_NAMESPACE_BEGIN

/// Calls of an operation that are to fail.
///
/// promote, merge, merge_zero and unmerge do `done` pages, then answer `why`; a call that asks for
/// no more than `done` pages succeeds. `ok` makes them stop early. view_page answers that the page
/// is gone, and survey reports at most `done` runs a call. Other operations cannot fail.
struct fault {
    static constexpr std::size_t forever = std::numeric_limits<std::size_t>::max();

    operation where = operation::merge;
    std::size_t first_call = 0; ///< Counted from 0.
    std::size_t calls = 1;      ///< That many calls in a row.
    status why = status::busy;
    page_count done;
};

/// Forwards to `Base`, except for the calls that the schedule has fail. Of two faults for one call
/// the one that was added first counts.
template <page_provider Base>
class faulty_provider {
  public:
    explicit faulty_provider(Base& base) noexcept : base_(base) {}

    /// \requires  A fault that answers `ok`, or that limits a survey, lets something be done.
    void add(fault const& f) {
        KSM_ASSERT(f.done.value() != 0 || (f.why != status::ok && f.where != operation::survey),
                   "an operation that answers ok has done something");
        faults_.push_back(f);
    }
    void clear() noexcept { faults_.clear(); }

    /// Asked when the schedule has nothing for a call, if set: returns the fault or null.
    std::function<fault const*(operation, std::size_t call)> decide;

    /// How often an operation was called, failures included.
    [[nodiscard]] std::size_t calls(operation o) const noexcept {
        return calls_[static_cast<std::size_t>(o)];
    }
    /// How many calls were made to fail.
    [[nodiscard]] std::size_t failures() const noexcept { return failures_; }

    [[nodiscard]] Base& base() noexcept { return base_; }

    [[nodiscard]] std::size_t page_size() const noexcept { return base_.page_size(); }

    survey_result survey(space_id space, page_number from, coverage wanted,
                         std::span<page_run> out) noexcept {
        if (auto const* const f = next(operation::survey)) {
            ++failures_;
            out = out.first(std::min(out.size(), f->done.value()));
        }
        return base_.survey(space, from, wanted, out);
    }

    std::span<std::byte const> view(space_id space, page_number page) noexcept {
        if (next(operation::view_page) != nullptr) {
            ++failures_;
            return {};
        }
        return base_.view(space, page);
    }

    std::span<std::byte const> view(frame_id frame) noexcept {
        (void)next(operation::view_frame);
        return base_.view(frame);
    }

    promotion promote(space_id space, page_number first, page_count pages) noexcept {
        promotion result;
        result.made = attempt(operation::promote, pages, [&](page_count n) {
            result = base_.promote(space, first, n);
            return result.made;
        });
        return result;
    }

    progress merge(space_id space, page_number first, page_count pages, frame_id frame) noexcept {
        return attempt(operation::merge, pages,
                       [&](page_count n) { return base_.merge(space, first, n, frame); });
    }

    /// Run by run: each is a call of `merge` for the schedule.
    void merge_batch(space_id space, std::span<merge_request> runs) noexcept
        requires has_batched_merging<Base>
    {
        for (merge_request& r : runs) {
            r.result = merge(space, r.first, r.pages, r.frame);
        }
    }
    [[nodiscard]] bool prefers_batches() const noexcept
        requires has_batched_merging<Base>
    {
        return base_.prefers_batches();
    }

    progress merge_zero(space_id space, page_set pages) noexcept
        requires has_zero_merging<Base>
    {
        return attempt(operation::merge_zero, pages.count(),
                       [&](page_count n) { return base_.merge_zero(space, pages.lowest(n)); });
    }

    progress unmerge(space_id space, page_number first, page_count pages) noexcept {
        return attempt(operation::unmerge, pages,
                       [&](page_count n) { return base_.unmerge(space, first, n); });
    }

    void release(frame_id first, page_count frames) noexcept {
        (void)next(operation::release);
        base_.release(first, frames);
    }

  private:
    /// Counts a call. \returns The fault that it meets, or null.
    [[nodiscard]] fault const* next(operation o) noexcept {
        auto const call = calls_[static_cast<std::size_t>(o)]++;
        auto const found = std::ranges::find_if(faults_, [&](fault const& f) {
            return f.where == o && call >= f.first_call && call - f.first_call < f.calls;
        });
        if (found != faults_.end()) {
            return &*found;
        }
        return decide ? decide(o, call) : nullptr;
    }

    template <class Call>
    progress attempt(operation o, page_count pages, Call call) noexcept {
        auto const* const planned = next(o);
        if (planned == nullptr || planned->done >= pages) {
            return call(pages);
        }
        ++failures_;
        auto const f = *planned; // the call may change the schedule
        if (f.done.value() != 0) {
            // What the base does not finish, it explains itself.
            if (auto const made = call(f.done); made.done != f.done) {
                return made;
            }
        }
        return {f.done, f.why};
    }

    Base& base_;
    std::vector<fault> faults_;
    std::array<std::size_t, operation_count> calls_{};
    std::size_t failures_ = 0;
};

KSM_NAMESPACE_END

#endif
