// SPDX-License-Identifier: BSL-1.0
// A simulated machine, a scanner and the oracle, side by side. Every operation goes to all of them,
// and after each one everything is compared.
#ifndef KSM_TESTS_MODEL_WORLD_HPP
#define KSM_TESTS_MODEL_WORLD_HPP

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <ksm/providers/faulty.hpp>
#include <ksm/providers/simulated.hpp>

#include "checked_provider.hpp"
#include "engine.hpp"
#include "reference.hpp"
#include "support/memory.hpp"

namespace model {

inline constexpr std::uint32_t max_spaces = 4;

struct setup {
    std::size_t page_size = 64;
    std::uint32_t pages = 16; ///< Of each space.
    model::policy policy = policy::standard;
    bool change_tracking = true;
    bool batches = false;
};

class world {
  public:
    explicit world(setup const& s)
        : setup_(s), machine_(options_of(s)), faulty_(machine_), provider_(faulty_, machine_),
          oracle_(s.page_size) {
        machine_.on_seam = [this](ksm::seam at, ksm::space_id space, ksm::page_number page) {
            reach(at, space, page);
        };
        start_engine();
        for (std::uint32_t i = 0; i < 2; ++i) {
            create(i);
            map(i, 0, s.pages, 0, 0);
            enter(i);
        }
    }
    world(world const&) = delete;
    world& operator=(world const&) = delete;

    /// The first invariant that was found broken, or empty.
    [[nodiscard]] std::string const& fault() const noexcept {
        return fault_.empty() ? provider_.fault() : fault_;
    }

    /// Performs one operation, and then compares everything with everything.
    template <class Operation>
    void step(Operation const& operation) {
        undisturbed_ = true;
        pass_began_ = false;
        auto const failures = memory_.failures();
        operation.perform(*this);
        check();
        if (pass_began_ && undisturbed_ && memory_.failures() == failures) {
            check_recount();
        }
    }

    // What the owner of the memory does. Spaces and pages are taken modulo what there is; an
    // operation on a space that does not exist does nothing.

    void create(std::uint32_t space) {
        auto& slot = slots_[space % max_spaces];
        if (!slot) {
            slot = machine_.create_space();
        }
    }
    void map(std::uint32_t space, std::uint32_t first, std::uint32_t count, std::uint32_t domain,
             std::uint16_t node) {
        for_each_page(space, first, count, [&](ksm::space_id s, ksm::page_number page) {
            bool const done = machine_.map(s, page, ksm::page_count{1}, domain, node);
            if (done) {
                oracle_.map(s, page.value(), domain, node);
            }
            expect(done || frames_limited_, "S3: a page cannot be mapped");
        });
    }
    void unmap(std::uint32_t space, std::uint32_t first, std::uint32_t count) {
        for_each_page(space, first, count, [&](ksm::space_id s, ksm::page_number page) {
            machine_.unmap(s, {page, ksm::page_count{1}});
            oracle_.unmap(s, page.value());
        });
    }
    void write(std::uint32_t space, std::uint32_t page, std::uint32_t offset,
               std::span<std::byte const> data) {
        for_each_page(space, page, 1, [&](ksm::space_id s, ksm::page_number p) {
            store(s, p, offset % (setup_.page_size - data.size() + 1), data);
        });
    }
    /// Fills whole pages with bytes of `content`, `content + step`, ...
    void fill(std::uint32_t space, std::uint32_t first, std::uint32_t count, std::uint32_t content,
              std::uint32_t step) {
        for_each_page(space, first, count, [&](ksm::space_id s, ksm::page_number p) {
            std::vector<std::byte> const bytes(setup_.page_size, std::byte(content & 31U));
            store(s, p, 0, bytes);
            content += step;
        });
    }
    void set_mergeable(std::uint32_t space, std::uint32_t first, std::uint32_t count, bool on) {
        if (auto const s = find(space)) {
            ksm::page_range const range = range_of(first, count);
            bool const done = machine_.set_mergeable(*s, range, on);
            for (auto p = range.first.value(); done && p < range.end().value(); ++p) {
                if (auto* const page = oracle_.find(*s, p)) {
                    page->mergeable = on;
                }
            }
            expect(done || frames_limited_, "S1: a range cannot be made unmergeable");
        }
    }
    void fork(std::uint32_t parent, std::uint32_t child) {
        auto& slot = slots_[child % max_spaces];
        auto const s = find(parent);
        if (s && !slot) {
            slot = machine_.fork(*s);
            oracle_.fork(*s, *slot);
        }
    }
    void exit(std::uint32_t space) {
        if (auto const s = find(space)) {
            machine_.exit(*s);
            oracle_.exit(*s);
            for (auto& slot : slots_) {
                slot = slot == s ? std::nullopt : slot;
            }
        }
    }
    void pin(std::uint32_t space, std::uint32_t page) {
        for_each_page(space, page, 1, [&](ksm::space_id s, ksm::page_number p) {
            auto* const known = oracle_.find(s, p.value());
            bool const done = machine_.pin(s, p);
            if (done && known != nullptr) {
                ++known->pins;
            }
            expect(done == (known != nullptr) || (frames_limited_ && !done),
                   "S20: a page cannot be pinned");
        });
    }
    void unpin(std::uint32_t space, std::uint32_t page) {
        for_each_page(space, page, 1, [&](ksm::space_id s, ksm::page_number p) {
            auto* const known = oracle_.find(s, p.value());
            if (known != nullptr && known->pins != 0) {
                machine_.unpin(s, p);
                --known->pins;
            }
        });
    }
    void lock(std::uint32_t space, std::uint32_t page, bool on) {
        for_each_page(space, page, 1, [&](ksm::space_id s, ksm::page_number p) {
            on ? machine_.lock(s, p) : machine_.unlock(s, p);
        });
    }
    void move_to_node(std::uint32_t space, std::uint32_t first, std::uint32_t count,
                      std::uint16_t node) {
        for_each_page(space, first, count, [&](ksm::space_id s, ksm::page_number p) {
            if (machine_.set_node(s, {p, ksm::page_count{1}}, node) &&
                oracle_.find(s, p.value()) != nullptr) {
                oracle_.find(s, p.value())->node = node;
            }
        });
    }
    void move_to_domain(std::uint32_t space, std::uint32_t first, std::uint32_t count,
                        std::uint32_t domain) {
        for_each_page(space, first, count, [&](ksm::space_id s, ksm::page_number p) {
            if (machine_.set_domain(s, {p, ksm::page_count{1}}, domain) &&
                oracle_.find(s, p.value()) != nullptr) {
                oracle_.find(s, p.value())->domain = domain;
            }
        });
    }

