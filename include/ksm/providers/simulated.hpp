// SPDX-License-Identifier: BSL-1.0
// A machine in a box: frames, page tables, copy-on-write, fork, limits. Deterministic, without an
// operating system or threads; a hook at every seam lets a test act in the middle of a merge.
//
// Memory comes from std containers, so this provider is for tests and study. It knows no engine.
#ifndef KSM_PROVIDERS_SIMULATED_HPP
#define KSM_PROVIDERS_SIMULATED_HPP

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <ksm/outcome.hpp>
#include <ksm/page_provider.hpp>
#include <ksm/providers/simulated/page_tables.hpp>
#include <ksm/providers/simulated/seam.hpp>
#include <ksm/types.hpp>

KSM_NAMESPACE_BEGIN

/// The machine that a `simulated_provider` simulates.
struct simulated_options {
    std::size_t page_size = 4096; ///< A power of two from 64 to 65536. [bytes]
    bool change_tracking = true;  ///< Off: surveys cannot tell whether a page was written.
    std::size_t frame_limit = std::numeric_limits<std::size_t>::max();
    /// Each longest run of pages that map consecutive stable frames costs two mappings.
    std::size_t mapping_limit = std::numeric_limits<std::size_t>::max();
    std::uint64_t seed = 0; ///< Chooses the number of the first frame: rely on none.
    bool batches = false;   ///< Short runs are asked for in batches.
};

/// Simulated memory with several address spaces. Satisfies `page_provider` and merges zero pages.
class simulated_provider {
  public:
    explicit simulated_provider(simulated_options const& options = {})
        : options_(options),
          tables_(options.page_size, 1 + (options.seed & 0xFFFFU), options.change_tracking),
          views_(2 * options.page_size) {
        KSM_ASSERT(std::has_single_bit(options.page_size) && options.page_size >= 64 &&
                       options.page_size <= 65536,
                   "a page size is a power of two from 64 to 65536");
        tables_.frames.limit = options.frame_limit;
    }
    simulated_provider(simulated_provider const&) = delete;
    simulated_provider& operator=(simulated_provider const&) = delete;

    /// Called at every seam, but not from within itself. It may do everything that the owner of
    /// the memory may do (write, map, unmap, fork, exit, pin, lock, change limits).
    std::function<void(seam, space_id, page_number)> on_seam;

    // What the engine uses: see page_provider.hpp.

    [[nodiscard]] std::size_t page_size() const noexcept { return options_.page_size; }

    survey_result survey(space_id space, page_number from, coverage wanted,
                         std::span<page_run> out) noexcept {
        visit(seam::survey_begin, space, from);
        survey_result result;
        if (auto* const s = tables_.find(space)) {
            auto const given = options_.change_tracking ? wanted : coverage::every_page;
            result = tables_.list(*s, from, given, out);
        }
        visit(seam::survey_end, space, from);
        return result;
    }

    std::span<std::byte const> view(space_id space, page_number page) noexcept {
        visit(seam::view_page, space, page);
        auto const* const p = tables_.find(space, page);
        if (p == nullptr || !p->mergeable) {
            return {};
        }
        // A copy in one of two buffers, so that a view dies as early as the contract lets it.
        next_view_ ^= 1U;
        auto const copy = std::span{views_}.subspan(next_view_ * page_size(), page_size());
        std::ranges::copy(frames().bytes(p->frame), copy.begin());
        return copy;
    }

    std::span<std::byte const> view(frame_id frame) noexcept {
        KSM_ASSERT(is_live(frame), "the frame is stable and not released");
        return frames().bytes(frame.value());
    }

    promotion promote(space_id space, page_number first, page_count pages) noexcept {
        // All numbers are taken at once: the hook may make frames in between.
        promotion result{frame_id{frames().take_numbers(pages.value())}, {}};
        result.made = for_each_page(first, pages, [&](page_number page, page_count i) {
            auto const target = (result.first + i).value();
            auto const why = replace(detail::promote_steps, space, page, target, [&](auto content) {
                if (free_frames() == 0) {
                    return status::out_of_frames;
                }
                frames().add(target, content, true, tables_.find(space, page)->domain);
                return status::ok;
            });
            if (why != status::ok) {
                frames().discard(target);
            }
            return why;
        });
        return result;
    }

    progress merge(space_id space, page_number first, page_count pages, frame_id frame) noexcept {
        return for_each_page(first, pages, [&](page_number page, page_count i) {
            KSM_ASSERT(is_live(frame + i), "the frame is stable and not released");
            auto const target = (frame + i).value();
            return replace(detail::merge_steps, space, page, target, [&](auto content) {
                // The engine may not know yet that the page has moved to another domain (I2).
                bool const allowed = tables_.find(space, page)->domain == frames().domain(target);
                return allowed && equal(content, frames().bytes(target)) ? status::ok
                                                                         : status::changed;
            });
        });
    }

