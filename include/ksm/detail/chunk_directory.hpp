// SPDX-License-Identifier: BSL-1.0
// Numbers for the slots of chunks, so that a link to a slot is half as wide as a pointer.
#ifndef KSM_DETAIL_CHUNK_DIRECTORY_HPP
#define KSM_DETAIL_CHUNK_DIRECTORY_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <ksm/detail/entry.hpp>
#include <ksm/detail/memory.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail {

/// Takes 8 to 16 bytes for each chunk of the most that there were at one time, and keeps them.
template <class Chunk>
class chunk_directory {
  public:
    using slot_type = typename Chunk::slot_type;

    /// The last number, which no slot ever has.
    static constexpr entry_number reserved = (entry_number{1} << entry_number_bits) - 1;

    explicit chunk_directory(metadata_memory& memory) noexcept : memory_(memory) {}
    ~chunk_directory() { memory_.destroy_array(places_, capacity_); }
    chunk_directory(chunk_directory const&) = delete;
    chunk_directory& operator=(chunk_directory const&) = delete;

    [[nodiscard]] slot_type& operator[](entry_number n) const noexcept {
        return places_[n / Chunk::size].chunk->slots[n % Chunk::size];
    }
    [[nodiscard]] static entry_number number_of(slot_type& slot) noexcept {
        return static_cast<entry_number>(Chunk::of(slot).number * Chunk::size + slot.slot);
    }

    /// Numbers the slots of a chunk. False without memory or beyond 2^31 slots (8 TiB of pages of
    /// 4 KiB). \complexity Amortised O(1).
    [[nodiscard]] bool add(Chunk& c) noexcept {
        if (free_ == none) {
            if (size_ == capacity_ && !grow()) {
                return false;
            }
            places_[size_].next_free = none;
            free_ = size_++;
        }
        c.number = free_;
        free_ = places_[c.number].next_free;
        places_[c.number].chunk = &c;
        return true;
    }

    void remove(Chunk& c) noexcept {
        places_[c.number].next_free = free_;
        free_ = c.number;
    }

  private:
    union place {
        Chunk* chunk;
        std::uint32_t next_free;
    };

    static constexpr std::uint32_t none = 0; // whose first slot would have the number `no_entry`
    static constexpr std::uint32_t most = reserved / Chunk::size;

    [[nodiscard]] bool grow() noexcept {
        std::uint32_t const wanted = std::min(most, std::max(2 * capacity_, std::uint32_t{16}));
        auto* const fresh = wanted == capacity_ ? nullptr : memory_.create_array<place>(wanted);
        if (fresh == nullptr) {
            return false;
        }
        std::copy_n(places_, size_, fresh);
        memory_.destroy_array(places_, capacity_);
        places_ = fresh;
        capacity_ = wanted;
        size_ = std::max(size_, std::uint32_t{1});
        return true;
    }

    metadata_memory& memory_;
    place* places_ = nullptr;
    std::uint32_t size_ = 0;
    std::uint32_t capacity_ = 0;
    std::uint32_t free_ = none;
};

} // namespace detail
KSM_NAMESPACE_END

#endif
