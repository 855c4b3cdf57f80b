// SPDX-License-Identifier: BSL-1.0
// A machine in a box: frames, page tables, copy-on-write, fork, limits. Deterministic, without an
// operating system or threads; a hook at every seam lets a test act in the middle of a merge.
//
// Memory comes from std containers, so this provider is for tests and study. Of the engine it
// knows nothing.
#ifndef KSM_PROVIDERS_SIMULATED_HPP
#define KSM_PROVIDERS_SIMULATED_HPP

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <ksm/outcome.hpp>
#include <ksm/page_provider.hpp>
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
};

/// The moments at which a test may act. Between `..._protected` and `..._replaced` the page is
/// write-protected: a write to it is accepted, and performed when the window closes.
enum class seam : std::uint8_t {
    survey_begin,
    survey_end,
    view_page,
    promote_begin,
    promote_protected,
    promote_copied,
    promote_replaced,
    promote_end,
    merge_begin,
    merge_protected,
    merge_compared,
    merge_replaced,
    merge_end,
    merge_zero_begin,
    merge_zero_protected,
    merge_zero_compared,
    merge_zero_replaced,
    merge_zero_end,
    unmerge_begin,
    unmerge_end,
    release_begin, ///< Called with space 0 and the number of the frame.
    release_end,   ///< Called with space 0 and the number of the frame.
};
inline constexpr std::size_t seam_count = 22;

/// The enumerator's name.
[[nodiscard]] constexpr char const* name(seam s) noexcept {
    constexpr std::array<char const*, seam_count> names{
        "survey_begin",      "survey_end",        "view_page",           "promote_begin",
        "promote_protected", "promote_copied",    "promote_replaced",    "promote_end",
        "merge_begin",       "merge_protected",   "merge_compared",      "merge_replaced",
        "merge_end",         "merge_zero_begin",  "merge_zero_protected", "merge_zero_compared",
        "merge_zero_replaced", "merge_zero_end",  "unmerge_begin",       "unmerge_end",
        "release_begin",     "release_end"};
    return names[static_cast<std::size_t>(s)];
}

/// Simulated memory with several address spaces. Satisfies `page_provider` and merges zero pages.
class simulated_provider {
  public:
    explicit simulated_provider(simulated_options const& options = {})
        : options_(options), next_frame_(first_frame + (options.seed & 0xFFFFU)),
          zeros_(options.page_size), views_(2 * options.page_size) {
        KSM_ASSERT(std::has_single_bit(options.page_size) && options.page_size >= 64 &&
                       options.page_size <= 65536,
                   "a page size is a power of two from 64 to 65536");
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
        if (auto* const s = find(space)) {
            result = list(*s, from, options_.change_tracking ? wanted : coverage::every_page, out);
        }
        visit(seam::survey_end, space, result.end ? from : result.next);
        return result;
    }

    std::span<std::byte const> view(space_id space, page_number page) noexcept {
        visit(seam::view_page, space, page);
        auto const* const e = find(space, page);
        if (e == nullptr || !e->mergeable) {
            return {};
        }
        // A copy in one of two buffers, so that a view dies exactly when the contract lets it.
        next_view_ ^= 1U;
        auto const copy = std::span{views_}.subspan(next_view_ * page_size(), page_size());
        std::ranges::copy(bytes(e->frame), copy.begin());
        return copy;
    }

    std::span<std::byte const> view(frame_id frame) noexcept {
        KSM_ASSERT(is_live(frame), "the frame is stable and not released");
        return bytes(frame.value());
    }

    promotion promote(space_id space, page_number first, page_count pages) noexcept {
        promotion result{frame_id{next_frame_}, {}};
        // All numbers are taken at once: the hook may create frames in between.
        next_frame_ += pages.value();
        result.made = for_each_page(first, pages, [&](page_number page, page_count i) {
            auto const target = (result.first + i).value();
            auto const why = replace(promote_steps, space, page, target, [&](auto content) {
                if (!has_free_frame()) {
                    return status::out_of_frames;
                }
                add_frame(target, content).stable = true;
                frames_.find(target)->second.checksum = checksum(content);
                return status::ok;
            });
            if (why != status::ok) {
                frames_.erase(target);
            }
            return why;
        });
        return result;
    }

    progress merge(space_id space, page_number first, page_count pages, frame_id frame) noexcept {
        return for_each_page(first, pages, [&](page_number page, page_count i) {
            auto const target = frame + i;
            KSM_ASSERT(is_live(target), "the frame is stable and not released");
            return replace(merge_steps, space, page, target.value(), [&](auto content) {
                return equal(content, bytes(target.value())) ? status::ok : status::changed;
            });
        });
    }

