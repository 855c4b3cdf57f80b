// SPDX-License-Identifier: BSL-1.0
// What stands where in the memory that the soak tests merge.
//
// Pages come in blocks of eight. A page's base content depends on its place in the block only;
// over it lie slots, each owned by one actor and filled with the word of a small value. So pages
// that were written become equal to pages elsewhere again and again, and blocks become equal as
// runs. Some slots lie across the border of two pages: a store there may wait for two windows.
#ifndef KSM_TESTS_INTEGRATION_TORTURE_CONTENT_HPP
#define KSM_TESTS_INTEGRATION_TORTURE_CONTENT_HPP

#include <cstddef>
#include <cstdint>

namespace torture {

inline constexpr std::size_t block_pages = 8;
inline constexpr std::uint64_t user_values = 4;    ///< Values of a slot of a user writer.
inline constexpr std::uint64_t syscall_values = 2; ///< Values of any other slot.

/// The word of a value. That of 0 is 0: a page at rest may be a zero page.
[[nodiscard]] constexpr std::uint64_t word_of(std::uint64_t value) {
    return value * 0x9e3779b97f4a7c15U;
}

/// A word that other threads read, or whose page they read, while its owner writes it.
[[nodiscard]] inline std::uint64_t load(std::byte const* at) {
    return __atomic_load_n(reinterpret_cast<std::uint64_t const*>(at), __ATOMIC_RELAXED);
}
inline void store(std::byte* at, std::uint64_t word) {
    __atomic_store_n(reinterpret_cast<std::uint64_t*>(at), word, __ATOMIC_RELAXED);
}

/// A word that may lie across a border of pages: one instruction where the processor has one.
struct [[gnu::packed]] stray_word {
    std::uint64_t value;
};
[[nodiscard]] inline std::uint64_t load_stray(std::byte const* at) {
    return reinterpret_cast<stray_word const volatile*>(at)->value;
}
inline void store_stray(std::byte* at, std::uint64_t word) {
    reinterpret_cast<stray_word volatile*>(at)->value = word;
}

/// Slots of one kind in a block.
struct slots {
    std::size_t count;
    std::size_t first;  ///< Offset in the block.
    std::size_t stride; ///< From one to the next.
    std::size_t bytes;  ///< Of each.

    [[nodiscard]] std::byte* in(std::byte* block, std::size_t i) const {
        return block + first + i * stride;
    }
    /// \requires Slots of whole, aligned words; here and below.
    [[nodiscard]] bool hold(std::byte const* slot, std::uint64_t value) const {
        for (std::size_t k = 0; k < bytes; k += sizeof(std::uint64_t)) {
            if (load(slot + k) != word_of(value)) {
                return false;
            }
        }
        return true;
    }
};

/// A word in every page.
[[nodiscard]] constexpr slots word_slots(std::size_t page) {
    return {block_pages, 64, page, sizeof(std::uint64_t)};
}
/// A word across the border behind every page of an even number.
[[nodiscard]] constexpr slots stray_slots(std::size_t page) {
    return {block_pages / 2, page - 4, 2 * page, sizeof(std::uint64_t)};
}
/// Across the other borders within the block.
[[nodiscard]] constexpr slots pread_slots(std::size_t page) {
    return {block_pages / 2 - 1, 2 * page - 64, 2 * page, 128};
}
/// In the two pages that have no slot of the kind above.
[[nodiscard]] constexpr slots recv_slots(std::size_t page) {
    return {2, 1024, (block_pages - 1) * page, 64};
}
/// In every page.
[[nodiscard]] constexpr slots pinned_slots(std::size_t page) {
    return {block_pages, 2048, page, 256};
}

/// What every slot of a kind in a block holds.
struct slot_values {
    std::uint64_t word = 0;
    std::uint64_t stray = 0;
    std::uint64_t by_syscall = 0;
};
inline void fill_slots(std::byte* block, std::size_t page, slot_values const& v) {
    auto const fill = [&](slots const& s, std::uint64_t value) {
        for (std::size_t i = 0; i < s.count; ++i) {
            for (std::size_t k = 0; k < s.bytes; k += sizeof(std::uint64_t)) {
                store_stray(s.in(block, i) + k, word_of(value));
            }
        }
    };
    fill(word_slots(page), v.word);
    fill(stray_slots(page), v.stray);
    fill(pread_slots(page), v.by_syscall);
    fill(recv_slots(page), v.by_syscall);
    fill(pinned_slots(page), 0);
}

/// Word `k` of the base content of page `place` of a block. Page 0 is a zero page.
[[nodiscard]] constexpr std::uint64_t base_word(std::size_t place, std::size_t k) {
    return place * (k + 1) * 0xd6e8feb86659fd93U;
}
/// Where no slot lies in any page.
inline constexpr std::size_t base_only = 100;

/// Writes a block anew.
inline void compose(std::byte* block, std::size_t page, slot_values const& v) {
    for (std::size_t i = 0; i < block_pages; ++i) {
        for (std::size_t k = 0; k < page / sizeof(std::uint64_t); ++k) {
            store(block + i * page + k * sizeof(std::uint64_t), base_word(i, k));
        }
    }
    fill_slots(block, page, v);
}

} // namespace torture

#endif
