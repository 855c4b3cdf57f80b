// SPDX-License-Identifier: BSL-1.0
#ifndef KSM_TESTS_INTEGRATION_TORTURE_USER_WRITER_HPP
#define KSM_TESTS_INTEGRATION_TORTURE_USER_WRITER_HPP

#include <vector>

#include <unistd.h>

#include "actor.hpp"
#include "world.hpp"

namespace torture {

/// Stores words, and checks each before it is stored anew. Two of them write to the same pages.
class user_writer : public actor {
  public:
    enum class kind { words, stray_words };

    user_writer(world& w, kind k)
        : actor(k == kind::words ? "words" : "stray words"), world_(w), kind_(k),
          slots_(k == kind::words ? word_slots(w.page) : stray_slots(w.page)),
          dice_(k == kind::words ? 1 : 2), mine_(w.active.blocks, 0) {}

    void finish() override {
        for (std::size_t b = 0; b < mine_.size(); ++b) {
            for (std::size_t i = 0; i < slots_.count; ++i) {
                check(slots_.in(world_.active.block(b), i), mine_[b]);
            }
        }
    }
    void add_to(totals& t) const override { t.checked_stores += stores_; }

  protected:
    void step() override {
        std::size_t const b = dice_(mine_.size());
        // More stores to a page than it has values: most of them find the page private already.
        std::size_t const rounds = 4 + dice_(2 * user_values);
        now("waits to run");
        {
            safepoint::running const here{world_.writers};
            now("stores");
            for (std::size_t r = 0; r < rounds; ++r) {
                std::uint64_t const next = (mine_[b] + 1) % user_values;
                for (std::size_t i = 0; i < slots_.count; ++i) {
                    std::byte* const slot = slots_.in(world_.active.block(b), i);
                    check(slot, mine_[b]);
                    put(slot, word_of(next));
                }
                mine_[b] = next;
            }
            stores_ += rounds * slots_.count;
        }
        if (dice_(8) == 0) {
            ::usleep(1); // pages must rest for two passes, or nothing is ever merged
        }
    }

    world& world_;
    std::uint64_t stores_ = 0;

  private:
    [[nodiscard]] std::uint64_t get(std::byte const* slot) const {
        return kind_ == kind::words ? load(slot) : load_stray(slot);
    }
    void put(std::byte* slot, std::uint64_t word) const {
        kind_ == kind::words ? store(slot, word) : store_stray(slot, word);
    }
    void check(std::byte const* slot, std::uint64_t value) {
        std::uint64_t const word = get(slot);
        if (word == word_of(value)) {
            return;
        }
        for (std::uint64_t v = 0; v < user_values; ++v) {
            if (word == word_of(v)) {
                complain("LOST: a word at %p is %u instead of %u", static_cast<void const*>(slot),
                         static_cast<unsigned>(v), static_cast<unsigned>(value));
                return;
            }
        }
        complain("TORN: a word at %p is %#llx", static_cast<void const*>(slot),
                 static_cast<unsigned long long>(word));
    }

    kind kind_;
    slots slots_;
    dice dice_;
    std::vector<std::uint64_t> mine_; ///< The value of all slots of a block.
};

/// Lets the counters of the wave grow, page by page; the reader looks at them.
class wave_writer final : public user_writer {
  public:
    explicit wave_writer(world& w) : user_writer(w, kind::words) {}

  private:
    void step() override {
        user_writer::step();
        if (steps() % 32 == 0) {
            safepoint::running const here{world_.writers};
            now("stores in the wave");
            std::byte* const counter = world_.wave_counter(next_);
            std::uint64_t const expected = next_ == 0 ? round_ : round_ - 1;
            if (std::uint64_t const was = load(counter); was != expected) {
                complain("LOST: a counter of the wave is %llu instead of %llu",
                         static_cast<unsigned long long>(was),
                         static_cast<unsigned long long>(expected));
            }
            if (next_ == 0) {
                world_.wave_round.store(++round_);
            }
            store(counter, round_);
            ++stores_;
            next_ = (next_ + 1) % world::wave_pages();
        }
    }

    std::size_t next_ = 0;
    std::uint64_t round_ = 0;
};

} // namespace torture

#endif
