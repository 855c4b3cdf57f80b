// SPDX-License-Identifier: BSL-1.0
// The page tables of a simulated machine: which page of which space maps which frame, what that
// costs in mappings, and what a survey says of it. Knows no windows and no seams.
#ifndef KSM_PROVIDERS_SIMULATED_PAGE_TABLES_HPP
#define KSM_PROVIDERS_SIMULATED_PAGE_TABLES_HPP

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <ksm/page_provider.hpp>
#include <ksm/providers/simulated/frames.hpp>
#include <ksm/types.hpp>

KSM_NAMESPACE_BEGIN
namespace detail {

struct simulated_page {
    simulated_frames::number frame = simulated_frames::zero;
    std::uint32_t domain = 0;
    std::uint16_t node = 0;
    bool mergeable = true;
    bool locked = false;
    bool moved = true; ///< No survey has told its domain and node yet.
    std::uint32_t pins = 0;
};

struct simulated_space {
    std::map<std::uint64_t, simulated_page> pages;
    /// What the next survey reports as changed; how it does so depends on what the page is then.
    /// Without change tracking: pages whose sharing was broken.
    std::set<std::uint64_t> changed;

    template <class Operation>
    void for_each(page_range range, Operation operation) {
        auto const end = pages.lower_bound(range.end().value());
        for (auto i = pages.lower_bound(range.first.value()); i != end; ++i) {
            operation(i->first, i->second);
        }
    }
};

class simulated_page_tables {
  public:
    /// Each longest run of pages that map consecutive stable frames costs two mappings: it splits
    /// the mapping around it.
    static constexpr std::size_t run_cost = 2;

    simulated_page_tables(std::size_t page_size, simulated_frames::number first_frame,
                          bool change_tracking)
        : frames(page_size, first_frame), change_tracking_(change_tracking) {}

    simulated_frames frames;

    [[nodiscard]] std::size_t mappings() const noexcept { return mappings_; }

    space_id add_space() {
        auto const id = next_space_++;
        spaces_.try_emplace(id);
        return space_id{id};
    }
    void remove_space(space_id space) {
        if (auto* const s = find(space)) {
            for (auto& [n, p] : s->pages) {
                relink(*s, n, p, simulated_frames::zero);
            }
            spaces_.erase(static_cast<std::uint32_t>(space));
        }
    }

    [[nodiscard]] simulated_space* find(space_id space) noexcept {
        auto const found = spaces_.find(static_cast<std::uint32_t>(space));
        return found == spaces_.end() ? nullptr : &found->second;
    }
    [[nodiscard]] simulated_page const* find(space_id space, page_number page) const noexcept {
        auto const s = spaces_.find(static_cast<std::uint32_t>(space));
        if (s == spaces_.end()) {
            return nullptr;
        }
        auto const found = s->second.pages.find(page.value());
        return found == s->second.pages.end() ? nullptr : &found->second;
    }
    [[nodiscard]] simulated_page* find(space_id space, page_number page) noexcept {
        return const_cast<simulated_page*>(std::as_const(*this).find(space, page));
    }

    /// Maps neither a private frame nor one that is shared by a fork only.
    [[nodiscard]] bool is_merged(simulated_page const& p) const noexcept {
        return p.frame == simulated_frames::zero || frames.is_stable(p.frame);
    }

    /// Makes a page map another frame, unless that takes more mappings than `limit`.
    bool relink(simulated_space& s, std::uint64_t page, simulated_page& p,
                simulated_frames::number target,
                std::size_t limit = simulated_frames::no_limit) noexcept {
        auto const cost = [&] {
            return (starts_run(s, page) ? run_cost : 0) + (starts_run(s, page + 1) ? run_cost : 0);
        };
        auto const old_cost = cost();
        auto const old = std::exchange(p.frame, target);
        auto const new_cost = cost();
        if (new_cost > old_cost && mappings_ + new_cost - old_cost > limit) {
            p.frame = old;
            return false;
        }
        mappings_ = mappings_ + new_cost - old_cost;
        frames.share(target);
        frames.drop(old);
        return true;
    }

    /// Gives the page a private frame of the same content.
    void copy_frame(simulated_space& s, std::uint64_t page, simulated_page& p) {
        auto const copy = frames.take_numbers(1);
        frames.add(copy, frames.bytes(p.frame), false, p.domain);
        relink(s, page, p, copy);
    }

