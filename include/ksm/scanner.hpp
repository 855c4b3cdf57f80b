// SPDX-License-Identifier: BSL-1.0
// The scanner: passes over spaces that find pages of equal content and let a provider merge them.
// It knows no operating system, no threads and no clock.
#ifndef KSM_SCANNER_HPP
#define KSM_SCANNER_HPP

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory_resource>
#include <string_view>
#include <type_traits>
#include <utility>

#include <ksm/detail/merger.hpp>
#include <ksm/detail/page_index.hpp>
#include <ksm/detail/surveyor.hpp>
#include <ksm/outcome.hpp>
#include <ksm/page_provider.hpp>
#include <ksm/policy.hpp>
#include <ksm/statistics.hpp>
#include <ksm/tunables.hpp>
#include <ksm/types.hpp>

KSM_NAMESPACE_BEGIN

namespace detail {
template <class Scanner>
class inspector;
}

/// What a call that scans has done.
struct [[nodiscard]] scan_result {
    page_count visited;         ///< Candidate pages that were looked at.
    bool pass_complete = false; ///< The call has ended a pass.
    /// Not `ok`: what some pages of this pass could not have, the first time that it was short:
    /// frames, mappings or memory. They are visited again in the next pass.
    status why = status::ok;
};

/// Merges pages of equal content of the spaces that entered.
///
/// A pass surveys every space, then visits the pages that the provider says have rested since
/// the previous pass. Not thread-safe, and not to be called from within the provider. Nothing
/// here throws; metadata comes from the memory resource only, and a page for which there is none
/// is left alone until the next pass (S21).
template <page_provider Provider, merge_policy Policy = standard_policy>
class scanner {
  public:
    using provider_type = Provider;
    using policy_type = Policy;

    /// \param memory  Source of all metadata; must outlive the scanner, and must not be fed from
    ///                memory that is scanned.
    /// \param seed    Seed of the digests. Fix it only to repeat a run.
    explicit scanner(Provider& provider,
                     std::pmr::memory_resource* memory = std::pmr::get_default_resource(),
                     std::uint64_t seed = random_seed()) noexcept
        : index_(provider, memory, !Policy::content_order, seed), merger_(index_, tunables_),
          surveyor_(index_, merger_, tunables_) {}

    /// Forgets everything. Merged pages stay merged: their frames are not released. A later scanner
    /// of the provider adopts those that pages still map; call `unmerge_all` first to leave none.
    ~scanner() = default;
    scanner(scanner const&) = delete;
    scanner& operator=(scanner const&) = delete;

    /// Has the space scanned from the next pass on (S2). A space that has entered already is left
    /// as it is. A space without any mergeable page at the end of a survey leaves by itself.
    /// \returns `ok` or `out_of_memory`. \complexity O(spaces).
    status enter(space_id id) noexcept {
        if (find(id) != nullptr) {
            return status::ok;
        }
        auto* const s =
            index_.memory.template create<detail::space>(id, index_.memory, index_.entries.items);
        if (s == nullptr) {
            return status::out_of_memory;
        }
        index_.spaces.push_back(*s);
        return status::ok;
    }

    /// Forgets the space, touching none of its pages: it may have exited, at any moment (S2).
    void leave(space_id id) noexcept {
        if (detail::space* const s = find(id)) {
            forget(*s);
        }
    }

    /// Whether any space is left to scan.
    [[nodiscard]] bool has_spaces() const noexcept { return !index_.spaces.empty(); }

    /// Visits at most `budget` pages and stops at the end of a pass; resumes exactly where the
    /// previous call stopped (S3). A pass begins with a survey of every space, which visits no
    /// page. \complexity O(log n) comparisons a page that is visited; pages that were not written
    /// since they last were visited cost nothing where the provider tracks changes.
    scan_result scan(page_count budget) noexcept { return scan(budget, never); }

    /// The same, but returns soon after `stop()` has answered true: it is asked before each step
    /// of a survey, which has to begin anew then, and before each visit.
    template <class Stop>
        requires std::is_nothrow_invocable_r_v<bool, Stop&>
    scan_result scan(page_count budget, Stop&& stop) noexcept {
        if (!in_pass_ && !begin_pass(stop)) {
            return {page_count{}, false, status::ok};
        }
        std::size_t visited = 0;
        detail::rmap_item* next = next_item();
        while (next != nullptr && visited < budget.value() && !stop()) {
            visited += merger_.visit(*next, budget.value() - visited, false);
            next = next_item();
        }
        merger_.finish();
        bool const complete = next == nullptr;
        if (complete) {
            in_pass_ = false;
            index_.counters.full_scans += has_spaces() ? 1U : 0U;
        }
        return {page_count{visited}, complete, merger_.lack().first};
    }