    progress merge_zero(space_id space, page_number first, page_count pages) noexcept {
        return for_each_page(first, pages, [&](page_number page, page_count) {
            return replace(merge_zero_steps, space, page, zero_frame, [&](auto content) {
                return equal(content, zeros_) ? status::ok : status::changed;
            });
        });
    }

    progress unmerge(space_id space, page_number first, page_count pages) noexcept {
        return for_each_page(first, pages, [&](page_number page, page_count) {
            visit(seam::unmerge_begin, space, page);
            auto why = status::gone;
            if (auto* const e = find(space, page)) {
                why = !is_merged(*e) || make_private(*find(space), page.value(), *e)
                          ? status::ok
                          : status::out_of_memory;
            }
            visit(seam::unmerge_end, space, page);
            return why;
        });
    }

    void release(frame_id first, page_count frames) noexcept {
        for (page_count i; i < frames; i += page_count{1}) {
            auto const frame = (first + i).value();
            visit(seam::release_begin, space_id{}, page_number{frame});
            KSM_ASSERT(is_live(first + i), "the frame is stable and not released");
            auto const found = frames_.find(frame);
            found->second.released = true;
            reclaim_if_unused(found);
            visit(seam::release_end, space_id{}, page_number{frame});
        }
    }

    // What the owner of the memory does.

    [[nodiscard]] space_id create_space() {
        auto const id = next_space_++;
        spaces_.try_emplace(id);
        return space_id{id};
    }

    /// Maps mergeable private pages of zeros, in place of what was mapped there.
    /// \returns  False, and does nothing, when the space has exited or frames are short.
    bool map(space_id space, page_number first, page_count pages, std::uint32_t domain = 0,
             std::uint16_t node = 0) {
        auto* const s = find(space);
        if (s == nullptr || pages.value() > free_frames()) {
            return false;
        }
        unmap(space, {first, pages});
        for (std::size_t i = 0; i < pages.value(); ++i) {
            auto const number = next_frame_++;
            add_frame(number, zeros_).references = 1;
            s->pages.try_emplace(first.value() + i, entry{number, domain, node});
            note(*s, first.value() + i);
        }
        return true;
    }

    void unmap(space_id space, page_range range) {
        if (auto* const s = find(space)) {
            for_each_mapped(*s, range, [&](std::uint64_t n, entry& e) {
                if (e.mergeable) {
                    note(*s, n);
                }
            });
            auto const from = s->pages.lower_bound(range.first.value());
            auto const to = s->pages.lower_bound(range.end().value());
            for (auto i = from; i != to; ++i) {
                relink(*s, i->first, i->second, zero_frame);
            }
            s->pages.erase(from, to);
        }
    }

    /// Lets pages be merged, or gives them private copies and then forbids merging (S1).
    /// \returns  False when frames are short: the pages stay mergeable.
    bool set_mergeable(space_id space, page_range range, bool mergeable) {
        auto* const s = find(space);
        if (s == nullptr) {
            return false;
        }
        bool all_private = true;
        for_each_mapped(*s, range, [&](std::uint64_t n, entry& e) {
            all_private = all_private && (mergeable || !is_merged(e) || make_private(*s, n, e));
        });
        if (!all_private) {
            return false;
        }
        for_each_mapped(*s, range, [&](std::uint64_t n, entry& e) {
            if (std::exchange(e.mergeable, mergeable) != mergeable) {
                note(*s, n);
            }
        });
        return true;
    }

    /// Stores bytes; a shared page first gets a private copy.
    /// \requires  `offset + data.size() <= page_size()`.
    /// \returns   False, and stores nothing, when the page is absent or frames are short.
    bool write(space_id space, page_number page, std::size_t offset,
               std::span<std::byte const> data) {
        KSM_ASSERT(offset <= page_size() && data.size() <= page_size() - offset,
                   "a write stays within its page");
        if (find(space, page) == nullptr) {
            return false;
        }
        if (window_ && window_->space == space && window_->page == page) {
            // The writer waits. Its copy is reserved at once: an accepted store must not fail
            // later (I1).
            if (!has_free_frame()) {
                return false;
            }
            window_->waiting.push_back({offset, {data.begin(), data.end()}});
            return true;
        }
        return store(space, page, offset, data, has_free_frame());
    }