    [[nodiscard]] bool prefers_batches() const noexcept { return options_.batches; }
    void merge_batch(space_id space, std::span<merge_request> runs) noexcept {
        for (merge_request& r : runs) {
            r.result = merge(space, r.first, r.pages, r.frame);
        }
    }

    progress merge_zero(space_id space, page_set pages) noexcept {
        progress all;
        for (; !pages.empty() && all.why == status::ok; pages = pages.without(page_count{1})) {
            all.why = replace(
                detail::merge_zero_steps, space, pages.first, frame_store::zero, [&](auto content) {
                    return equal(content, frames().zeros()) ? status::ok : status::changed;
                });
            all.done += page_count{all.why == status::ok ? 1U : 0U};
        }
        return all;
    }

    progress unmerge(space_id space, page_number first, page_count pages) noexcept {
        return for_each_page(first, pages, [&](page_number page, page_count) {
            visit(seam::unmerge_begin, space, page);
            auto why = status::gone;
            if (auto* const p = tables_.find(space, page)) {
                why = make_private(*tables_.find(space), page.value(), *p) ? status::ok
                                                                           : status::out_of_memory;
            }
            visit(seam::unmerge_end, space, page);
            return why;
        });
    }

    void release(frame_id first, page_count count) noexcept {
        for (page_count i; i < count; i += page_count{1}) {
            auto const frame = first + i;
            visit(seam::release_begin, space_id{}, page_number{frame.value()});
            KSM_ASSERT(is_live(frame), "the frame is stable and not released");
            frames().release(frame.value());
            visit(seam::release_end, space_id{}, page_number{frame.value()});
        }
    }

    // What the owner of the memory does.

    [[nodiscard]] space_id create_space() { return tables_.add_space(); }

    /// Maps mergeable private pages of zeros, in place of what was mapped there.
    /// \returns  False, and does nothing, when the space has exited or frames are short.
    bool map(space_id space, page_number first, page_count pages, std::uint32_t domain = 0,
             std::uint16_t node = 0) {
        auto* const s = tables_.find(space);
        if (s == nullptr || pages.value() > free_frames()) {
            return false;
        }
        unmap(space, {first, pages});
        for (std::uint64_t n = first.value(); n != (first + pages).value(); ++n) {
            auto& p = s->pages[n];
            p.domain = domain;
            p.node = node;
            tables_.copy_frame(*s, n, p);
            tables_.note(*s, n);
        }
        return true;
    }

    void unmap(space_id space, page_range range) {
        if (auto* const s = tables_.find(space)) {
            tables_.unmap(*s, range);
        }
    }

    /// Lets pages be merged, or gives them private copies and then forbids merging (S1).
    /// \returns  False when the space has exited or frames are short: the pages stay mergeable.
    bool set_mergeable(space_id space, page_range range, bool mergeable) {
        auto* const s = tables_.find(space);
        bool possible = s != nullptr;
        if (possible && !mergeable) {
            s->for_each(range, [&](std::uint64_t n, page_entry& p) {
                bool const merged = tables_.is_merged(p);
                possible = possible && make_private(*s, n, p);
                if (possible && merged) {
                    s->changed.insert(n); // also when a later page fails
                }
            });
        }
        if (possible) {
            s->for_each(range, [&](std::uint64_t n, page_entry& p) {
                if (std::exchange(p.mergeable, mergeable) != mergeable) {
                    tables_.note(*s, n);
                }
            });
        }
        return possible;
    }

    /// Stores bytes; a shared page first gets a private copy.
    /// \requires  `offset + data.size() <= page_size()`.
    /// \returns   False, and stores nothing, when the page is absent or frames are short.
    bool write(space_id space, page_number page, std::size_t offset,
               std::span<std::byte const> data) {
        KSM_ASSERT(offset <= page_size() && data.size() <= page_size() - offset,
                   "a write stays within its page");
        if (!is_mapped(space, page)) {
            return false;
        }
        if (window_ && window_->space == space && window_->page == page) {
            // The writer waits. It takes a frame now, because a store that was accepted must not
            // fail later (I1).
            if (free_frames() == 0) {
                return false;
            }
            window_->waiting.push_back({offset, {data.begin(), data.end()}});
            return true;
        }
        return tables_.store(space, page, offset, data, free_frames() != 0);
    }

