// SPDX-License-Identifier: BSL-1.0
// Where pages or their copies are during a window.
#ifndef KSM_PROVIDERS_LINUX_SCRATCH_MEMORY_HPP
#define KSM_PROVIDERS_LINUX_SCRATCH_MEMORY_HPP

#include <cstddef>

#include <sys/mman.h>

#include <ksm/providers/linux/place.hpp>
#include <ksm/providers/linux/syscalls.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

/// `window_pages` pages between guards.
class scratch_memory {
  public:
    scratch_memory() = default;
    ~scratch_memory() {
        if (guard_ != nullptr) {
            sys::munmap(guard_, bytes_);
        }
    }
    scratch_memory(scratch_memory const&) = delete;
    scratch_memory& operator=(scratch_memory const&) = delete;

    /// Null: no memory.
    [[nodiscard]] std::byte* get(std::size_t page) noexcept {
        if (guard_ == nullptr) {
            std::size_t const bytes = (window_pages + 2) * page;
            void* const g = sys::mmap(nullptr, bytes, PROT_NONE, anonymous, -1, 0);
            if (g == MAP_FAILED) {
                return nullptr;
            }
            if (protect(static_cast<std::byte*>(g) + page, window_pages * page, read_write) != 0) {
                sys::munmap(g, bytes);
                return nullptr;
            }
            guard_ = g;
            bytes_ = bytes;
        }
        return static_cast<std::byte*>(guard_) + page;
    }
    [[nodiscard]] static constexpr std::size_t bytes(std::size_t page) noexcept {
        return window_pages * page;
    }

  private:
    void* guard_ = nullptr;
    std::size_t bytes_ = 0;
};

} // namespace detail::os
KSM_NAMESPACE_END

#endif
