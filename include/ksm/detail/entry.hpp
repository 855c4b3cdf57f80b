// SPDX-License-Identifier: BSL-1.0
// What the scanner remembers of a page and of a stable frame.
#ifndef KSM_DETAIL_ENTRY_HPP
#define KSM_DETAIL_ENTRY_HPP

#include <cstdint>

#include <ksm/digest.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail {

/// Names an entry (chunk_directory). Half as wide as a pointer, and links are most of an entry.
using entry_number = std::uint32_t;
inline constexpr unsigned entry_number_bits = 31;
inline constexpr entry_number no_entry = 0;

/// What links an entry into one structure at a time (I4).
struct links {
    entry_number left = no_entry;
    entry_number right = no_entry;
    entry_number parent : entry_number_bits;
    std::uint32_t is_red : 1;
};

/// Where an item stands. Exactly one of these holds at any time (I4).
enum class item_state : std::uint8_t {
    absent,   ///< No such page: the slot is free.
    loose,    ///< Tracked, in no structure.
    unstable, ///< In the unstable tree of its partition.
    stable,   ///< In the ring of a stable node.
    zero,     ///< Merged into the zero page.
    resting,  ///< Tracked, in no structure, left alone for a while (page_index::rest).
};

inline constexpr unsigned partition_bits = 13;
inline constexpr std::uint32_t max_partitions = 1U << partition_bits;

/// What items and stable nodes have in common: a place in a tree under a frozen key.
struct entry : links {
    explicit entry(std::uint32_t slot_in_chunk) noexcept
        : links{no_entry, no_entry, no_entry, 0}, digest_low_(0), digest_high_(0),
          slot(slot_in_chunk & 63U), partition(0), state(0), has_digest(0), untracked(0),
          setbacks(0) {}

    [[nodiscard]] std::uint64_t digest() const noexcept {
        return std::uint64_t{digest_high_} << 32U | digest_low_;
    }
    /// Freezes the key. \requires The entry is in no tree.
    void set_digest(std::uint64_t d) noexcept {
        digest_low_ = static_cast<std::uint32_t>(d);
        digest_high_ = (d >> 32U) & ((std::uint64_t{1} << (digest_bits - 32U)) - 1);
    }

  private:
    std::uint32_t digest_low_;
    std::uint32_t digest_high_ : digest_bits - 32;

  public:
    std::uint32_t slot : 6;
    std::uint32_t partition : partition_bits;
    std::uint32_t state : 3;
    std::uint32_t has_digest : 1; ///< `digest()` is that of an earlier visit.
    std::uint32_t untracked : 1;  ///< The provider cannot tell whether the page was written.
    std::uint32_t setbacks : 2;   ///< How often its sharing did not last (surveyor.hpp).
};

/// One tracked page. Its space and address follow from its place in a chunk.
struct rmap_item : entry {
    using entry::entry;

    [[nodiscard]] item_state where() const noexcept {
        return static_cast<item_state>(static_cast<std::uint8_t>(state));
    }
    void go(item_state s) noexcept { state = static_cast<std::uint8_t>(s) & 7U; }
};
// The kernel's rmap item takes 64 bytes; this size is the library's memory footprint.
static_assert(sizeof(rmap_item) == 20);

/// One stable frame. The frame follows from the place in a chunk.
struct stable_node : entry {
    using entry::entry;

    [[nodiscard]] bool in_use() const noexcept { return sharer != no_entry; }

    entry_number sharer = no_entry; ///< Any of the items that share the frame (sharers.hpp).
};
static_assert(sizeof(stable_node) == 24);

} // namespace detail
KSM_NAMESPACE_END

#endif