    /// Leaves room for so many more frames or mappings.
    void limit_frames(std::uint32_t spare) {
        frames_limited_ = true;
        machine_.set_frame_limit(machine_.frames_in_use() + spare);
    }
    void limit_mappings(std::uint32_t spare) {
        machine_.set_mapping_limit(machine_.mappings_in_use() + spare);
    }
    void lift_limits() {
        frames_limited_ = window_.has_value() && frames_limited_;
        machine_.set_frame_limit(std::numeric_limits<std::size_t>::max());
        machine_.set_mapping_limit(std::numeric_limits<std::size_t>::max());
    }

    // What happens to the engine. Nothing of it is allowed from within a seam.

    void enter(std::uint32_t space) {
        if (auto const s = engine_space(space)) {
            auto const failures = memory_.failures();
            auto const why = engine_->enter(*s);
            expect(why == ksm::status::ok || memory_.failures() != failures,
                   "S2: a space cannot enter");
        }
    }
    void leave(std::uint32_t space) {
        if (auto const s = engine_space(space)) {
            engine_->leave(*s);
        }
    }
    void scan(ksm::page_count budget) {
        if (!in_seam_) {
            pass_begins_ = pass_began_ = !pass_open_;
            auto const r = engine_->scan(budget);
            pass_begins_ = false;
            pass_open_ = !r.pass_complete;
            expect(r.visited <= budget, "S3: a scan visits more than its budget");
        }
    }
    void merge_now(std::uint32_t space, std::uint32_t first, std::uint32_t count) {
        if (auto const s = engine_space(space)) {
            (void)engine_->merge_now(*s, range_of(first, count));
        }
    }
    void unmerge(std::uint32_t space, std::uint32_t first, std::uint32_t count) {
        if (auto const s = engine_space(space)) {
            ksm::page_range const range = range_of(first, count);
            bool const known = has_entered(*s);
            auto const p = engine_->unmerge(*s, range);
            expect(p.why == ksm::status::gone ? !known : known,
                   "S1: unmerge knows a space that has not entered");
            expect(p.why != ksm::status::ok || p.done == range.count,
                   "I8: unmerge is content with less than the range");
            expect_private(*s, {range.first, p.done});
        }
    }
    void unmerge_all() {
        if (!in_seam_) {
            std::vector<ksm::space_id> entered;
            for (auto const& s : slots_) {
                if (s && has_entered(*s)) {
                    entered.push_back(*s);
                }
            }
            pass_open_ = false;
            if (engine_->unmerge_all() == ksm::status::ok) {
                for (ksm::space_id const s : entered) {
                    expect_private(s, everything());
                }
                auto const s = engine_->statistics();
                expect(s.rmap_items == 0 && s.full_scans == 0,
                       "S12: unmerge_all has not forgotten everything");
            }
        }
    }
    void use_zero_pages(bool on) {
        if (!in_seam_) {
            expect(engine_->tune("use_zero_pages", on ? 1 : 0) == ksm::tunable_error::none,
                   "S22: use_zero_pages is refused");
        }
    }
    void merge_across_nodes(bool on) {
        if (!in_seam_) {
            bool const now = engine_->tunables().merge_across_nodes;
            bool const shared = engine_->statistics().pages_shared != 0;
            auto const error = engine_->tune("merge_across_nodes", on ? 1 : 0);
            expect((error == ksm::tunable_error::busy) == (shared && now != on),
                   "S22: merge_across_nodes changes exactly while nothing is shared");
        }
    }
    /// The scanner dies, and another one finds merged pages.
    void restart() {
        if (!in_seam_) {
            start_engine();
            frames_may_leak_ = true;
        }
    }
    void fail_metadata(std::uint32_t after, std::uint32_t count) {
        if (!in_seam_) {
            memory_.fail(after, count);
        }
    }
    /// The `after`-th next call of `where` does `done` pages and then answers `why`; a survey then
    /// reports so many runs.
    void fail_provider(ksm::operation where, std::uint32_t after, std::uint32_t done,
                       ksm::status why) {
        bool const needs_progress = why == ksm::status::ok || where == ksm::operation::survey;
        // `gone` would be a lie: the page would be forgotten although it is there.
        if (why != ksm::status::gone && where != ksm::operation::view_page) {
            faulty_.add({.where = where,
                         .first_call = faulty_.calls(where) + after,
                         .why = why,
                         .done = page_count{needs_progress && done == 0 ? 1 : done}});
            forsaken_ = forsaken_ || why == ksm::status::refused || why == ksm::status::changed;
        }
    }

