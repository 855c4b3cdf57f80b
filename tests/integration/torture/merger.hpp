// SPDX-License-Identifier: BSL-1.0
#ifndef KSM_TESTS_INTEGRATION_TORTURE_MERGER_HPP
#define KSM_TESTS_INTEGRATION_TORTURE_MERGER_HPP

#include <numeric>

#include <ksm/detail/invariants.hpp>

#include "actor.hpp"
#include "world.hpp"

namespace torture {

/// The scanner, flat out. Now and then it un-merges a range, or merges one without waiting for its
/// pages to rest.
class merger final : public actor {
  public:
    explicit merger(world& w) : actor("merger"), world_(w) {}

    void finish() override {
        char const* const broken =
            ksm::detail::inspector<decltype(world_.engine)>{world_.engine}.broken();
        if (broken != nullptr) {
            complain("the engine's books: %s", broken);
        }
    }
    void add_to(totals& t) const override {
        ksm::statistics const s = world_.engine.statistics();
        t.merges += s.merged_pages_total;
        t.unmerges += unmerges_;
        t.by_status = s.by_status;
        t.windows += std::accumulate(s.by_status.begin(), s.by_status.end(), windows_);
    }

  private:
    void step() override {
        now("lets others go first");
        world_.let_others_go_first();
        world::turn const mine{world_};
        now("scans");
        static_cast<void>(world_.engine.scan(ksm::page_count{256}));
        if (dice_(4) == 0) {
            now("un-merges");
            area const& where = dice_(2) != 0 ? world_.active : world_.restless;
            ksm::progress const p = world_.engine.unmerge(world_.provider.space(), part(where, 16));
            if (p.why != ksm::status::ok) {
                complain("un-merging ended with status %u", static_cast<unsigned>(p.why));
            }
            unmerges_ += p.done.value();
            ++windows_;
        }
        if (dice_(16) == 0) {
            now("merges at once");
            static_cast<void>(
                world_.engine.merge_now(world_.provider.space(), part(world_.active, 64)));
        }
        ++world_.engine_calls;
    }
    /// `n` pages somewhere in an area.
    [[nodiscard]] ksm::page_range part(area const& a, std::size_t n) {
        ksm::page_range r = world_.pages(a);
        r.first += ksm::page_count{dice_(r.count.value() - n + 1)};
        r.count = ksm::page_count{n};
        return r;
    }

    world& world_;
    dice dice_{8};
    std::uint64_t unmerges_ = 0;
    std::uint64_t windows_ = 0;
};

} // namespace torture

#endif
