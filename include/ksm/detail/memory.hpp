// SPDX-License-Identifier: BSL-1.0
// Metadata memory: a pmr resource whose failure is a null pointer, and which counts its bytes.
#ifndef KSM_DETAIL_MEMORY_HPP
#define KSM_DETAIL_MEMORY_HPP

#include <cstddef>
#include <memory>
#include <memory_resource>
#include <new>
#include <utility>

#include <ksm/config.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail {

class metadata_memory {
  public:
    explicit metadata_memory(std::pmr::memory_resource* resource) noexcept : resource_(resource) {}
    metadata_memory(metadata_memory const&) = delete;
    metadata_memory& operator=(metadata_memory const&) = delete;

    /// Bytes in use.
    [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }

    /// Null when the resource throws or, without exceptions, answers null (S21).
    template <class T, class... Args>
    [[nodiscard]] T* create(Args&&... args) noexcept {
        void* const place = allocate(sizeof(T), alignof(T));
        return place == nullptr ? nullptr : ::new (place) T(std::forward<Args>(args)...);
    }

    template <class T>
    void destroy(T* object) noexcept {
        std::destroy_at(object);
        deallocate(object, sizeof(T), alignof(T));
    }

    /// Value-initialised objects of a type whose destruction does nothing; null as above.
    template <class T>
    [[nodiscard]] T* create_array(std::size_t n) noexcept {
        static_assert(std::is_trivially_destructible_v<T>);
        void* const place = allocate(n * sizeof(T), alignof(T));
        if (place == nullptr) {
            return nullptr;
        }
        auto* const first = static_cast<T*>(place);
        std::uninitialized_value_construct_n(first, n);
        return first;
    }

    template <class T>
    void destroy_array(T* first, std::size_t n) noexcept {
        if (first != nullptr) {
            deallocate(first, n * sizeof(T), alignof(T));
        }
    }

  private:
    [[nodiscard]] void* allocate(std::size_t size, std::size_t alignment) noexcept {
        void* place = nullptr;
#if KSM_HAS_EXCEPTIONS
        try {
            place = resource_->allocate(size, alignment);
        } catch (...) {
            return nullptr;
        }
#else
        place = resource_->allocate(size, alignment);
#endif
        bytes_ += place == nullptr ? 0 : size;
        return place;
    }

    void deallocate(void* place, std::size_t size, std::size_t alignment) noexcept {
        bytes_ -= size;
        resource_->deallocate(place, size, alignment);
    }

    std::pmr::memory_resource* resource_;
    std::size_t bytes_ = 0;
};

} // namespace detail
KSM_NAMESPACE_END

#endif
