// SPDX-License-Identifier: BSL-1.0
// What the actors of a soak test share: one region with areas for each purpose, the provider, the
// one scanner over it, and the rules of the strategy.
#ifndef KSM_TESTS_INTEGRATION_TORTURE_WORLD_HPP
#define KSM_TESTS_INTEGRATION_TORTURE_WORLD_HPP

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <vector>

#include <sched.h>
#include <sys/mman.h>

#include <ksm/providers/linux.hpp>
#include <ksm/scanner.hpp>

#include "../linux_support.hpp"
#include "content.hpp"
#include "safepoint.hpp"

namespace torture {

/// A row of the table: what a strategy promises, and so who may act.
struct strategy {
    char const* name;
    ksm::write_exclusion exclusion;
    bool promises_no_syscall_io; ///< No system call writes while it merges.
    bool promises_no_pinned_io;  ///< No pinned pages.
    bool needs_hooks;            ///< User writers park while it merges.
    /// A child of a raw clone sees every page whatever window is open in its parent.
    bool raw_clone_sees_all;

    [[nodiscard]] ksm::linux_options options(safepoint& s) const {
        ksm::linux_options o;
        o.strategy = exclusion;
        o.no_syscall_io = promises_no_syscall_io;
        o.no_pinned_io = promises_no_pinned_io;
        o.count_waits = true;
        if (needs_hooks) {
            o.freeze = safepoint::freeze;
            o.thaw = safepoint::thaw;
            o.freeze_context = &s;
        }
        return o;
    }
};

/// Consecutive blocks of the region.
struct area {
    std::byte* first;
    std::size_t blocks;
    std::size_t block_bytes;

    [[nodiscard]] std::byte* block(std::size_t i) const { return first + i * block_bytes; }
    [[nodiscard]] std::size_t bytes() const { return blocks * block_bytes; }
};

class world {
  public:
    // Every content that the writers can make stands in both quiet areas, so that a stable frame
    // of it exists for good: what is merged all the time needs no new frames all the time.
    static constexpr std::size_t quiet_blocks = user_values * user_values * syscall_values;
    static constexpr std::size_t active_blocks = 128;
    static constexpr std::size_t wave_blocks = 8;
    static constexpr std::size_t nursery_blocks = 16;
    static constexpr std::size_t all_blocks = 2 * quiet_blocks + active_blocks + wave_blocks;

    explicit world(strategy const& s)
        : rules(s), provider(s.options(writers)), engine(provider), page(provider.page_size()),
          region(provider, all_blocks * block_pages) {
        std::size_t at = 0;
        auto const take = [&](std::size_t blocks) {
            area const a{region.at(at * block_pages), blocks, block_pages * page};
            at += blocks;
            return a;
        };
        restless = take(quiet_blocks);
        active = take(active_blocks);
        wave = take(wave_blocks);
        calm = take(quiet_blocks);
        nursery = {nullptr, nursery_blocks, block_pages * page};
        void* const reserved =
            ::mmap(nullptr, nursery.bytes(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (reserved == MAP_FAILED) {
            FAIL("no memory");
        }
        nursery.first = static_cast<std::byte*>(reserved);
        for (std::size_t i = 0; i < quiet_blocks; ++i) {
            for (area const& a : {restless, calm}) {
                compose(a.block(i), page,
                        {i % user_values, i / user_values % user_values,
                         i / user_values / user_values});
            }
        }
        for (area const& a : {active, wave}) {
            for (std::size_t i = 0; i < a.blocks; ++i) {
                compose(a.block(i), page, {});
            }
        }
        snapshot.resize(calm.bytes());
        std::memcpy(snapshot.data(), calm.first, snapshot.size());
    }

    ~world() { ::munmap(nursery.first, nursery.bytes()); }
    world(world const&) = delete;
    world& operator=(world const&) = delete;

    /// The pages that an area has.
    [[nodiscard]] ksm::page_range pages(area const& a) const {
        return {provider.page_of(a.first), ksm::page_count{a.blocks * block_pages}};
    }
    /// The counter of a page of the wave: it only grows.
    [[nodiscard]] std::byte* wave_counter(std::size_t i) const {
        return word_slots(page).in(wave.first, i);
    }
    [[nodiscard]] static constexpr std::size_t wave_pages() { return wave_blocks * block_pages; }

    /// Whether the active pages are what they were wherever no actor owns anything: what one writes
    /// must not cost another page's content. \requires The actors have ended.
    [[nodiscard]] bool base_is_intact() const {
        std::vector<std::byte> expected(active.block_bytes);
        compose(expected.data(), page, {});
        std::vector<std::byte> got(active.block_bytes);
        for (std::size_t b = 0; b < active.blocks; ++b) {
            std::memcpy(got.data(), active.block(b), got.size());
            fill_slots(got.data(), page, {});
            if (got != expected) {
                return false;
            }
        }
        return true;
    }

    strategy const& rules;
    safepoint writers;
    ksm::linux_provider provider;
    ksm::scanner<ksm::linux_provider> engine;
    std::size_t page;

    /// Whoever calls the provider or the engine holds this. The scanner lets those go first who
    /// ask, or it would hardly ever be free.
    class turn {
      public:
        explicit turn(world& w) : world_(w) {
            ++world_.asking_;
            world_.mutex_.lock();
            --world_.asking_;
        }
        ~turn() { world_.mutex_.unlock(); }
        turn(turn const&) = delete;
        turn& operator=(turn const&) = delete;

      private:
        world& world_;
    };
    void let_others_go_first() {
        while (asking_ != 0) {
            ::sched_yield();
        }
    }

    linux_test::memory region;
    area restless; ///< Nobody writes it; it is un-merged and merged again.
    area active;   ///< What the writers write.
    area wave;     ///< Pages of equal counters that grow, one after the other.
    area calm;     ///< Nobody writes it, nobody un-merges it.
    /// What threads of short life write: fresh memory now and then, not a part of the region.
    area nursery;
    std::atomic<std::uint64_t> nursery_changes{0};
    [[nodiscard]] bool nursery_filled() const { return nursery_changes % 2 != 0; }
    std::vector<std::byte> snapshot; ///< Of each of the quiet areas.
    /// No counter of the wave is higher.
    std::atomic<std::uint64_t> wave_round{0};
    /// Calls of the engine that have ended, for those who wait for it to come by.
    std::atomic<std::uint64_t> engine_calls{0};

  private:
    std::mutex mutex_;
    std::atomic<int> asking_{0};
};

} // namespace torture

#endif
