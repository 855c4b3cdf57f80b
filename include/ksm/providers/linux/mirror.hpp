// SPDX-License-Identifier: BSL-1.0
// Anonymous memory that the kernel takes for a part of a region. It joins two mappings only if
// their offsets are consecutive and their pages are found through one anon_vma. Memory of our own
// has another offset and another anon_vma; a page that is moved out of it into a region stays a
// mapping of its own for ever. So we keep a page that once was a part of the region's mapping: when
// it moves away and grows there, what grows has the offsets of the region's pages and the region's
// anon_vma. A page moved from there into its place joins its neighbours.
#ifndef KSM_PROVIDERS_LINUX_MIRROR_HPP
#define KSM_PROVIDERS_LINUX_MIRROR_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include <ksm/providers/linux/machinery.hpp>
#include <ksm/providers/linux/own_memory.hpp>
#include <ksm/providers/linux/regions.hpp>
#include <ksm/providers/linux/scratch_memory.hpp>
#include <ksm/providers/linux/vm_flags.hpp>
#include <ksm/providers/linux/write_window.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

/// The mirrors of the regions. At rest a mirror is a mapping of two pages without memory behind
/// them. It grows for as long as copies are made for one stretch of pages, so that neither commit
/// charge nor address space of a region are taken twice for long.
class mirror_store {
  public:
    explicit mirror_store(std::size_t page) noexcept : page_(page) {}
    ~mirror_store() {
        rest();
        for (mirror& m : mirrors_) {
            if (m.seed != nullptr) {
                sys::munmap(m.seed, 2 * page_);
            }
        }
    }
    mirror_store(mirror_store const&) = delete;
    mirror_store& operator=(mirror_store const&) = delete;

    /// The pieces that `divide` makes of a region, at most.
    static constexpr std::size_t most_pieces = 17;

    [[nodiscard]] std::size_t bytes() const noexcept { return mirrors_.bytes(); }

    /// Takes the page `below` away and makes a mirror of it; `no_mirror` if that cannot be done:
    /// the page is gone nevertheless. \requires Its mapping is the one of the pages behind it,
    /// from `first` on. It is nobody else's.
    [[nodiscard]] std::uint32_t plant(std::byte* below, page_number first) noexcept;

    /// The same for memory that is there already, which is divided into a region for each of the
    /// kernel's mappings, because a mirror is of one. \returns Their number.
    [[nodiscard]] std::size_t divide(region const& whole,
                                     std::span<region, most_pieces> out) noexcept;

    /// The same for a zero page amid a region: it stays where it is, zero as before, and the mirror
    /// covers the pages behind it. One window, in which the page must not be away. \requires The
    /// provider has entered; the page is anonymous memory of the application.
    [[nodiscard]] std::uint32_t plant_amid(machinery& m, place const& p) noexcept;

    /// Memory for copies of pages, which fits in their place; null if there is none. Valid until
    /// the next call of `get`, `rest` or `uproot`.
    [[nodiscard]] std::byte* get(std::uint32_t id, page_number first, std::size_t pages) noexcept;

    /// For what has no mirror.
    [[nodiscard]] scratch_memory& scratch() noexcept { return scratch_; }

    /// The mirrors take no more memory or addresses than they must.
    void rest() noexcept {
        if (piece_.bytes != 0) {
            sys::munmap(piece_.unmap, piece_.bytes);
            piece_ = {};
        }
    }

    /// Forgets the mirrors that no region has any more, as `used(id)` says.
    template <class Used>
    void uproot(Used&& used) noexcept {
        rest();
        for (std::uint32_t id = 0; id < mirrors_.size(); ++id) {
            if (mirrors_[id].seed != nullptr && !used(id)) {
                sys::munmap(mirrors_[id].seed, 2 * page_);
                mirrors_[id].seed = nullptr;
            }
        }
    }

  private:
    /// A page mapped below the kernel's mapping `m` is a part of it if nothing else is there.
    [[nodiscard]] std::uint32_t plant_below(extent const& m, bool noreserve) noexcept;
    /// \requires The mapping is like that of the page before `first`: the same offset, the same
    /// anon_vma.
    [[nodiscard]] std::uint32_t grow(std::byte* below, page_number first) noexcept;

    // Shorter than a huge page of x86_64 or arm64 with pages of 4 KiB, so that no huge page is
    // allocated here, of which the pages that are not moved away would be lost for a while.
    static constexpr std::size_t piece_pages = 384;
    // A mapping of which everything is moved away loses its anon_vma.
    static_assert(piece_pages > window_pages);

    struct mirror {
        std::byte* seed;   ///< Two pages: the one before `first`, and `first`. Null: free.
        page_number first; ///< The first page that it mirrors.
    };
    /// The mirror that has grown.
    struct {
        std::uint32_t id = no_mirror;
        page_number first;
        std::size_t pages = 0;
        std::byte* at = nullptr;
        std::byte* unmap = nullptr; ///< What `rest` gives back: `bytes` from here on.
        std::size_t bytes = 0;
    } piece_;

    std::size_t page_;
    own_array<mirror> mirrors_;
    scratch_memory scratch_;
};

inline std::uint32_t mirror_store::plant(std::byte* below, page_number first) noexcept {
    // The first page to be written gives the mapping its anon_vma.
    if (!write_fault(below, page_, page_)) {
        sys::munmap(below, page_);
        return no_mirror;
    }
    return grow(below, first);
}