    /// The bytes of a page as its space reads them; empty when absent. Valid until the next change.
    [[nodiscard]] std::span<std::byte const> read(space_id space, page_number page) const noexcept {
        auto const* const p = tables_.find(space, page);
        return p == nullptr ? std::span<std::byte const>{} : frames().bytes(p->frame);
    }

    /// A new space that shares every frame of `parent` copy-on-write. Pins and locks stay behind.
    [[nodiscard]] space_id fork(space_id parent) {
        auto const child = create_space();
        if (auto* const from = tables_.find(parent)) {
            tables_.copy_pages(*from, *tables_.find(child));
        }
        return child;
    }

    void exit(space_id space) { tables_.remove_space(space); }

    /// Holds a page for I/O, privately; a pinned page is not merged (S20).
    /// \returns  False when the page is absent or frames are short.
    bool pin(space_id space, page_number page) {
        auto* const p = tables_.find(space, page);
        if (p == nullptr) {
            return false;
        }
        auto& s = *tables_.find(space);
        if (tables_.is_merged(*p)) {
            if (!make_private(s, page.value(), *p)) {
                return false;
            }
            s.changed.insert(page.value());
        }
        ++p->pins;
        return true;
    }
    void unpin(space_id space, page_number page) {
        if (auto* const p = tables_.find(space, page)) {
            KSM_ASSERT(p->pins != 0, "an unpin follows a pin");
            --p->pins;
        }
    }

    /// The page lock that a merge only tries to take (S8).
    void lock(space_id space, page_number page) { set_locked(space, page, true); }
    void unlock(space_id space, page_number page) { set_locked(space, page, false); }

    /// Moves pages to another node or domain: each gets a fresh private frame.
    /// \returns  False when the space has exited or frames are short: some pages may have moved.
    bool set_node(space_id space, page_range range, std::uint16_t node) {
        return move(space, range, [node](page_entry& p) { p.node = node; });
    }
    bool set_domain(space_id space, page_range range, std::uint32_t domain) {
        return move(space, range, [domain](page_entry& p) { p.domain = domain; });
    }

    void set_frame_limit(std::size_t limit) noexcept { frames().limit = limit; }
    void set_mapping_limit(std::size_t limit) noexcept { options_.mapping_limit = limit; }

    // What a test observes.

    [[nodiscard]] std::size_t frames_in_use() const noexcept { return frames().in_use(); }
    [[nodiscard]] std::size_t mappings_in_use() const noexcept { return tables_.mappings(); }

    [[nodiscard]] bool is_mapped(space_id space, page_number page) const noexcept {
        return tables_.find(space, page) != nullptr;
    }
    [[nodiscard]] bool is_stable(space_id space, page_number page) const noexcept {
        return frame_of(space, page).has_value();
    }
    [[nodiscard]] bool is_zero(space_id space, page_number page) const noexcept {
        auto const* const p = tables_.find(space, page);
        return p != nullptr && p->frame == frame_store::zero;
    }
    /// Maps neither a stable frame nor the zero page (I8).
    [[nodiscard]] bool is_private(space_id space, page_number page) const noexcept {
        auto const* const p = tables_.find(space, page);
        return p != nullptr && !tables_.is_merged(*p);
    }
    /// The stable frame that the page maps, released or not.
    [[nodiscard]] std::optional<frame_id> frame_of(space_id space,
                                                   page_number page) const noexcept {
        auto const* const p = tables_.find(space, page);
        return p != nullptr && frames().is_stable(p->frame) ? std::optional{frame_id{p->frame}}
                                                            : std::nullopt;
    }
    /// How many pages map the frame; 0 when it is not in use.
    [[nodiscard]] std::size_t references(frame_id frame) const noexcept {
        return frames().references(frame.value());
    }
    /// Whether the engine may name the frame: it is stable and not released.
    [[nodiscard]] bool is_live(frame_id frame) const noexcept {
        return frames().is_live(frame.value());
    }

    /// Recounts everything. \returns What is wrong, or an empty string.
    [[nodiscard]] std::string_view verify() const {
        return window_ ? "a write-exclusion window is open" : tables_.verify();
    }

  private:
    using frame_store = detail::simulated_frames;
    using page_entry = detail::simulated_page;
    using address_space = detail::simulated_space;

    void visit(seam s, space_id space, page_number page) noexcept {
        if (on_seam && !in_hook_) {
            in_hook_ = true;
            on_seam(s, space, page);
            in_hook_ = false;
        }
    }

    template <class Operation>
    static progress for_each_page(page_number first, page_count pages, Operation operation) {
        for (page_count i; i < pages; i += page_count{1}) {
            if (auto const why = operation(first + i, i); why != status::ok) {
                return {i, why};
            }
        }
        return {pages, status::ok};
    }

