// SPDX-License-Identifier: BSL-1.0
// A memory resource that counts what is outstanding, and fails when told to.
#ifndef KSM_TESTS_SUPPORT_MEMORY_HPP
#define KSM_TESTS_SUPPORT_MEMORY_HPP

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory_resource>
#include <new>

namespace support {

class failing_resource final : public std::pmr::memory_resource {
  public:
    static constexpr std::uint64_t for_ever = std::numeric_limits<std::uint64_t>::max();

    /// Lets `first` allocations succeed and then fails `count` of them.
    void fail(std::uint64_t first, std::uint64_t count = for_ever) noexcept {
        until_ = first;
        failing_ = count;
    }
    void succeed() noexcept { failing_ = 0; }

    [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
    [[nodiscard]] std::uint64_t allocations() const noexcept { return allocations_; }
    /// Allocations that failed since construction.
    [[nodiscard]] std::uint64_t failures() const noexcept { return failures_; }

  private:
    void* do_allocate(std::size_t size, std::size_t alignment) override {
        if (failing_ != 0) {
            if (until_ == 0) {
                --failing_;
                ++failures_;
                throw std::bad_alloc{};
            }
            --until_;
        }
        ++allocations_;
        void* const place = std::pmr::new_delete_resource()->allocate(size, alignment);
        bytes_ += size;
        return place;
    }
    void do_deallocate(void* place, std::size_t size, std::size_t alignment) override {
        bytes_ -= size;
        std::pmr::new_delete_resource()->deallocate(place, size, alignment);
    }
    [[nodiscard]] bool do_is_equal(memory_resource const& other) const noexcept override {
        return this == &other;
    }

    std::size_t bytes_ = 0;
    std::uint64_t allocations_ = 0;
    std::uint64_t failures_ = 0;
    std::uint64_t until_ = 0;
    std::uint64_t failing_ = 0;
};

} // namespace support

#endif