inline std::uint32_t mirror_store::grow(std::byte* below, page_number first) noexcept {
    if (!mirrors_.reserve(mirrors_.size() + 1)) {
        sys::munmap(below, page_);
        return no_mirror;
    }
    // Where the region lies behind it, it moves.
    void* const got = sys::mremap(below, page_, 2 * page_, MREMAP_MAYMOVE);
    if (got == MAP_FAILED) {
        sys::munmap(below, page_);
        return no_mirror;
    }
    auto* const seed = static_cast<std::byte*>(got);
    // What counts is the mapping. Its page is of no use.
    static_cast<void>(advise(seed, 2 * page_, MADV_DONTNEED));
    std::uint32_t id = 0;
    while (id < mirrors_.size() && mirrors_[id].seed != nullptr) {
        ++id;
    }
    if (id == mirrors_.size()) {
        mirrors_.push_back({seed, first});
    } else {
        mirrors_[id] = {seed, first};
    }
    return id;
}

inline std::uint32_t mirror_store::plant_below(extent const& m, bool noreserve) noexcept {
    // Above would not do: a mirror covers the pages behind its seed.
    auto* const below = reinterpret_cast<std::byte*>(m.begin - page_);
    void* const got =
        sys::mmap(below, page_, read_write,
                  anonymous | map_fixed_noreplace | (noreserve ? MAP_NORESERVE : 0), -1, 0);
    if (got == MAP_FAILED) {
        return no_mirror;
    }
    if (got != below || mapping_at(m.begin).begin >= m.begin) {
        sys::munmap(got, page_);
        return no_mirror;
    }
    return plant(below, page_number{m.begin / page_});
}

inline std::size_t mirror_store::divide(region const& whole,
                                        std::span<region, most_pieces> out) noexcept {
    std::size_t n = 0;
    for (page_number from = whole.pages.first; from < whole.pages.end(); ++n) {
        region& piece = out[n];
        piece = whole;
        piece.pages = {from, whole.pages.end() - from};
        // Each look at the mappings costs as much as there are: the last piece goes without.
        extent const m = n + 1 < most_pieces ? mapping_at(from.value() * page_) : extent{};
        page_number const end{m.end / page_};
        if (from < end && end < whole.pages.end()) {
            piece.pages.count = end - from;
        }
        piece.mirror = m.end == 0 ? never_mirror : plant_below(m, whole.noreserve);
        from = piece.pages.end();
    }
    return n;
}

inline std::uint32_t mirror_store::plant_amid(machinery& m, place const& p) noexcept {
    void* got = MAP_FAILED;
    {
        write_window window{m.writers, p, page_};
        int unread = 0;
        // MADV_DONTNEED ends the protection by a userfaultfd: a store that came before the page is
        // moved would be moved with it, and lost.
        if (window.why() == status::ok && window.survives_discarding() &&
            m.reader.zero(p.at, 1, p.in_place, unread) == 1 && window.sound() &&
            advise(p.at, page_, MADV_DONTNEED) == 0) {
            // Moves nothing, for there is nothing: it makes a mapping like that of the page. With
            // MREMAP_DONTUNMAP the kernel always reads the fifth argument: where we want it.
            got = sys::mremap(p.at, page_, page_, MREMAP_MAYMOVE | mremap_dontunmap, nullptr);
        }
    }
    if (got == MAP_FAILED) {
        return no_mirror;
    }
    // It was made in a window, in which the pages may be read-only.
    if (protect(got, page_, read_write) != 0) {
        sys::munmap(got, page_);
        return no_mirror;
    }
    return grow(static_cast<std::byte*>(got), p.first + page_count{1});
}

inline std::byte* mirror_store::get(std::uint32_t id, page_number first,
                                    std::size_t pages) noexcept {
    if (id >= mirrors_.size() || first < mirrors_[id].first) {
        return nullptr;
    }
    if (piece_.id == id && piece_.first <= first &&
        first + page_count{pages} <= piece_.first + page_count{piece_.pages}) {
        return piece_.at + (first - piece_.first).value() * page_;
    }
    rest();
    mirror& m = mirrors_[id];
    // Page k of the region lies k + 1 pages behind the beginning of the seed.
    std::size_t const skipped = (first - m.first).value();
    std::size_t const all = skipped + 1 + std::max(pages, piece_pages);
    void* const got = sys::mremap(m.seed, 2 * page_, all * page_, MREMAP_MAYMOVE);
    if (got == MAP_FAILED) { // no address space, no commit charge, no mapping
        return nullptr;
    }
    m.seed = static_cast<std::byte*>(got);
    std::size_t const kept = std::max<std::size_t>(skipped + 1, 2);
    if (kept > 2 && sys::munmap(m.seed + 2 * page_, (kept - 2) * page_) != 0) {
        sys::munmap(m.seed + 2 * page_, (all - 2) * page_);
        return nullptr;
    }
    piece_.id = id;
    piece_.first = first;
    piece_.pages = all - skipped - 1;
    piece_.at = m.seed + (skipped + 1) * page_;
    piece_.unmap = m.seed + kept * page_;
    piece_.bytes = (all - kept) * page_;
    return piece_.at;
}

} // namespace detail::os
KSM_NAMESPACE_END

#endif