    /// Scans to the end of the current pass.
    scan_result scan_pass() noexcept {
        return scan(page_count{std::numeric_limits<std::size_t>::max()});
    }

    /// Merges what can be merged in a range that the caller knows to be quiet, at once: its pages
    /// need not have rested for a pass. Pages that become equal to pages elsewhere which have not
    /// been visited yet are found when those are. \returns `gone` for a space that has not entered.
    scan_result merge_now(space_id id, page_range range) noexcept {
        detail::space* const s = find(id);
        if (s == nullptr) {
            return {page_count{}, false, status::gone};
        }
        detail::shortage const of_the_pass = std::exchange(merger_.lack(), {});
        surveyor_.survey(*s, never, [](page_run const&) {});
        std::size_t visited = 0;
        for_each_due(*s, range, [](detail::rmap_chunk& c, std::uint64_t mask) {
            c.due |= c.pending & mask;
            c.pending &= ~mask;
        });
        for_each_due(*s, range, [&](detail::rmap_chunk& c, std::uint64_t mask) {
            while ((c.due & mask) != 0) {
                detail::rmap_item& item = first_of(c, mask);
                visited += merger_.visit(item, (range.end() - detail::page_of(item)).value(), true);
            }
        });
        merger_.finish();
        return {page_count{visited}, false, std::exchange(merger_.lack(), of_the_pass).first};
    }

    /// Gives every page of the range a private copy (S1, S11). They are candidates again in later
    /// passes unless the provider stops reporting them. \returns How many pages from the first
    /// one on are private, and why the next one is not. `gone` for a space that has not entered.
    progress unmerge(space_id id, page_range range) noexcept {
        detail::space* const s = find(id);
        return s == nullptr ? progress{page_count{}, status::gone} : unmerge(*s, range);
    }

    /// `run` = 2: makes every page of every space private, forgets all items, and sets full_scans
    /// to 0; the spaces stay (S12). \returns Why it stopped early; then everything that was not
    /// reached stays merged and known.
    status unmerge_all() noexcept {
        in_pass_ = false; // also on failure: the cursor may stand in a chunk that goes
        for (detail::space& s : index_.spaces) {
            progress const p = unmerge(s, everything);
            if (p.why != status::ok) {
                return p.why;
            }
            forget_pages(s);
        }
        index_.counters.full_scans = 0;
        return status::ok;
    }

    /// \complexity O(1).
    [[nodiscard]] ksm::statistics statistics() const noexcept {
        ksm::statistics s = index_.counters;
        std::uint64_t const placed =
            s.pages_shared + s.pages_sharing + s.pages_unshared + s.ksm_zero_pages;
        s.pages_volatile = s.rmap_items > placed ? s.rmap_items - placed : 0;
        s.metadata_bytes = index_.memory.bytes();
        s.general_profit = profit(s.pages_sharing + s.ksm_zero_pages, s.metadata_bytes);
        return s;
    }

    /// The share of a space; zeros for one that has not entered. \complexity O(spaces).
    [[nodiscard]] ksm::space_statistics statistics(space_id id) const noexcept {
        detail::space const* const s = find_in(index_.spaces, id);
        if (s == nullptr) {
            return {};
        }
        return {s->items, s->merging_pages, s->zero_pages,
                profit(s->merging_pages + s->zero_pages,
                       s->chunks * sizeof(detail::rmap_chunk) + sizeof(detail::space))};
    }

    [[nodiscard]] ksm::tunables const& tunables() const noexcept { return tunables_; }

    /// Sets the tunable with the kernel's name, checked as the kernel checks it (S22). `run` = 2
    /// unmerges everything.
    tunable_error tune(std::string_view name, std::uint64_t value) noexcept {
        auto const fits = [&](std::uint64_t most) { return value <= most; };
        constexpr std::uint64_t most32 = std::numeric_limits<std::uint32_t>::max();
        if (name == "run") {
            return fits(2) ? set_run(static_cast<run_state>(value)) : tunable_error::out_of_range;
        }
        if (name == "pages_to_scan" || name == "sleep_millisecs") {
            if (!fits(most32)) {
                return tunable_error::out_of_range;
            }
            (name == "pages_to_scan" ? tunables_.pages_to_scan : tunables_.sleep_millisecs) =
                static_cast<std::uint32_t>(value);
            return tunable_error::none;
        }
        if (name == "use_zero_pages" || name == "merge_across_nodes") {
            if (!fits(1)) {
                return tunable_error::out_of_range;
            }
            if (name == "use_zero_pages") {
                tunables_.use_zero_pages = value == 1;
            } else if (tunables_.merge_across_nodes != (value == 1)) {
                return set_merge_across_nodes(value == 1);
            }
            return tunable_error::none;
        }
        return tunable_error::unknown_name;
    }