    /// Has `program` performed when the seam is reached for the `skip`-th time from now on. With
    /// `here`, it acts on the page at which the seam is.
    void at_seam(ksm::seam at, std::uint32_t skip, bool here, std::function<void(world&)> program) {
        if (!in_seam_) {
            armed_.push_back({at, skip, here, std::move(program)});
        }
    }

    /// Everything that hinders ends; within four passes all that is equal is then merged, after the
    /// longest rest if pages rest from having been written. Where many contents have one digest, a
    /// page may be promoted in vain behind one that is merged, and must wait for another pass each
    /// time.
    void settle() {
        if (in_seam_) {
            return;
        }
        armed_.clear();
        faulty_.clear();
        memory_.succeed();
        lift_limits();
        for (auto& [where, page] : oracle_.pages()) {
            ksm::page_number const p{where.second};
            for (; page.pins != 0; --page.pins) {
                machine_.unpin(where.first, p);
            }
            machine_.unlock(where.first, p);
            if (forsaken_) {
                store(where.first, p, 0, std::vector{page.bytes.front()});
            }
        }
        forsaken_ = false;
        for (std::uint32_t i = 0; i < max_spaces; ++i) {
            enter(i);
        }
        bool const weak =
            setup_.policy == policy::weak_standard || setup_.policy == policy::weak_classic;
        auto const scan_passes = [this](int n) {
            for (; n > 0; --n) {
                scan(everything().count);
            }
        };
        scan_passes(pass_open_ ? 2 : 1); // to the end of a survey
        constexpr int longest_rest = 40;
        scan_passes((engine_->any_rests() ? longest_rest : 0) + 3 + (weak ? 4 : 0));
        check_converged();
    }

  private:
    struct armed {
        ksm::seam at;
        std::uint32_t skip;
        bool here;
        std::function<void(world&)> program;
    };
    struct place {
        ksm::space_id space;
        ksm::page_number page;
        friend bool operator==(place const&, place const&) = default;
    };

    static ksm::simulated_options options_of(setup const& s) {
        ksm::simulated_options o;
        o.page_size = s.page_size;
        o.change_tracking = s.change_tracking;
        o.batches = s.batches;
        return o;
    }

    void expect(bool condition, char const* what) {
        if (!condition && fault_.empty()) {
            fault_ = what;
        }
    }

    // ---- names

