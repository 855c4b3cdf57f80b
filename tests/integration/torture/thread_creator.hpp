// SPDX-License-Identifier: BSL-1.0
#ifndef KSM_TESTS_INTEGRATION_TORTURE_THREAD_CREATOR_HPP
#define KSM_TESTS_INTEGRATION_TORTURE_THREAD_CREATOR_HPP

#include <thread>
#include <vector>

#include <unistd.h>

#include "actor.hpp"
#include "world.hpp"

namespace torture {

/// Makes threads that live for a few stores: a provider must find those excluded, too, that came
/// after it had looked for writers.
class thread_creator final : public actor {
  public:
    explicit thread_creator(world& w)
        : actor("threads"), world_(w), slots_(word_slots(w.page)), mine_(w.nursery.blocks, 0),
          wrong_(w.nursery.blocks, 0) {}

    void finish() override {
        for (std::size_t b = 0; b < mine_.size(); ++b) {
            store_in(b, 0);
            if (wrong_[b] != 0) {
                complain("LOST: a word of a short-lived thread in block %zu of the nursery", b);
            }
        }
    }
    void add_to(totals& t) const override {
        t.threads += threads_;
        t.checked_stores += threads_ * slots_.count;
    }

  private:
    void step() override {
        now("makes threads");
        std::size_t const b = 2 * dice_(mine_.size() / 2);
        {
            std::jthread const one{[&] { store_in(b, 1); }};
            std::jthread const two{[&] { store_in(b + 1, 1); }};
            now("joins threads");
        }
        threads_ += 2;
        ::usleep(1000);
    }
    void store_in(std::size_t b, std::uint64_t more) {
        safepoint::running const here{world_.writers};
        std::uint64_t const next = (mine_[b] + more) % user_values;
        for (std::size_t i = 0; i < slots_.count; ++i) {
            std::byte* const slot = slots_.in(world_.nursery.block(b), i);
            wrong_[b] += load(slot) != word_of(mine_[b]) ? 1U : 0U;
            store(slot, word_of(next));
        }
        mine_[b] = next;
    }

    world& world_;
    slots slots_;
    dice dice_{7};
    std::vector<std::uint64_t> mine_;
    std::vector<std::uint64_t> wrong_;
    std::uint64_t threads_ = 0;
};

} // namespace torture

#endif
