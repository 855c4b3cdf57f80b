// SPDX-License-Identifier: BSL-1.0
// Pages of different partitions never merge: each has trees and a digest seed of its own.
#ifndef KSM_DETAIL_PARTITION_HPP
#define KSM_DETAIL_PARTITION_HPP

#include <algorithm>
#include <cstdint>

#include <ksm/detail/entry.hpp>
#include <ksm/detail/forest.hpp>
#include <ksm/detail/memory.hpp>
#include <ksm/detail/space.hpp>

KSM_NAMESPACE_BEGIN
namespace detail {

struct no_header {};
using stable_table = chunk_table<stable_node, 16, no_header>;
using stable_chunk = stable_table::chunk_type;
using node_directory = stable_table::directory_type;

/// What the links of a scanner's entries mean.
struct directories {
    explicit directories(metadata_memory& memory) noexcept : items(memory), nodes(memory) {}

    item_directory items;
    node_directory nodes;
};

struct partition {
    partition(metadata_memory& memory, directories const& entries, bool grows, std::uint32_t place,
              std::uint32_t dom, std::uint16_t numa_node, std::uint64_t digest_seed) noexcept
        : stable(memory, entries.nodes, grows), unstable(memory, entries.items, grows),
          seed(digest_seed), index(place), domain(dom), node(numa_node) {}

    forest<node_directory> stable;
    forest<item_directory> unstable;
    std::uint64_t seed;
    std::uint32_t index;
    std::uint32_t domain;
    std::uint16_t node;
};

class partition_table {
  public:
    partition_table(metadata_memory& memory, directories const& entries, bool grows,
                    std::uint64_t seed) noexcept
        : memory_(memory), entries_(entries), seed_(seed), grows_(grows) {}
    ~partition_table() {
        for (partition* p : *this) {
            memory_.destroy(p);
        }
        memory_.destroy_array(table_, capacity_);
    }
    partition_table(partition_table const&) = delete;
    partition_table& operator=(partition_table const&) = delete;

    [[nodiscard]] partition& operator[](std::uint64_t index) noexcept { return *table_[index]; }
    [[nodiscard]] partition** begin() const noexcept { return table_; }
    [[nodiscard]] partition** end() const noexcept { return table_ + size_; }

    /// The partition of a domain and node, made if need be; null without memory or beyond
    /// `max_partitions`. \complexity O(1) for the last answer, else O(partitions).
    [[nodiscard]] partition* obtain(std::uint32_t domain, std::uint16_t node) noexcept {
        auto const is_it = [&](partition const* p) {
            return p->domain == domain && p->node == node;
        };
        if (last_ != nullptr && is_it(last_)) {
            return last_;
        }
        auto* const found = std::find_if(begin(), end(), is_it);
        if (found != end()) {
            return last_ = *found;
        }
        if (size_ == max_partitions || (size_ == capacity_ && !grow())) {
            return nullptr;
        }
        // splitmix64's multiplier spreads the seeds of the partitions.
        auto const seed = seed_ + 0x9E3779B97F4A7C15U * (size_ + 1);
        auto* const fresh =
            memory_.create<partition>(memory_, entries_, grows_, size_, domain, node, seed);
        if (fresh != nullptr) {
            table_[size_++] = fresh;
            last_ = fresh;
        }
        return fresh;
    }

  private:
    [[nodiscard]] bool grow() noexcept {
        std::uint32_t const wanted = capacity_ == 0 ? 4 : 2 * capacity_;
        auto** const fresh = memory_.create_array<partition*>(wanted);
        if (fresh == nullptr) {
            return false;
        }
        std::copy(begin(), end(), fresh);
        memory_.destroy_array(table_, capacity_);
        table_ = fresh;
        capacity_ = wanted;
        return true;
    }

    metadata_memory& memory_;
    directories const& entries_;
    partition** table_ = nullptr;
    partition* last_ = nullptr;
    std::uint64_t seed_;
    std::uint32_t size_ = 0;
    std::uint32_t capacity_ = 0;
    bool grows_;
};

} // namespace detail
KSM_NAMESPACE_END

#endif