    [[nodiscard]] std::optional<ksm::space_id> find(std::uint32_t space) const {
        if (!here_) {
            return slots_[space % max_spaces];
        }
        // The space at which a seam is may have exited since.
        auto const here = std::ranges::find(slots_, std::optional{here_->space});
        return here == slots_.end() ? std::nullopt : *here;
    }
    [[nodiscard]] std::optional<ksm::space_id> engine_space(std::uint32_t space) const {
        return in_seam_ ? std::nullopt : slots_[space % max_spaces];
    }
    [[nodiscard]] ksm::page_number page_of(std::uint32_t page) const {
        std::uint64_t const base = here_ ? here_->page.value() : 0;
        return ksm::page_number{(base + page % (here_ ? 3U : setup_.pages)) % setup_.pages};
    }
    [[nodiscard]] ksm::page_range range_of(std::uint32_t first, std::uint32_t count) const {
        return {page_of(first), ksm::page_count{count}};
    }
    [[nodiscard]] ksm::page_range everything() const {
        return {ksm::page_number{0}, ksm::page_count{std::numeric_limits<std::size_t>::max()}};
    }
    template <class Operation>
    void for_each_page(std::uint32_t space, std::uint32_t first, std::uint32_t count,
                       Operation operation) {
        if (auto const s = find(space)) {
            ksm::page_range const range = range_of(first, count);
            for (auto p = range.first; p < range.end() && p.value() < setup_.pages;
                 p += ksm::page_count{1}) {
                operation(*s, p);
            }
        }
    }
    /// A space that the engine does not know has no metadata.
    [[nodiscard]] bool has_entered(ksm::space_id s) const {
        auto const statistics = engine_->statistics(s);
        return statistics.rmap_items != 0 || statistics.ksm_process_profit != 0;
    }

    // ---- operations

    void start_engine() {
        engine_.reset();
        expect(memory_.bytes() == 0, "S21: a scanner has left metadata behind");
        engine_ = make_engine(setup_.policy, provider_, &memory_);
        pass_open_ = false;
    }

    void store(ksm::space_id s, ksm::page_number page, std::size_t offset,
               std::span<std::byte const> data) {
        bool const waits = window_ == place{s, page};
        bool const present = oracle_.find(s, page.value()) != nullptr;
        bool const done = machine_.write(s, page, offset, data);
        if (done) {
            waits ? oracle_.write_later(s, page.value(), offset, data)
                  : oracle_.write(s, page.value(), offset, data);
        }
        expect(done == present || (frames_limited_ && !done), "I1: a store is refused");
    }

    void reach(ksm::seam at, ksm::space_id space, ksm::page_number page) {
        if (ksm::excludes_writers(at)) {
            window_ = place{space, page};
        } else if (std::exchange(window_, std::nullopt)) {
            oracle_.protection_ends();
        }
        if (at == ksm::seam::survey_begin && std::exchange(pass_begins_, false)) {
            bool const classic =
                setup_.policy == policy::classic || setup_.policy == policy::weak_classic;
            expect(!classic || engine_->statistics().pages_unshared == 0,
                   "I5: the unstable tree is not empty when a pass begins");
        }
        for (std::size_t i = 0; i < armed_.size(); ++i) {
            if (armed_[i].at != at || armed_[i].skip-- != 0) {
                continue;
            }
            armed const a = std::move(armed_[i]);
            armed_.erase(armed_.begin() + static_cast<std::ptrdiff_t>(i--));
            in_seam_ = true;
            undisturbed_ = false;
            provider_.disturb();
            here_ = a.here ? std::optional{place{space, page}} : std::nullopt;
            a.program(*this);
            here_.reset();
            in_seam_ = false;
        }
    }

    // ---- comparisons

    void check() {
        check_contents();
        check_sharing();
        auto const machine = machine_.verify();
        expect(machine.empty(), machine.data());
        char const* const broken = engine_->broken();
        expect(broken == nullptr, broken);
        check_statistics();
    }

    void check_contents() {
        for (auto const& s : slots_) {
            for (std::uint64_t p = 0; s && p < setup_.pages; ++p) {
                auto const* const known = oracle_.find(*s, p);
                auto const bytes = machine_.read(*s, ksm::page_number{p});
                if (known == nullptr) {
                    expect(bytes.empty(), "I1: a page that was unmapped is there");
                } else {
                    expect(bytes.size() == known->bytes.size() &&
                               std::memcmp(bytes.data(), known->bytes.data(), bytes.size()) == 0,
                           "I1: a page does not read what was last written");
                }
            }
        }
    }

    void check_sharing() {
        std::map<ksm::frame_id, std::uint32_t> domain_of;
        for (auto const& [where, page] : oracle_.pages()) {
            auto const frame = machine_.frame_of(where.first, ksm::page_number{where.second});
            if (frame) {
                auto const [seen, first] = domain_of.try_emplace(*frame, page.domain);
                expect(first || seen->second == page.domain,
                       "I2: pages of different domains share a frame");
            }
        }
    }

