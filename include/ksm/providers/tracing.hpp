// SPDX-License-Identifier: BSL-1.0
// A record of every call that an engine makes, over any provider.
#ifndef KSM_PROVIDERS_TRACING_HPP
#define KSM_PROVIDERS_TRACING_HPP

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <ksm/outcome.hpp>
#include <ksm/page_provider.hpp>
#include <ksm/providers/operation.hpp>
#include <ksm/types.hpp>

KSM_NAMESPACE_BEGIN

/// One call. Members that an operation does not have are those of a default call.
struct traced_call {
    operation what = operation::survey;
    space_id space{};
    page_number first;      ///< Where a survey began.
    page_count pages;       ///< Asked for; of a survey: listed.
    std::uint64_t mask = 0; ///< Of merge_zero: which pages from `first` on.
    frame_id frame;         ///< Merged into, promoted to, viewed or released.
    page_count done;        ///< Of a view: 1, or 0 when the page was gone.
    status why = status::ok;
    coverage given = coverage::every_page;
    bool end = true; ///< Of a survey.

    friend bool operator==(traced_call const&, traced_call const&) = default;
};

/// The call in one line: `merge space 0 pages 5..7 frames 17..19: 2 done, changed`.
[[nodiscard]] inline std::string to_string(traced_call const& c) {
    // Appended piece by piece: `literal + std::string` makes g++ 12 warn of memory that is not
    // touched (its bug 105651), in the build of whoever includes this.
    auto const range = [](char const* what, std::uint64_t first, std::size_t n) {
        std::string text{what};
        text += std::to_string(first);
        if (n > 1) {
            text += "..";
            text += std::to_string(first + n - 1);
        }
        return text;
    };
    std::string const space = range(" space ", static_cast<std::uint32_t>(c.space), 1);
    std::string const pages = space + range(" pages ", c.first.value(), c.pages.value());
    std::string const frames = range(" frames ", c.frame.value(), c.pages.value());
    std::string const outcome = range(": ", c.done.value(), 1) + " done, " + name(c.why);
    std::string const head = name(c.what);
    switch (c.what) {
    case operation::survey:
        return head + space + " from " + std::to_string(c.first.value()) + ": " +
               std::to_string(c.pages.value()) + " pages, " +
               (c.given == coverage::changes ? "changes" : "every page") + (c.end ? ", end" : "");
    case operation::view_page: return head + pages + ": " + name(c.why);
    case operation::promote:
        return head + pages + outcome +
               (c.done.value() != 0 ? range(", frames ", c.frame.value(), c.done.value()) : "");
    case operation::merge: return head + pages + frames + outcome;
    case operation::merge_zero: {
        std::string text = head + space + " pages";
        for (page_set left{c.first, c.mask}; !left.empty();) {
            page_count const n{static_cast<std::size_t>(std::countr_one(left.mask))};
            text += range(" ", left.first.value(), n.value());
            left = left.without(n);
        }
        return text + outcome;
    }
    case operation::unmerge: return head + pages + outcome;
    case operation::view_frame:
    case operation::release: return head + frames;
    }
    return head;
}

/// Forwards to `Base` and writes everything down. Its notes take memory from the heap.
template <page_provider Base>
class tracing_provider {
  public:
    explicit tracing_provider(Base& base) noexcept : base_(base) {}

    /// In the order of the calls' ends.
    std::vector<traced_call> calls;

    [[nodiscard]] Base& base() noexcept { return base_; }

    [[nodiscard]] std::size_t page_size() const noexcept { return base_.page_size(); }

    survey_result survey(space_id space, page_number from, coverage wanted,
                         std::span<page_run> out) noexcept {
        auto const result = base_.survey(space, from, wanted, out);
        traced_call c;
        c.what = operation::survey;
        c.space = space;
        c.first = from;
        for (auto const& run : out.first(result.runs)) {
            c.pages += run.pages;
        }
        c.done = c.pages;
        c.given = result.given;
        c.end = result.end;
        calls.push_back(c);
        return result;
    }

    std::span<std::byte const> view(space_id space, page_number page) noexcept {
        auto const bytes = base_.view(space, page);
        bool const there = !bytes.empty();
        note(operation::view_page, space, page, page_count{1}, {}, page_count{there ? 1U : 0U},
             there ? status::ok : status::gone);
        return bytes;
    }

    std::span<std::byte const> view(frame_id frame) noexcept {
        auto const bytes = base_.view(frame);
        note(operation::view_frame, {}, {}, page_count{1}, frame, page_count{1}, status::ok);
        return bytes;
    }

    promotion promote(space_id space, page_number first, page_count pages) noexcept {
        auto const result = base_.promote(space, first, pages);
        note(operation::promote, space, first, pages, result.first, result.made.done,
             result.made.why);
        return result;
    }

    progress merge(space_id space, page_number first, page_count pages, frame_id frame) noexcept {
        auto const made = base_.merge(space, first, pages, frame);
        note(operation::merge, space, first, pages, frame, made.done, made.why);
        return made;
    }

    /// Noted run by run, as calls of `merge`.
    void merge_batch(space_id space, std::span<merge_request> runs) noexcept
        requires has_batched_merging<Base>
    {
        base_.merge_batch(space, runs);
        for (merge_request const& r : runs) {
            note(operation::merge, space, r.first, r.pages, r.frame, r.result.done, r.result.why);
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
        auto const made = base_.merge_zero(space, pages);
        note(operation::merge_zero, space, pages.first, pages.count(), {}, made.done, made.why);
        calls.back().mask = pages.mask;
        return made;
    }

    progress unmerge(space_id space, page_number first, page_count pages) noexcept {
        auto const made = base_.unmerge(space, first, pages);
        note(operation::unmerge, space, first, pages, {}, made.done, made.why);
        return made;
    }

    void release(frame_id first, page_count frames) noexcept {
        base_.release(first, frames);
        note(operation::release, {}, {}, frames, first, frames, status::ok);
    }

  private:
    void note(operation what, space_id space, page_number first, page_count pages, frame_id frame,
              page_count done, status why) noexcept {
        calls.push_back(
            {what, space, first, pages, 0, frame, done, why, coverage::every_page, true});
    }

    Base& base_;
};

KSM_NAMESPACE_END

#endif