    /// The bytes of a page as its space reads them; empty when absent. Valid until the next change.
    [[nodiscard]] std::span<std::byte const> read(space_id space, page_number page) const noexcept {
        auto const* const e = find(space, page);
        return e == nullptr ? std::span<std::byte const>{} : bytes(e->frame);
    }

    /// A new space that shares every frame of `parent` copy-on-write. Pins and locks stay behind.
    [[nodiscard]] space_id fork(space_id parent) {
        auto const child = create_space();
        auto* const from = find(parent);
        auto& to = *find(child);
        if (from != nullptr) {
            for (auto const& [n, e] : from->pages) {
                auto& copy = to.pages.try_emplace(n, entry{zero_frame, e.domain, e.node}).first->second;
                copy.mergeable = e.mergeable;
                relink(to, n, copy, e.frame);
                if (copy.mergeable) {
                    note(to, n);
                }
            }
        }
        return child;
    }

    void exit(space_id space) {
        if (auto* const s = find(space)) {
            for (auto& [n, e] : s->pages) {
                relink(*s, n, e, zero_frame);
            }
            spaces_.erase(static_cast<std::uint32_t>(space));
        }
    }

    /// Holds a page for I/O, privately; a pinned page is not merged (S20).
    /// \returns  False when the page is absent or frames are short.
    bool pin(space_id space, page_number page) {
        auto* const e = find(space, page);
        if (e == nullptr) {
            return false;
        }
        if (is_merged(*e)) {
            if (!make_private(*find(space), page.value(), *e)) {
                return false;
            }
            find(space)->changed.insert(page.value());
        }
        ++e->pins;
        return true;
    }
    void unpin(space_id space, page_number page) {
        if (auto* const e = find(space, page)) {
            KSM_ASSERT(e->pins != 0, "an unpin follows a pin");
            --e->pins;
        }
    }

    /// The page lock that a merge only tries to take (S8).
    void lock(space_id space, page_number page) { set_locked(space, page, true); }
    void unlock(space_id space, page_number page) { set_locked(space, page, false); }

    /// Moves pages to another node or domain: each gets a fresh private frame.
    /// \returns  False when frames are short: some pages may have moved.
    bool set_node(space_id space, page_range range, std::uint16_t node) {
        return move(space, range, [node](entry& e) { e.node = node; });
    }
    bool set_domain(space_id space, page_range range, std::uint32_t domain) {
        return move(space, range, [domain](entry& e) { e.domain = domain; });
    }

    void set_frame_limit(std::size_t limit) noexcept { options_.frame_limit = limit; }
    void set_mapping_limit(std::size_t limit) noexcept { options_.mapping_limit = limit; }

    // What a test observes.

    [[nodiscard]] std::size_t frames_in_use() const noexcept { return frames_.size(); }
    [[nodiscard]] std::size_t mappings_in_use() const noexcept { return mappings_; }

    [[nodiscard]] bool is_mapped(space_id space, page_number page) const noexcept {
        return find(space, page) != nullptr;
    }
    [[nodiscard]] bool is_stable(space_id space, page_number page) const noexcept {
        return frame_of(space, page).has_value();
    }
    [[nodiscard]] bool is_zero(space_id space, page_number page) const noexcept {
        auto const* const e = find(space, page);
        return e != nullptr && e->frame == zero_frame;
    }
    /// Maps neither a stable frame nor the zero page (I8).
    [[nodiscard]] bool is_private(space_id space, page_number page) const noexcept {
        auto const* const e = find(space, page);
        return e != nullptr && !is_merged(*e);
    }
    /// The stable frame that the page maps, released or not.
    [[nodiscard]] std::optional<frame_id> frame_of(space_id space,
                                                   page_number page) const noexcept {
        auto const* const e = find(space, page);
        return e != nullptr && is_stable(e->frame) ? std::optional{frame_id{e->frame}}
                                                   : std::nullopt;
    }
    /// How many pages map the frame; 0 when it is not in use.
    [[nodiscard]] std::size_t references(frame_id frame) const noexcept {
        auto const found = frames_.find(frame.value());
        return found == frames_.end() ? 0 : found->second.references;
    }
    /// Whether the engine may still name the frame.
    [[nodiscard]] bool is_live(frame_id frame) const noexcept {
        auto const found = frames_.find(frame.value());
        return found != frames_.end() && found->second.stable && !found->second.released;
    }