    void check_statistics() {
        auto const s = engine_->statistics();
        expect(s.metadata_bytes == memory_.bytes(), "I6: metadata_bytes differ from a recount");
        expect(s.by_status == provider_.by_status() || frames_may_leak_,
               "I6: by_status differs from the calls that were made");
        std::set<ksm::frame_id> named;
        for (auto const& [frame, sharers] : engine_->frames()) {
            named.insert(frame);
        }
        expect(frames_may_leak_ || named == provider_.live_frames(),
               "I11: a frame is neither in a stable tree nor released");
    }

    /// Right after a survey that nobody disturbed, the engine's books and the machine agree.
    void check_recount() {
        std::map<ksm::frame_id, std::uint64_t> mapped;
        std::uint64_t zero = 0;
        std::uint64_t present = 0;
        for (auto const& [where, page] : oracle_.pages()) {
            if (!page.mergeable || !has_entered(where.first)) {
                continue;
            }
            ksm::page_number const p{where.second};
            ++present;
            zero += machine_.is_zero(where.first, p) ? 1U : 0U;
            if (auto const frame = machine_.frame_of(where.first, p)) {
                ++mapped[*frame];
            }
        }
        auto const s = engine_->statistics();
        expect(s.rmap_items == present, "I6: rmap_items differ from the pages that are there");
        expect(s.ksm_zero_pages == zero, "I6: ksm_zero_pages differ from the machine's");
        for (auto const& [frame, sharers] : engine_->frames()) {
            // Pages may map a frame that an earlier scanner made, or that they could not leave,
            // without the engine counting them as sharers.
            bool const more = frames_may_leak_ || provider_.unmerging_failed();
            expect(mapped[frame] == sharers || (more && mapped[frame] > sharers),
                   "I6: a frame's sharers differ from the machine's");
        }
    }

    void expect_private(ksm::space_id s, ksm::page_range range) {
        for (std::uint64_t p = 0; p < setup_.pages; ++p) {
            ksm::page_number const page{p};
            expect(!range.contains(page) || !machine_.is_mapped(s, page) ||
                       machine_.is_private(s, page),
                   "I8: a page is not private after unmerging");
        }
    }

    void check_converged() {
        bool const across = engine_->tunables().merge_across_nodes;
        struct group {
            std::uint64_t pages = 0;
            std::uint64_t zero = 0;
            std::uint64_t alone = 0;
            std::set<ksm::frame_id> frames;
        };
        std::map<std::tuple<std::uint32_t, std::uint16_t, std::vector<std::byte>>, group> groups;
        for (auto const& [where, page] : oracle_.pages()) {
            if (!page.mergeable) {
                continue;
            }
            ksm::page_number const p{where.second};
            auto const node = across ? std::uint16_t{0} : page.node;
            group& g = groups[{page.domain, node, page.bytes}];
            ++g.pages;
            if (machine_.is_zero(where.first, p)) {
                ++g.zero;
            } else if (auto const frame = machine_.frame_of(where.first, p)) {
                g.frames.insert(*frame);
            } else {
                ++g.alone;
            }
        }
        std::uint64_t saved = 0;
        for (auto const& [key, g] : groups) {
            expect(g.alone == 0 || g.pages - g.zero == 1, "S9: equal pages have not merged");
            expect(g.frames.size() <= 1, "S6: equal pages share different frames");
            saved += g.frames.empty() ? 0 : g.pages - g.zero - 1;
        }
        expect(engine_->statistics().pages_sharing == saved,
               "S14: pages_sharing is not what is saved");
    }

    setup setup_;
    support::failing_resource memory_;
    ksm::simulated_provider machine_;
    ksm::faulty_provider<ksm::simulated_provider> faulty_;
    checked_provider provider_;
    std::unique_ptr<engine> engine_;
    reference oracle_;
    std::array<std::optional<ksm::space_id>, max_spaces> slots_;
    std::string fault_;
    std::vector<armed> armed_;
    std::optional<place> here_;   // where the program at a seam acts
    std::optional<place> window_; // from which page writers are excluded
    bool in_seam_ = false;
    bool pass_open_ = false;
    bool pass_begins_ = false; // and has surveyed nothing yet
    bool pass_began_ = false;  // in this step
    bool undisturbed_ = true;  // in this step
    bool frames_limited_ = false;
    bool frames_may_leak_ = false; // those that a scanner left when it died
    bool forsaken_ = false;        // only a write brings pages back that were refused or changed
};

} // namespace model

#endif