    /// \returns  False, and stores nothing, when the page is absent, or shared and `may_copy` is
    /// not given.
    bool store(space_id space, page_number page, std::size_t offset,
               std::span<std::byte const> data, bool may_copy) {
        auto* const p = find(space, page);
        if (p == nullptr) {
            return false;
        }
        auto& s = *find(space);
        bool const merged = is_merged(*p);
        if (frames.is_copied_on_write(p->frame)) {
            if (!may_copy) {
                return false;
            }
            copy_frame(s, page.value(), *p);
        }
        frames.write(p->frame, offset, data);
        if (merged) {
            s.changed.insert(page.value());
        } else if (p->mergeable) {
            note(s, page.value());
        }
        return true;
    }

    /// With change tracking: the next survey reports the page.
    void note(simulated_space& s, std::uint64_t page) {
        if (change_tracking_) {
            s.changed.insert(page);
        }
    }

    void unmap(simulated_space& s, page_range range) {
        s.for_each(range, [&](std::uint64_t n, simulated_page& p) {
            relink(s, n, p, simulated_frames::zero);
            if (p.mergeable) {
                note(s, n);
            }
        });
        s.pages.erase(s.pages.lower_bound(range.first.value()),
                      s.pages.lower_bound(range.end().value()));
    }

    /// Lets an empty space share every frame of another one.
    void copy_pages(simulated_space const& from, simulated_space& to) {
        for (auto const& [n, p] : from.pages) {
            auto& copy = to.pages[n];
            copy.domain = p.domain;
            copy.node = p.node;
            copy.mergeable = p.mergeable;
            relink(to, n, copy, p.frame);
            if (p.mergeable) {
                note(to, n);
            }
        }
    }

    /// Lists pages from `from` on, and begins the next tracking interval of those that it covers.
    [[nodiscard]] survey_result list(simulated_space& s, page_number from, coverage given,
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
            if (auto const p = s.pages.find(n); result.end && p != s.pages.end()) {
                p->second.moved = false;
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
        s.changed.erase(s.changed.lower_bound(from.value()),
                        result.end ? s.changed.end() : s.changed.lower_bound(result.next.value()));
        return result;
    }

    /// Recounts everything. \returns What is wrong, or an empty string.
    [[nodiscard]] std::string_view verify() const {
        std::unordered_map<simulated_frames::number, std::size_t> references;
        std::size_t mappings = 0;
        for (auto const& [id, s] : spaces_) {
            for (auto const& [n, p] : s.pages) {
                ++references[p.frame];
                mappings += starts_run(s, n) ? run_cost : 0;
                if (!frames.exists(p.frame)) {
                    return "a page maps a frame that was reclaimed (I11)";
                }
                if (is_merged(p) && (p.pins != 0 || !p.mergeable)) {
                    return "a pinned or unmergeable page is merged";
                }
            }
        }
        return mappings != mappings_ ? "the count of mappings is wrong" : frames.verify(references);
    }

  private:
    [[nodiscard]] bool starts_run(simulated_space const& s, std::uint64_t page) const noexcept {
        auto const here = s.pages.find(page);
        if (here == s.pages.end() || !frames.is_stable(here->second.frame)) {
            return false;
        }
        auto const before = s.pages.find(page - 1);
        return before == s.pages.end() || !frames.is_stable(before->second.frame) ||
               before->second.frame + 1 != here->second.frame;
    }

    [[nodiscard]] page_run describe(simulated_space const& s, std::uint64_t n,
                                    coverage given) const noexcept {
        page_run run;
        run.first = page_number{n};
        run.pages = page_count{1};
        auto const found = s.pages.find(n);
        if (found == s.pages.end() || !found->second.mergeable) {
            run.state = page_state::gone;
            return run;
        }
        auto const& p = found->second;
        run.domain = p.domain;
        run.node = p.node;
        if (p.frame == simulated_frames::zero) {
            run.state = page_state::zero;
        } else if (frames.is_live(p.frame)) {
            run.state = page_state::merged;
            run.frame = frame_id{p.frame};
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

    std::map<std::uint32_t, simulated_space> spaces_;
    std::uint32_t next_space_ = 0;
    std::size_t mappings_ = 0;
    bool change_tracking_;
};

/// A page from which writers are excluded, and the stores that wait.
struct simulated_window {
    struct store {
        std::size_t offset;
        std::vector<std::byte> data;
    };
    space_id space;
    page_number page;
    std::vector<store> waiting;
};

} // namespace detail
KSM_NAMESPACE_END

#endif