    /// The same, for the text that one would write to sysfs.
    tunable_error tune(std::string_view name, std::string_view text) noexcept {
        std::uint64_t value = 0;
        tunable_error const error = detail::parse(text, value);
        return error == tunable_error::none ? tune(name, value) : error;
    }

  private:
    friend class detail::inspector<scanner>;

    static constexpr page_range everything{page_number{},
                                           page_count{std::numeric_limits<std::size_t>::max()}};

    // ------------------------------------------------------------------ passes

    static constexpr auto never = []() noexcept { return false; };

    /// False: `stop()` has answered true, and no pass has begun.
    template <class Stop>
    [[nodiscard]] bool begin_pass(Stop&& stop) noexcept {
        space_ = index_.spaces.end();
        merger_.lack() = {};
        if constexpr (Policy::drops_unstable_tree) {
            for (detail::partition* const p : index_.partitions) {
                p->unstable.clear(
                    [](detail::rmap_item& item) { item.go(detail::item_state::loose); });
            }
            index_.counters.pages_unshared = 0;
        }
        for (auto it = index_.spaces.begin(); it != index_.spaces.end();) {
            detail::space& s = *it++;
            for (detail::rmap_chunk& c : s.active) {
                c.due |= c.pending;
                c.pending = 0;
            }
            if (!surveyor_.survey(s, stop, [](page_run const&) {})) {
                forget(s);
            }
            if (stop()) {
                return false;
            }
        }
        in_pass_ = true;
        space_ = index_.spaces.begin();
        if (space_ != index_.spaces.end()) {
            chunk_ = space_->active.begin();
        }
        return true;
    }

    /// The item to visit next, or null at the end of the pass. Chunks that the cursor leaves
    /// behind without anything due stop being active.
    [[nodiscard]] detail::rmap_item* next_item() noexcept {
        while (space_ != index_.spaces.end()) {
            while (chunk_ != space_->active.end()) {
                if (chunk_->due != 0) {
                    return &first_of(*chunk_, chunk_->due);
                }
                detail::rmap_chunk& c = *chunk_++;
                if (c.pending == 0) {
                    c.unlink();
                    index_.free_if_empty(c);
                }
            }
            if (++space_ != index_.spaces.end()) {
                chunk_ = space_->active.begin();
            }
        }
        return nullptr;
    }

    [[nodiscard]] static detail::rmap_item& first_of(detail::rmap_chunk& c,
                                                     std::uint64_t mask) noexcept {
        return c.slots[static_cast<std::size_t>(std::countr_zero(c.due & mask))];
    }

    /// Calls `act(chunk, mask of the range)` for the chunks in the range with pages due.
    template <class Act>
    void for_each_due(detail::space& s, page_range range, Act&& act) noexcept {
        constexpr std::uint64_t size = detail::rmap_chunk::size;
        for (auto* c = s.table.at_or_after(range.first.value());
             c != nullptr && c->index * size < range.end().value(); c = s.table.after(*c)) {
            std::uint64_t const base = c->index * size;
            std::uint64_t mask = ~std::uint64_t{0};
            if (base < range.first.value()) {
                mask &= ~std::uint64_t{0} << (range.first.value() - base);
            }
            if (range.end().value() - base < size) {
                mask &= ~(~std::uint64_t{0} << (range.end().value() - base));
            }
            if (((c->due | c->pending) & mask) != 0) {
                act(*c, mask);
            }
        }
    }

    // ------------------------------------------------------------------ spaces

    template <class Spaces>
    [[nodiscard]] static auto find_in(Spaces& spaces, space_id id) noexcept
        -> decltype(&*spaces.begin()) {
        auto it = spaces.begin();
        while (it != spaces.end() && it->id != id) {
            ++it;
        }
        return it == spaces.end() ? nullptr : &*it;
    }
    [[nodiscard]] detail::space* find(space_id id) noexcept { return find_in(index_.spaces, id); }

    /// The next survey lists them anew. \requires No pass is open.
    void forget_pages(detail::space& s) noexcept {
        index_.drop_range(s, page_number{}, everything.end());
        for (auto c = s.active.begin(); c != s.active.end();) {
            index_.free_if_empty(*c++);
        }
        s.known = false;
    }

