// SPDX-License-Identifier: BSL-1.0
// A pmr resource cut to the scanner's metadata: few sizes, much of each, no threads.
#ifndef KSM_MEMORY_RESOURCE_HPP
#define KSM_MEMORY_RESOURCE_HPP

#include <array>
#include <cstddef>
#include <memory_resource>
#include <new>

#include <ksm/config.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN

/// Serves small requests from blocks of an upstream resource, rounded up to 64 bytes and not to
/// a power of two: a chunk of 64 rmap items takes 1408 bytes where a pool of powers of two would
/// take 2048. Freed memory is used again for requests of the same size; blocks go back to the
/// upstream when the resource is destroyed. Larger requests go to the upstream as they are.
///
/// Not thread-safe. Throws what the upstream throws; without exceptions an upstream that answers
/// null is passed on.
/// \complexity O(1).
class memory_resource final : public std::pmr::memory_resource {
  public:
    explicit memory_resource(
        std::pmr::memory_resource* upstream = std::pmr::get_default_resource()) noexcept
        : upstream_(upstream) {}
    ~memory_resource() override {
        while (blocks_ != nullptr) {
            link* const next = blocks_->next;
            upstream_->deallocate(blocks_, block_bytes, granule);
            blocks_ = next;
        }
    }
    memory_resource(memory_resource const&) = delete;
    memory_resource& operator=(memory_resource const&) = delete;

  private:
    struct link {
        link* next;
    };

    static constexpr std::size_t granule = 64;
    static constexpr std::size_t block_bytes = std::size_t{256} << 10U;
    static constexpr std::size_t largest = 4096;

    static constexpr bool is_small(std::size_t bytes, std::size_t alignment) noexcept {
        return bytes <= largest && alignment <= granule;
    }
    static constexpr std::size_t granules(std::size_t bytes) noexcept {
        return bytes == 0 ? 1 : (bytes + granule - 1) / granule;
    }

    void* do_allocate(std::size_t bytes, std::size_t alignment) override {
        if (!is_small(bytes, alignment)) {
            return upstream_->allocate(bytes, alignment);
        }
        std::size_t const n = granules(bytes);
        if (link* const reused = free_[n]) {
            free_[n] = reused->next;
            return reused;
        }
        if (left_ < n * granule && !add_block()) {
            return nullptr;
        }
        void* const place = next_;
        next_ += n * granule;
        left_ -= n * granule;
        return place;
    }

    void do_deallocate(void* place, std::size_t bytes, std::size_t alignment) override {
        if (!is_small(bytes, alignment)) {
            upstream_->deallocate(place, bytes, alignment);
            return;
        }
        link*& head = free_[granules(bytes)];
        head = ::new (place) link{head};
    }

    [[nodiscard]] bool do_is_equal(std::pmr::memory_resource const& other) const noexcept override {
        return this == &other;
    }

    // The rest of the previous block is given up: at most `largest` bytes of 256 KiB.
    bool add_block() {
        void* const place = upstream_->allocate(block_bytes, granule);
        if (place == nullptr) {
            return false;
        }
        blocks_ = ::new (place) link{blocks_};
        next_ = static_cast<std::byte*>(place) + granule;
        left_ = block_bytes - granule;
        return true;
    }

    std::pmr::memory_resource* upstream_;
    std::array<link*, largest / granule + 1> free_{};
    link* blocks_ = nullptr;
    std::byte* next_ = nullptr;
    std::size_t left_ = 0;
};

KSM_NAMESPACE_END

#endif