    /// Recounts everything. \returns  What is wrong, or an empty string.
    [[nodiscard]] std::string_view verify() const {
        std::unordered_map<std::uint64_t, std::size_t> references;
        std::size_t mappings = 0;
        for (auto const& [id, s] : spaces_) {
            for (auto const& [n, e] : s.pages) {
                ++references[e.frame];
                mappings += starts_run(s, n) ? run_cost : 0;
                if (e.frame != zero_frame && !frames_.contains(e.frame)) {
                    return "a page maps a frame that was reclaimed (I11)";
                }
                if (is_merged(e) && (e.pins != 0 || !e.mergeable)) {
                    return "a pinned or unmergeable page is merged";
                }
            }
        }
        for (auto const& [number, f] : frames_) {
            if (f.references != references[number]) {
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
        if (mappings != mappings_) {
            return "the count of mappings is wrong";
        }
        return window_ ? "a write-exclusion window is open" : "";
    }

  private:
    static constexpr std::uint64_t zero_frame = 0; ///< The zero page: no entry in `frames_`.
    static constexpr std::uint64_t first_frame = 1;
    static constexpr std::size_t run_cost = 2;

    struct frame_record {
        std::vector<std::byte> bytes;
        std::size_t references = 0; ///< Pages that map it.
        bool stable = false;
        bool released = false;
        std::size_t checksum = 0; ///< Of a stable frame, taken at promotion.
    };
    struct entry {
        std::uint64_t frame = zero_frame;
        std::uint32_t domain = 0;
        std::uint16_t node = 0;
        bool mergeable = true;
        bool locked = false;
        std::uint32_t pins = 0;
    };
    struct address_space {
        std::map<std::uint64_t, entry> pages;
        /// Pages that the next survey reports as changed; what it reports depends on what they
        /// are then. Without change tracking: those whose sharing was broken.
        std::set<std::uint64_t> changed;
    };
    struct waiting_store {
        std::size_t offset;
        std::vector<std::byte> data;
    };
    struct window {
        space_id space;
        page_number page;
        std::vector<waiting_store> waiting;
    };
    struct steps {
        seam begin, protect, prepared, replaced, end;
    };
    static constexpr steps promote_steps{seam::promote_begin, seam::promote_protected,
                                         seam::promote_copied, seam::promote_replaced,
                                         seam::promote_end};
    static constexpr steps merge_steps{seam::merge_begin, seam::merge_protected,
                                       seam::merge_compared, seam::merge_replaced,
                                       seam::merge_end};
    static constexpr steps merge_zero_steps{seam::merge_zero_begin, seam::merge_zero_protected,
                                            seam::merge_zero_compared, seam::merge_zero_replaced,
                                            seam::merge_zero_end};

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

    template <class Operation>
    static void for_each_mapped(address_space& s, page_range range, Operation operation) {
        auto const end = s.pages.lower_bound(range.end().value());
        for (auto i = s.pages.lower_bound(range.first.value()); i != end; ++i) {
            operation(i->first, i->second);
        }
    }

    /// Makes the page map `target`, once `prepare` has approved the content that it has while
    /// writers are excluded.
    template <class Prepare>
    status replace(steps const& step, space_id space, page_number page, std::uint64_t target,
                   Prepare prepare) noexcept {
        visit(step.begin, space, page);
        auto const* const e = find(space, page);
        auto why = status::gone;
        if (e != nullptr && e->mergeable) {
            why = e->frame == target ? status::ok
                                     : replace_protected(step, space, page, target, prepare);
        }
        visit(step.end, space, page);
        return why;
    }

    template <class Prepare>
    status replace_protected(steps const& step, space_id space, page_number page,
                             std::uint64_t target, Prepare prepare) noexcept {
        auto const protected_frame = find(space, page)->frame;
        window_.emplace(window{space, page, {}});
        visit(step.protect, space, page);
        auto why = obstacle(space, page, protected_frame);
        if (why == status::ok) {
            why = prepare(bytes(protected_frame));
        }
        visit(step.prepared, space, page);
        // Again: somebody may have pinned or remapped the page since (S8, S20).
        if (why == status::ok) {
            why = obstacle(space, page, protected_frame);
        }
        if (why == status::ok) {
            auto& s = *find(space);
            if (relink(s, page.value(), *find(space, page), target, options_.mapping_limit)) {
                // The engine knows; a write that waits reports the page anew.
                s.changed.erase(page.value());
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
                                  std::uint64_t protected_frame) const noexcept {
        auto const* const e = find(space, page);
        if (e == nullptr || !e->mergeable) {
            return status::gone;
        }
        if (e->frame != protected_frame) {
            return status::changed;
        }
        return e->locked || e->pins != 0 ? status::busy : status::ok;
    }

    void close_window() noexcept {
        auto const closed = std::exchange(window_, std::nullopt);
        for (auto const& waiting : closed->waiting) {
            // A page unmapped meanwhile has no content left to lose.
            (void)store(closed->space, closed->page, waiting.offset, waiting.data, true);
        }
    }

    bool store(space_id space, page_number page, std::size_t offset,
               std::span<std::byte const> data, bool may_copy) {
        auto* const e = find(space, page);
        if (e == nullptr) {
            return false;
        }
        auto& s = *find(space);
        bool const merged = is_merged(*e);
        if (merged || frames_.find(e->frame)->second.references > 1) {
            if (!may_copy) {
                return false;
            }
            copy_frame(s, page.value(), *e);
        }
        std::ranges::copy(data, frames_.find(e->frame)->second.bytes.begin() +
                                    static_cast<std::ptrdiff_t>(offset));
        if (e->mergeable) {
            merged ? (void)s.changed.insert(page.value()) : note(s, page.value());
        }
        return true;
    }

    /// With change tracking: the next survey reports the page.
    void note(address_space& s, std::uint64_t page) {
        if (options_.change_tracking) {
            s.changed.insert(page);
        }
    }

    bool make_private(address_space& s, std::uint64_t page, entry& e) {
        return has_free_frame() && (copy_frame(s, page, e), true);
    }
    void copy_frame(address_space& s, std::uint64_t page, entry& e) {
        auto const copy = next_frame_++;
        add_frame(copy, bytes(e.frame));
        relink(s, page, e, copy);
    }

    void set_locked(space_id space, page_number page, bool locked) {
        if (auto* const e = find(space, page)) {
            e->locked = locked;
        }
    }

    template <class Change>
    bool move(space_id space, page_range range, Change change) {
        auto* const s = find(space);
        bool all = s != nullptr;
        if (all) {
            for_each_mapped(*s, range, [&](std::uint64_t n, entry& e) {
                all = all && make_private(*s, n, e);
                if (all) {
                    change(e);
                    note(*s, n);
                }
            });
        }
        return all;
    }

    [[nodiscard]] std::size_t free_frames() const noexcept {
        auto const taken = frames_.size() + (window_ ? window_->waiting.size() : 0);
        return options_.frame_limit - std::min(options_.frame_limit, taken);
    }
    [[nodiscard]] bool has_free_frame() const noexcept { return free_frames() != 0; }

    frame_record& add_frame(std::uint64_t number, std::span<std::byte const> content) {
        auto& f = frames_[number];
        f.bytes.assign(content.begin(), content.end());
        return f;
    }

    void reclaim_if_unused(std::unordered_map<std::uint64_t, frame_record>::iterator f) {
        if (f->second.references == 0 && (!f->second.stable || f->second.released)) {
            frames_.erase(f);
        }
    }

    /// Makes a page map another frame, unless that takes more mappings than the limit.
    bool relink(address_space& s, std::uint64_t page, entry& e, std::uint64_t target,
                std::size_t limit = std::numeric_limits<std::size_t>::max()) {
        auto const cost = [&] {
            return (starts_run(s, page) ? run_cost : 0) + (starts_run(s, page + 1) ? run_cost : 0);
        };
        auto const old_cost = cost();
        auto const old = std::exchange(e.frame, target);
        auto const new_cost = cost();
        if (new_cost > old_cost && mappings_ + new_cost - old_cost > limit) {
            e.frame = old;
            return false;
        }
        mappings_ = mappings_ + new_cost - old_cost;
        if (target != zero_frame) {
            ++frames_.find(target)->second.references;
        }
        if (old != zero_frame) {
            auto const f = frames_.find(old);
            --f->second.references;
            reclaim_if_unused(f);
        }
        return true;
    }

    /// Whether a run of consecutive stable frames begins here.
    [[nodiscard]] bool starts_run(address_space const& s, std::uint64_t page) const noexcept {
        auto const here = s.pages.find(page);
        if (here == s.pages.end() || !is_stable(here->second.frame)) {
            return false;
        }
        auto const before = s.pages.find(page - 1);
        return before == s.pages.end() || !is_stable(before->second.frame) ||
               before->second.frame + 1 != here->second.frame;
    }

    [[nodiscard]] survey_result list(address_space& s, page_number from, coverage given,
                                     std::span<page_run> out) {
        survey_result result;
        result.given = given;
        auto const add = [&](std::uint64_t n) {
            auto const run = describe(s, n, given);
            if (result.runs != 0 && continues(out[result.runs - 1], run)) {
                out[result.runs - 1].pages += page_count{1};
            } else if (result.runs < out.size()) {
                out[result.runs++] = run;
            } else {
                result.next = run.first;
                result.end = false;
            }
            return result.end;
        };
        if (given == coverage::changes) {
            auto i = s.changed.lower_bound(from.value());
            while (i != s.changed.end() && add(*i)) {
                ++i;
            }
        } else {
            auto i = s.pages.lower_bound(from.value());
            while (i != s.pages.end() && (!i->second.mergeable || add(i->first))) {
                ++i;
            }
        }
        // What is listed now belongs to this interval; a write from here on to the next.
        s.changed.erase(s.changed.lower_bound(from.value()),
                        result.end ? s.changed.end() : s.changed.lower_bound(result.next.value()));
        return result;
    }

    [[nodiscard]] page_run describe(address_space const& s, std::uint64_t n,
                                    coverage given) const noexcept {
        page_run run;
        run.first = page_number{n};
        run.pages = page_count{1};
        auto const found = s.pages.find(n);
        if (found == s.pages.end() || !found->second.mergeable) {
            run.state = page_state::gone;
            return run;
        }
        auto const& e = found->second;
        run.domain = e.domain;
        run.node = e.node;
        if (e.frame == zero_frame) {
            run.state = page_state::zero;
        } else if (is_live(frame_id{e.frame})) {
            run.state = page_state::merged;
            run.frame = frame_id{e.frame};
        } else if (given == coverage::changes || s.changed.contains(n)) {
            run.state = page_state::written;
        }
        return run;
    }

    [[nodiscard]] static bool continues(page_run const& last, page_run const& next) noexcept {
        return last.first + last.pages == next.first && last.state == next.state &&
               last.domain == next.domain && last.node == next.node &&
               (last.state != page_state::merged || last.frame + last.pages == next.frame);
    }

    [[nodiscard]] address_space* find(space_id space) noexcept {
        auto const found = spaces_.find(static_cast<std::uint32_t>(space));
        return found == spaces_.end() ? nullptr : &found->second;
    }
    [[nodiscard]] entry const* find(space_id space, page_number page) const noexcept {
        auto const s = spaces_.find(static_cast<std::uint32_t>(space));
        if (s == spaces_.end()) {
            return nullptr;
        }
        auto const found = s->second.pages.find(page.value());
        return found == s->second.pages.end() ? nullptr : &found->second;
    }
    [[nodiscard]] entry* find(space_id space, page_number page) noexcept {
        return const_cast<entry*>(std::as_const(*this).find(space, page));
    }

    [[nodiscard]] bool is_stable(std::uint64_t number) const noexcept {
        auto const found = frames_.find(number);
        return found != frames_.end() && found->second.stable;
    }
    [[nodiscard]] bool is_merged(entry const& e) const noexcept {
        return e.frame == zero_frame || is_stable(e.frame);
    }
    [[nodiscard]] std::span<std::byte const> bytes(std::uint64_t number) const noexcept {
        auto const found = frames_.find(number);
        return found == frames_.end() ? std::span{zeros_} : std::span{found->second.bytes};
    }
    [[nodiscard]] static bool equal(std::span<std::byte const> a,
                                    std::span<std::byte const> b) noexcept {
        return std::memcmp(a.data(), b.data(), a.size()) == 0;
    }
    [[nodiscard]] static std::size_t checksum(std::span<std::byte const> content) noexcept {
        return std::hash<std::string_view>{}(
            {reinterpret_cast<char const*>(content.data()), content.size()});
    }

    simulated_options options_;
    std::map<std::uint32_t, address_space> spaces_;
    std::unordered_map<std::uint64_t, frame_record> frames_;
    std::uint64_t next_frame_;
    std::uint32_t next_space_ = 0;
    std::size_t mappings_ = 0;
    std::optional<window> window_;
    bool in_hook_ = false;
    std::vector<std::byte> zeros_;
    std::vector<std::byte> views_;
    std::size_t next_view_ = 0;
};

static_assert(check_page_provider<simulated_provider>() && has_zero_merging<simulated_provider>);

KSM_NAMESPACE_END

#endif