    /// Makes the page map `target`, once `prepare` has approved the content that it has while
    /// writers are excluded.
    template <class Prepare>
    status replace(detail::seam_steps const& step, space_id space, page_number page,
                   frame_store::number target, Prepare prepare) noexcept {
        visit(step.begin, space, page);
        auto why = status::gone;
        if (auto const* const p = tables_.find(space, page); p != nullptr && p->mergeable) {
            why = p->frame == target ? status::ok
                                     : replace_protected(step, space, page, target, prepare);
        }
        visit(step.end, space, page);
        return why;
    }

    template <class Prepare>
    status replace_protected(detail::seam_steps const& step, space_id space, page_number page,
                             frame_store::number target, Prepare prepare) noexcept {
        auto const protected_frame = tables_.find(space, page)->frame;
        window_.emplace(detail::simulated_window{space, page, {}});
        visit(step.protect, space, page);
        auto why = obstacle(space, page, protected_frame);
        if (why == status::ok) {
            why = prepare(frames().bytes(protected_frame));
        }
        visit(step.prepared, space, page);
        // Once more: somebody may have pinned or remapped the page since (S8, S20).
        if (why == status::ok) {
            why = obstacle(space, page, protected_frame);
        }
        if (why == status::ok) {
            auto& s = *tables_.find(space);
            if (tables_.relink(s, page.value(), *tables_.find(space, page), target,
                               options_.mapping_limit)) {
                // The engine knows. A write that waits, or the hook, reports the page anew.
                if (!tables_.find(space, page)->moved) {
                    s.changed.erase(page.value());
                }
                visit(step.replaced, space, page);
            } else {
                why = status::out_of_mappings;
            }
        }
        close_window();
        return why;
    }

    /// Why a protected page cannot be replaced.
    [[nodiscard]] status obstacle(space_id space, page_number page,
                                  frame_store::number protected_frame) const noexcept {
        auto const* const p = tables_.find(space, page);
        if (p == nullptr || !p->mergeable) {
            return status::gone;
        }
        if (p->frame != protected_frame) {
            return status::changed;
        }
        return p->locked || p->pins != 0 ? status::busy : status::ok;
    }

    void close_window() noexcept {
        auto const closed = std::exchange(window_, std::nullopt);
        for (auto const& waiting : closed->waiting) {
            // False when the page was unmapped meanwhile: no content is left to lose.
            (void)tables_.store(closed->space, closed->page, waiting.offset, waiting.data, true);
        }
    }

    /// Gives a merged page its own frame again. \returns False when frames are short.
    bool make_private(address_space& s, std::uint64_t page, page_entry& p) {
        if (tables_.is_merged(p)) {
            if (free_frames() == 0) {
                return false;
            }
            tables_.copy_frame(s, page, p);
        }
        return true;
    }

    void set_locked(space_id space, page_number page, bool locked) {
        if (auto* const p = tables_.find(space, page)) {
            p->locked = locked;
        }
    }

    template <class Change>
    bool move(space_id space, page_range range, Change change) {
        auto* const s = tables_.find(space);
        bool possible = s != nullptr;
        if (possible) {
            s->for_each(range, [&](std::uint64_t n, page_entry& p) {
                possible = possible && free_frames() != 0;
                if (possible) {
                    tables_.copy_frame(*s, n, p);
                    change(p);
                    p.moved = true;
                    tables_.note(*s, n);
                }
            });
        }
        return possible;
    }

    /// Frames that are neither in use nor taken by a waiting writer.
    [[nodiscard]] std::size_t free_frames() const noexcept {
        auto const taken = window_ ? window_->waiting.size() : 0;
        return frames().available() - std::min(frames().available(), taken);
    }

    [[nodiscard]] static bool equal(std::span<std::byte const> a,
                                    std::span<std::byte const> b) noexcept {
        return std::memcmp(a.data(), b.data(), a.size()) == 0;
    }

    [[nodiscard]] frame_store& frames() noexcept { return tables_.frames; }
    [[nodiscard]] frame_store const& frames() const noexcept { return tables_.frames; }

    simulated_options options_;
    detail::simulated_page_tables tables_;
    std::optional<detail::simulated_window> window_; ///< Open now.
    bool in_hook_ = false;
    std::vector<std::byte> views_;
    std::size_t next_view_ = 0;
};

static_assert(check_page_provider<simulated_provider>() && has_zero_merging<simulated_provider> &&
              has_batched_merging<simulated_provider>);

KSM_NAMESPACE_END

#endif
