// SPDX-License-Identifier: BSL-1.0
// What a program does with memory while it is scanned. Each can tell whether a store was lost.
#ifndef KSM_BENCH_SUPPORT_APPLICATIONS_HPP
#define KSM_BENCH_SUPPORT_APPLICATIONS_HPP

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "image.hpp"
#include "workload.hpp"

namespace bench {

class application {
  public:
    application() = default;
    virtual ~application() = default;
    application(application const&) = delete;
    application& operator=(application const&) = delete;

    virtual void work(std::size_t operations) = 0;
    /// Whether the memory holds what was last written there.
    [[nodiscard]] virtual bool intact() = 0;

  protected:
    [[nodiscard]] std::uint64_t random() {
        random_ ^= random_ << 13U;
        random_ ^= random_ >> 7U;
        return random_ ^= random_ << 17U;
    }

  private:
    std::uint64_t random_ = 20261124;
};

/// Stores to random words of memory of which half of the pages are duplicates. What is stored is
/// what is there, so pages stay equal, and are merged and written for ever.
class random_stores final : public application {
  public:
    random_stores(std::span<std::byte> memory, std::size_t page_size)
        : memory_(memory), image_(workloads[0], memory.size() / page_size, page_size) {
        image_.write_to(memory);
    }

    void work(std::size_t operations) override {
        auto* const words = reinterpret_cast<std::uint64_t*>(memory_.data());
        std::size_t const n = memory_.size() / sizeof *words;
        for (std::size_t i = 0; i < operations; ++i) {
            std::atomic_ref<std::uint64_t> const word{words[random() % n]};
            word.store(word.load(std::memory_order_relaxed), std::memory_order_relaxed);
        }
    }
    [[nodiscard]] bool intact() override { return image_.is_in(memory_); }

  private:
    std::span<std::byte> memory_;
    image image_;
};

/// Nine times out of ten reads an entry of a hash table, else increments it. The table is half of
/// the memory; half of the pages of the other half, which rests, are duplicates.
class hash_table final : public application {
  public:
    hash_table(std::span<std::byte> memory, std::size_t page_size)
        : resting_(memory.subspan(memory.size() / 2)),
          image_(workloads[0], resting_.size() / page_size, page_size),
          slots_(reinterpret_cast<slot*>(memory.data()), memory.size() / 2 / sizeof(slot)) {
        image_.write_to(resting_);
        for (std::uint64_t key = 1; key <= keys(); ++key) {
            slot& s = find(key);
            s.key = key;
            s.value = key;
        }
    }

    void work(std::size_t operations) override {
        for (std::size_t i = 0; i < operations; ++i) {
            std::uint64_t const r = random();
            slot& s = find(1 + (r >> 8U) % keys());
            if (r % 10 == 0) {
                std::atomic_ref<std::uint64_t> const value{s.value};
                value.store(s.value + 1, std::memory_order_relaxed);
                ++increments_;
            } else {
                read_ = read_ + s.value;
            }
        }
    }
    [[nodiscard]] bool intact() override {
        std::uint64_t sum = 0;
        for (std::uint64_t key = 1; key <= keys(); ++key) {
            sum += find(key).value - key;
        }
        return sum == increments_ && image_.is_in(resting_);
    }

  private:
    struct slot {
        std::uint64_t key, value;
    };

    [[nodiscard]] std::uint64_t keys() const { return slots_.size() / 2; }
    /// Where the key is, or would be.
    [[nodiscard]] slot& find(std::uint64_t key) const {
        std::uint64_t const hash = key * 0x9E3779B97F4A7C15U;
        std::size_t i = (hash ^ hash >> 32U) % slots_.size();
        while (slots_[i].key != 0 && slots_[i].key != key) {
            i = i + 1 == slots_.size() ? 0 : i + 1;
        }
        return slots_[i];
    }

    std::span<std::byte> resting_;
    image image_;
    std::span<slot> slots_;
    std::uint64_t increments_ = 0;
    std::uint64_t volatile read_ = 0; ///< So that nothing is optimised away.
};

struct application_kind {
    char const* name;
    std::unique_ptr<application> (*start)(std::span<std::byte> memory, std::size_t page_size);
};

inline constexpr application_kind applications[] = {
    {"stores",
     [](std::span<std::byte> memory, std::size_t page_size) -> std::unique_ptr<application> {
         return std::make_unique<random_stores>(memory, page_size);
     }},
    {"table",
     [](std::span<std::byte> memory, std::size_t page_size) -> std::unique_ptr<application> {
         return std::make_unique<hash_table>(memory, page_size);
     }},
};

} // namespace bench

#endif
