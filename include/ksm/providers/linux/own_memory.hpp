// SPDX-License-Identifier: BSL-1.0
// The provider's own memory: mappings of its own, never the heap, which may be a region itself.
#ifndef KSM_PROVIDERS_LINUX_OWN_MEMORY_HPP
#define KSM_PROVIDERS_LINUX_OWN_MEMORY_HPP

#include <cstddef>
#include <cstring>
#include <new>
#include <type_traits>

#include <sys/mman.h>

#include <ksm/config.hpp>
#include <ksm/providers/linux/syscalls.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

/// Zeroed; null when there is none.
[[nodiscard]] inline void* own_map(std::size_t bytes) noexcept {
    void* const p = sys::mmap(nullptr, bytes, read_write, anonymous, -1, 0);
    return p == MAP_FAILED ? nullptr : p;
}

/// A growing array that only its owner's explicit calls change.
template <class T>
class own_array {
    static_assert(std::is_trivially_copyable_v<T>, "it moves by mremap and memmove");

  public:
    own_array() = default;
    ~own_array() {
        if (data_ != nullptr) {
            sys::munmap(data_, bytes());
        }
    }
    own_array(own_array const&) = delete;
    own_array& operator=(own_array const&) = delete;

    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    [[nodiscard]] std::size_t bytes() const noexcept { return capacity_ * sizeof(T); }
    [[nodiscard]] T* begin() noexcept { return data_; }
    [[nodiscard]] T* end() noexcept { return data_ + size_; }
    [[nodiscard]] T const* begin() const noexcept { return data_; }
    [[nodiscard]] T const* end() const noexcept { return data_ + size_; }
    [[nodiscard]] T& operator[](std::size_t i) noexcept { return data_[i]; }
    [[nodiscard]] T const& operator[](std::size_t i) const noexcept { return data_[i]; }

    /// False: no memory, nothing changed.
    [[nodiscard]] bool reserve(std::size_t n) noexcept {
        if (n <= capacity_) {
            return true;
        }
        std::size_t const page = page_bytes();
        std::size_t const wanted = sizeof(T) * (n > 2 * capacity_ ? n : 2 * capacity_);
        std::size_t const size = (wanted + page - 1) / page * page;
        void* const p = data_ == nullptr ? own_map(size)
                                         : sys::mremap(data_, (bytes() + page - 1) / page * page,
                                                       size, MREMAP_MAYMOVE);
        if (p == nullptr || p == MAP_FAILED) {
            return false;
        }
        data_ = static_cast<T*>(p);
        capacity_ = size / sizeof(T);
        return true;
    }
    /// \requires A place was reserved.
    void insert(std::size_t at, T const& value) noexcept {
        KSM_ASSERT(size_ < capacity_ && at <= size_, "reserve first");
        std::memmove(data_ + at + 1, data_ + at, (size_ - at) * sizeof(T));
        data_[at] = value;
        ++size_;
    }
    void erase(std::size_t at) noexcept {
        std::memmove(data_ + at, data_ + at + 1, (size_ - at - 1) * sizeof(T));
        --size_;
    }
    void push_back(T const& value) noexcept { insert(size_, value); }
    void pop_back() noexcept { --size_; }

  private:
    T* data_ = nullptr;
    std::size_t size_ = 0;
    std::size_t capacity_ = 0;
};

/// Blocks of one size, zeroed, from mappings of 64 blocks.
class block_pool {
  public:
    explicit block_pool(std::size_t block_bytes) noexcept : block_(block_bytes) {}

    [[nodiscard]] void* take() noexcept {
        if (free_ == nullptr && !refill()) {
            return nullptr;
        }
        link* const b = free_;
        free_ = b->next;
        b->next = nullptr;
        ++taken_;
        return b;
    }
    /// \requires The block is zero again.
    void give_back(void* block) noexcept {
        free_ = ::new (block) link{free_};
        --taken_;
    }
    [[nodiscard]] std::size_t bytes() const noexcept { return taken_ * block_; }
    [[nodiscard]] std::size_t block_bytes() const noexcept { return block_; }

    ~block_pool() {
        for (std::byte* m : mappings_) {
            sys::munmap(m, blocks_of_a_mapping * block_);
        }
    }
    block_pool(block_pool const&) = delete;
    block_pool& operator=(block_pool const&) = delete;

  private:
    struct link {
        link* next;
    };
    static constexpr std::size_t blocks_of_a_mapping = 64;

    bool refill() noexcept {
        if (untouched_ == 0) {
            if (!mappings_.reserve(mappings_.size() + 1)) {
                return false;
            }
            auto* const m = static_cast<std::byte*>(own_map(blocks_of_a_mapping * block_));
            if (m == nullptr) {
                return false;
            }
            mappings_.push_back(m);
            untouched_ = blocks_of_a_mapping;
        }
        // One at a time: a block that nobody took costs no memory.
        std::byte* const m = mappings_[mappings_.size() - 1];
        give_back(m + (blocks_of_a_mapping - untouched_) * block_);
        ++taken_;
        --untouched_;
        return true;
    }

    std::size_t block_;
    link* free_ = nullptr;
    std::size_t taken_ = 0;
    std::size_t untouched_ = 0;
    own_array<std::byte*> mappings_;
};

} // namespace detail::os
KSM_NAMESPACE_END

#endif
