// SPDX-License-Identifier: BSL-1.0
// The oracle: memory as it would be if nobody ever merged anything.
#ifndef KSM_TESTS_MODEL_REFERENCE_HPP
#define KSM_TESTS_MODEL_REFERENCE_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include <ksm/types.hpp>

namespace model {

class reference {
  public:
    struct page {
        std::vector<std::byte> bytes;
        std::uint32_t domain = 0;
        std::uint16_t node = 0;
        std::uint32_t pins = 0;
        bool mergeable = true;
    };

    explicit reference(std::size_t page_size) : page_size_(page_size) {}

    [[nodiscard]] page* find(ksm::space_id space, std::uint64_t number) noexcept {
        auto const found = pages_.find({space, number});
        return found == pages_.end() ? nullptr : &found->second;
    }

    void map(ksm::space_id space, std::uint64_t number, std::uint32_t domain, std::uint16_t node) {
        pages_[{space, number}] = {std::vector<std::byte>(page_size_), domain, node, 0, true};
    }
    void unmap(ksm::space_id space, std::uint64_t number) { pages_.erase({space, number}); }

    void write(ksm::space_id space, std::uint64_t number, std::size_t offset,
               std::span<std::byte const> data) {
        if (page* const p = find(space, number)) {
            std::ranges::copy(data, p->bytes.begin() + static_cast<std::ptrdiff_t>(offset));
        }
    }
    /// A store that finds its page write-protected: it happens when the protection ends.
    void write_later(ksm::space_id space, std::uint64_t number, std::size_t offset,
                     std::span<std::byte const> data) {
        waiting_.push_back({space, number, offset, {data.begin(), data.end()}});
    }
    void protection_ends() {
        for (auto const& w : std::exchange(waiting_, {})) {
            write(w.space, w.number, w.offset, w.data);
        }
    }

    void fork(ksm::space_id parent, ksm::space_id child) {
        auto const copy = pages_;
        for (auto const& [where, p] : copy) {
            if (where.first == parent) {
                auto& fresh = pages_[{child, where.second}] = p;
                fresh.pins = 0;
            }
        }
    }
    void exit(ksm::space_id space) {
        std::erase_if(pages_, [space](auto const& entry) { return entry.first.first == space; });
    }

    [[nodiscard]] auto& pages() noexcept { return pages_; }

  private:
    struct store {
        ksm::space_id space;
        std::uint64_t number;
        std::size_t offset;
        std::vector<std::byte> data;
    };

    std::size_t page_size_;
    std::map<std::pair<ksm::space_id, std::uint64_t>, page> pages_;
    std::vector<store> waiting_;
};

} // namespace model

#endif