    void forget(detail::space& s) noexcept {
        if (in_pass_ && space_ != index_.spaces.end() && &*space_ == &s) {
            if (++space_ != index_.spaces.end()) {
                chunk_ = space_->active.begin();
            }
        }
        index_.drop_range(s, page_number{}, everything.end());
        index_.spaces.erase(index_.spaces.iterator_to(s));
        index_.memory.destroy(&s);
    }

    // ------------------------------------------------------------------ unmerging

    progress unmerge(detail::space& s, page_range range) noexcept {
        // The survey makes the books complete: copies that a fork made are merged pages, too.
        // Pages for whose items there is no memory are made private while they are listed.
        progress result{range.count, status::ok};
        surveyor_.survey(s, never, [&](page_run const& run) {
            if (!s.known) {
                unmerge_untracked(s, run, range, result);
            }
        });
        page_number page = range.first;
        for (detail::rmap_item* item = at_or_after(s, page); item != nullptr;
             item = at_or_after(s, page)) {
            page_number const first = detail::page_of(*item);
            if (first >= range.end()) {
                break;
            }
            std::size_t n = 1;
            while (first + page_count{n} < range.end() &&
                   index_.find(s, first + page_count{n}) != nullptr) {
                ++n;
            }
            progress const p = index_.provider.unmerge(s.id, first, page_count{n});
            for (std::size_t i = 0; i < p.done.value(); ++i) {
                made_private(*index_.find(s, first + page_count{i}));
            }
            page = first + p.done;
            if (p.why == status::gone) {
                index_.drop(*index_.find(s, page));
            } else if (p.why != status::ok) {
                stop_at(page, p.why, range, result);
                break;
            }
        }
        return result;
    }

    // A page that maps a released frame looks private (I11), so that every state needs it.
    void unmerge_untracked(detail::space& s, page_run const& run, page_range range,
                           progress& result) noexcept {
        for (std::size_t i = 0; i < run.pages.value(); ++i) {
            page_number const page = run.first + page_count{i};
            if (range.contains(page) && index_.find(s, page) == nullptr) {
                progress const p = index_.provider.unmerge(s.id, page, page_count{1});
                if (p.why != status::ok && p.why != status::gone) {
                    stop_at(page, p.why, range, result);
                }
            }
        }
    }

    /// Notes that a page has stayed merged; the first such page counts.
    static void stop_at(page_number page, status why, page_range range, progress& result) noexcept {
        if (page - range.first < result.done) {
            result = {page - range.first, why};
        }
    }

    void made_private(detail::rmap_item& item) noexcept {
        if (is_merged(item)) {
            index_.detach(item);
            index_.revisit(item);
        }
    }

    /// The first tracked item at or behind a page, or null.
    [[nodiscard]] detail::rmap_item* at_or_after(detail::space& s, page_number page) noexcept {
        for (auto* c = s.table.at_or_after(page.value()); c != nullptr; c = s.table.after(*c)) {
            for (detail::rmap_item& item : c->slots) {
                if (item.where() != detail::item_state::absent && detail::page_of(item) >= page) {
                    return &item;
                }
            }
        }
        return nullptr;
    }

    // ------------------------------------------------------------------ control

    tunable_error set_run(run_state value) noexcept {
        tunables_.run = value;
        if (value == run_state::unmerge && unmerge_all() != status::ok) {
            tunables_.run = run_state::stop;
            return tunable_error::failed;
        }
        return tunable_error::none;
    }

    // Pages change their partition when they are surveyed next, all of them. Until then none may
    // wait for a partner in the old one.
    tunable_error set_merge_across_nodes(bool value) noexcept {
        if (index_.counters.pages_shared != 0) {
            return tunable_error::busy;
        }
        tunables_.merge_across_nodes = value;
        in_pass_ = false;
        for (detail::space& s : index_.spaces) {
            forget_pages(s);
        }
        return tunable_error::none;
    }

    [[nodiscard]] std::int64_t profit(std::uint64_t pages, std::uint64_t metadata) const noexcept {
        return static_cast<std::int64_t>(pages * index_.provider.page_size()) -
               static_cast<std::int64_t>(metadata);
    }

    ksm::tunables tunables_;
    detail::page_index<Provider> index_;
    detail::merger<Provider, Policy> merger_;
    detail::surveyor<Provider, Policy> surveyor_;
    typename decltype(index_.spaces)::iterator space_ = index_.spaces.end();
    detail::active_list::iterator chunk_;
    bool in_pass_ = false;
};

KSM_NAMESPACE_END

#endif
