// SPDX-License-Identifier: BSL-1.0
#ifndef KSM_TESTS_INTEGRATION_TORTURE_THREAD_CREATOR_HPP
#define KSM_TESTS_INTEGRATION_TORTURE_THREAD_CREATOR_HPP

#include <array>
#include <cerrno>
#include <cstring>
#include <thread>

#include <sys/mman.h>
#include <unistd.h>

#include "actor.hpp"
#include "world.hpp"

namespace torture {

/// Makes threads that live for a few stores: a provider must find those excluded, too, that came
/// after it had looked for writers. They store into memory that is fresh: it has never been merged
/// when they begin, and it is given back soon.
class thread_creator final : public actor {
  public:
    explicit thread_creator(world& w) : actor("threads"), world_(w), slots_(word_slots(w.page)) {}

    void finish() override {
        if (world_.nursery_filled()) {
            retire();
        }
    }
    void add_to(totals& t) const override {
        t.threads += threads_;
        t.checked_stores += stores_;
    }

  private:
    static constexpr std::size_t blocks = world::nursery_blocks;

    void step() override {
        if (steps() % 32 == 0) {
            if (world_.nursery_filled()) {
                retire();
            }
            renew();
        }
        now("makes threads");
        std::size_t const b = 2 * dice_(blocks / 2);
        std::size_t const rounds = 4 + dice_(2 * user_values);
        {
            std::jthread const one{[&] { store_in(b, rounds); }};
            std::jthread const two{[&] { store_in(b + 1, rounds); }};
            now("joins threads");
        }
        threads_ += 2;
        stores_ += 2 * rounds * slots_.count;
        ::usleep(500);
    }

    void store_in(std::size_t b, std::size_t rounds) {
        safepoint::running const here{world_.writers};
        for (std::size_t r = 0; r < rounds; ++r) {
            std::uint64_t const next = (mine_[b] + 1) % user_values;
            for (std::size_t i = 0; i < slots_.count; ++i) {
                wrong_[b] += load(slot(b, i)) != word_of(mine_[b]) ? 1U : 0U;
                store(slot(b, i), word_of(next));
            }
            mine_[b] = next;
        }
    }

    void renew() {
        now("adopts fresh memory");
        area const& fresh = world_.nursery;
        if (::mmap(fresh.first, fresh.bytes(), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) {
            complain("mmap: %s", std::strerror(errno));
        }
        for (std::size_t b = 0; b < blocks; ++b) {
            compose(fresh.block(b), world_.page, {});
        }
        mine_ = {};
        wrong_ = {};
        ++world_.nursery_changes;
        world::turn const mine{world_};
        ksm::page_range range;
        if (ksm::region_error const e =
                world_.provider.try_adopt(fresh.first, fresh.bytes(), range)) {
            complain("adopt: %s", message(e.what));
        }
    }
    void retire() {
        now("looks at what its threads stored");
        for (std::size_t b = 0; b < blocks; ++b) {
            for (std::size_t i = 0; i < slots_.count; ++i) {
                wrong_[b] += load(slot(b, i)) != word_of(mine_[b]) ? 1U : 0U;
            }
            if (wrong_[b] != 0) {
                complain("LOST: a word of a short-lived thread in block %zu of the nursery", b);
            }
        }
        now("releases");
        world::turn const mine{world_};
        if (ksm::region_error const e = world_.provider.try_release(world_.pages(world_.nursery))) {
            complain("release: %s: %s", message(e.what), e.os.call);
        }
        ++world_.nursery_changes;
    }
    [[nodiscard]] std::byte* slot(std::size_t b, std::size_t i) const {
        return slots_.in(world_.nursery.block(b), i);
    }

    world& world_;
    slots slots_;
    dice dice_{7};
    // What the threads know: each of a block of its own, one after the other.
    std::array<std::uint64_t, blocks> mine_{};
    std::array<std::uint64_t, blocks> wrong_{};
    std::uint64_t threads_ = 0;
    std::uint64_t stores_ = 0;
};

} // namespace torture

#endif
