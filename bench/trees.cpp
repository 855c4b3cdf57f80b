// SPDX-License-Identifier: BSL-1.0
// Look-ups and insertions in the trees of both policies: the forest in digest order, and the tree
// in content order, whose comparisons read pages. Look-ups are independent of each other.
#include <benchmark/benchmark.h>

#include <ksm/detail/forest.hpp>
#include <ksm/detail/space.hpp>

#include <algorithm>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <memory_resource>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "support/timing.hpp"
#include "support/workload.hpp"

namespace {

using ksm::detail::rmap_item;
constexpr std::size_t batch = 1 << 10; // insertions that are timed together

/// Items that a tree can link.
class item_array {
  public:
    explicit item_array(std::size_t n) {
        for (std::size_t i = 0; i < n; i += ksm::detail::rmap_chunk::size) {
            chunks_.push_back(table_.obtain(i));
        }
    }
    rmap_item& operator[](std::size_t i) {
        return chunks_[i / ksm::detail::rmap_chunk::size]->slots[i % ksm::detail::rmap_chunk::size];
    }
    static std::size_t index_of(rmap_item& item) {
        return static_cast<std::size_t>(ksm::detail::rmap_chunk::number_of(item));
    }
    ksm::detail::metadata_memory& memory() { return memory_; }
    ksm::detail::item_directory& directory() { return directory_; }

  private:
    ksm::detail::metadata_memory memory_{std::pmr::new_delete_resource()};
    ksm::detail::item_directory directory_{memory_};
    ksm::detail::rmap_table table_{memory_, directory_};
    std::vector<ksm::detail::rmap_chunk*> chunks_;
};

/// `entries` items in a tree, and `batch` behind them that are not. `renew` gives one of those a
/// key that nothing has had.
class digest_order {
  public:
    explicit digest_order(std::size_t entries) : items_(entries + batch) {
        for (std::size_t i = 0; i < entries + batch; ++i) {
            renew(i);
        }
        // Grown for the whole, so that no insertion that is timed rebuilds it.
        for (std::size_t i = 0; i < entries + batch; ++i) {
            insert(i);
        }
        for (std::size_t i = entries; i < entries + batch; ++i) {
            erase(i);
        }
    }

    std::uint64_t key(std::size_t i) { return items_[i].digest(); }
    void renew(std::size_t i) { items_[i].set_digest(random_()); }
    rmap_item* find(std::uint64_t key) { return tree_.first_with(key); }
    void insert(std::size_t i) { tree_.insert_by_digest(items_[i]); }
    void erase(std::size_t i) { tree_.erase(items_[i]); }

  private:
    std::mt19937_64 random_{1};
    item_array items_;
    ksm::detail::forest<ksm::detail::item_directory> tree_{items_.memory(), items_.directory(),
                                                           true};
};

/// The same, with the pages that the order reads. They have 512 bytes, because a million of 4 KiB
/// would be 4 GiB, and differ in their first bytes: a comparison reads one line of the cache.
class content_order {
  public:
    explicit content_order(std::size_t entries)
        : pages_((entries + batch) * page_size), items_(entries + batch) {
        // In ascending order the tree is built several times as fast.
        std::vector<std::pair<std::uint64_t, std::size_t>> order;
        for (std::size_t i = 0; i < entries + batch; ++i) {
            renew(i);
            std::uint64_t start = 0;
            std::memcpy(&start, key(i), sizeof start);
            order.emplace_back(__builtin_bswap64(start), i);
        }
        order.resize(entries);
        std::ranges::sort(order);
        for (auto const& [start, i] : order) {
            insert(i);
        }
    }

    std::byte const* key(std::size_t i) { return pages_.data() + i * page_size; }
    void renew(std::size_t i) { bench::fill({pages_.data() + i * page_size, 64}, ++contents_); }
    rmap_item* find(std::byte const* sought) {
        auto const order = [&](rmap_item& item) {
            return std::memcmp(sought, key(item_array::index_of(item)), page_size) <=> 0;
        };
        return tree_.find(0, order, where_);
    }
    void insert(std::size_t i) {
        if (find(key(i)) == nullptr) {
            tree_.insert_at(items_[i], where_);
        }
    }
    void erase(std::size_t i) { tree_.erase(items_[i]); }

  private:
    static constexpr std::size_t page_size = 512;

    std::vector<std::byte> pages_;
    std::uint32_t contents_ = 0;
    item_array items_;
    ksm::detail::forest<ksm::detail::item_directory> tree_{items_.memory(), items_.directory(),
                                                           false};
    ksm::detail::forest_spot where_{};
};

/// The tree of the last size, because building a large one takes far longer than measuring it.
template <class Tree>
Tree& tree_of(std::size_t entries) {
    static std::unique_ptr<Tree> tree;
    static std::size_t size = 0;
    if (size != entries) {
        tree.reset();
        tree = std::make_unique<Tree>(entries);
        size = entries;
    }
    return *tree;
}

template <class Tree>
void hit(benchmark::State& state) {
    auto const entries = static_cast<std::size_t>(state.range(0));
    Tree& tree = tree_of<Tree>(entries);
    std::mt19937_64 random{2};
    std::vector<decltype(tree.key(0))> keys;
    for (std::size_t i = 0; i < 1 << 14; ++i) {
        keys.push_back(tree.key(random() % entries));
    }
    std::size_t next = 0;
    for (auto _ : state) {
        benchmark::DoNotOptimize(tree.find(keys[next++ % keys.size()]));
    }
}

/// Times `act(item)` for the items that are not in the tree, each time with new keys.
template <class Tree, class Act>
void with_new_keys(benchmark::State& state, bool inserts, Act&& act) {
    auto const entries = static_cast<std::size_t>(state.range(0));
    Tree& tree = tree_of<Tree>(entries);
    while (state.KeepRunningBatch(batch)) {
        for (std::size_t i = entries; i < entries + batch; ++i) {
            tree.renew(i);
        }
        state.SetIterationTime(1e-6 * bench::cpu_microseconds([&] {
                                   for (std::size_t i = entries; i < entries + batch; ++i) {
                                       act(tree, i);
                                   }
                               }));
        for (std::size_t i = entries; inserts && i < entries + batch; ++i) {
            tree.erase(i);
        }
    }
}

template <class Tree>
void miss(benchmark::State& state) {
    with_new_keys<Tree>(state, false, [](Tree& tree, std::size_t i) {
        benchmark::DoNotOptimize(tree.find(tree.key(i)));
    });
}

template <class Tree>
void insertion(benchmark::State& state) {
    with_new_keys<Tree>(state, true, [](Tree& tree, std::size_t i) { tree.insert(i); });
}

template <class Tree>
void add(char const* name) {
    for (std::int64_t entries = 1 << 14; entries <= 1 << 20; entries *= 4) {
        std::string const prefix{name};
        benchmark::RegisterBenchmark((prefix + "/hit").c_str(), hit<Tree>)->Arg(entries);
        benchmark::RegisterBenchmark((prefix + "/miss").c_str(), miss<Tree>)
            ->Arg(entries)
            ->UseManualTime();
        benchmark::RegisterBenchmark((prefix + "/insertion").c_str(), insertion<Tree>)
            ->Arg(entries)
            ->UseManualTime();
    }
}

} // namespace

int main(int argc, char** argv) {
    benchmark::Initialize(&argc, argv);
    add<digest_order>("digest_forest");
    add<content_order>("content_tree");
    benchmark::RunSpecifiedBenchmarks();
}
