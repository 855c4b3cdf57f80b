// SPDX-License-Identifier: BSL-1.0
// /proc/self/pagemap: what the kernel's page table says of our pages.
#ifndef KSM_PROVIDERS_LINUX_PAGEMAP_HPP
#define KSM_PROVIDERS_LINUX_PAGEMAP_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <span>

#include <sys/ioctl.h>

#include <ksm/providers/linux/own_memory.hpp>
#include <ksm/types.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

class pagemap_entry {
  public:
    constexpr explicit pagemap_entry(std::uint64_t bits) noexcept : bits_(bits) {}

    [[nodiscard]] constexpr bool present() const noexcept { return (bits_ >> 63 & 1) != 0; }
    [[nodiscard]] constexpr bool swapped() const noexcept { return (bits_ >> 62 & 1) != 0; }
    [[nodiscard]] constexpr bool file() const noexcept { return (bits_ >> 61 & 1) != 0; }
    /// By a userfaultfd.
    [[nodiscard]] constexpr bool write_protected() const noexcept { return (bits_ >> 57 & 1) != 0; }
    /// Mapped once: neither the zero page nor shared with a forked child.
    [[nodiscard]] constexpr bool exclusive() const noexcept { return (bits_ >> 56 & 1) != 0; }
    /// A page of the process's own.
    [[nodiscard]] constexpr bool anonymous() const noexcept {
        return (present() || swapped()) && !file();
    }
    /// Of a mapping of a frame: copy-on-write was broken. The marker that write protection by
    /// userfaultfd leaves where there is no page looks like a page in swap.
    [[nodiscard]] constexpr bool broken() const noexcept {
        return anonymous() && (present() || !write_protected());
    }

  private:
    std::uint64_t bits_;
};

class pagemap {
  public:
    static constexpr std::size_t buffer_entries = 4096;

    pagemap() noexcept
        : buffer_(static_cast<std::uint64_t*>(own_map(buffer_entries * sizeof(std::uint64_t)))) {
        if (reopen() && buffer_ == nullptr) {
            error_ = {"mmap", ENOMEM};
        }
    }
    ~pagemap() {
        file_.close();
        if (buffer_ != nullptr) {
            sys::munmap(buffer_, buffer_bytes());
        }
    }
    pagemap(pagemap const&) = delete;
    pagemap& operator=(pagemap const&) = delete;

    /// For a descriptor that the application has closed. \requires Not a forked child: the
    /// descriptor stays bound to the memory of the process that opens it.
    bool reopen() noexcept {
        file_.close();
        int const fd = sys::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
        error_ = fd < 0 ? os_error{"open(/proc/self/pagemap)", errno} : os_error{};
        file_ = descriptor{fd};
        return fd >= 0;
    }

    [[nodiscard]] os_error error() const noexcept { return error_; }
    [[nodiscard]] bool intact() const noexcept { return !error_ && file_.intact(); }
    [[nodiscard]] static constexpr std::size_t buffer_bytes() noexcept {
        return buffer_entries * sizeof(std::uint64_t);
    }

    // Categories of PAGEMAP_SCAN (Linux 6.7).
    static constexpr std::uint64_t is_tracked = 1U << 0; ///< By a userfaultfd that only takes note.
    static constexpr std::uint64_t is_written = 1U << 1;
    static constexpr std::uint64_t is_file = 1U << 2;
    static constexpr std::uint64_t is_present = 1U << 3;
    static constexpr std::uint64_t is_swapped = 1U << 4;
    static constexpr std::uint64_t is_zero = 1U << 5; ///< The kernel's page of zeros.

    struct query {
        std::uint64_t inverted = 0; ///< Categories that count when they are absent.
        std::uint64_t all_of = 0;
        std::uint64_t any_of = 0;
        std::uint64_t returned = 0; ///< Neighbours that differ in these are ranges of their own.
        bool arm = false;           ///< Write-protects what is found, at the same time.
    };
    struct found {
        std::size_t ranges; ///< Written to `out`.
        page_number end;    ///< The pages before were looked at.
        int error;
    };
    /// The first pages of a range that match.
    [[nodiscard]] found scan(page_range range, unsigned page_shift, query const& q,
                             std::span<page_range> out) noexcept {
        struct {
            std::uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
            std::uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
        } a{};
        struct {
            std::uint64_t start, end, categories;
        } got[64];
        a.size = sizeof a;
        a.flags = q.arm ? 1 : 0;
        a.start = range.first.value() << page_shift;
        a.end = range.end().value() << page_shift;
        a.walk_end = a.start;
        a.vec = reinterpret_cast<std::uintptr_t>(got);
        a.vec_len = std::min(std::size(got), out.size());
        a.category_inverted = q.inverted;
        a.category_mask = q.all_of;
        a.category_anyof_mask = q.any_of;
        a.return_mask = q.returned;
        int const n = sys::ioctl(call::pagemap_scan, file_.get(), _IOWR('f', 16, decltype(a)), &a);
        int const error = n < 0 ? errno : 0;
        std::size_t const ranges = n < 0 ? 0 : static_cast<std::size_t>(n);
        for (std::size_t i = 0; i < ranges; ++i) {
            page_number const first{got[i].start >> page_shift};
            out[i] = {first, page_number{got[i].end >> page_shift} - first};
        }
        return {ranges, page_number{a.walk_end >> page_shift}, error};
    }

    /// Entries from `first` on, as many as are to be had at once, at most `pages`; none if the
    /// kernel refuses. Valid until the next call.
    [[nodiscard]] std::span<std::uint64_t const> read(page_number first,
                                                      std::size_t pages) noexcept {
        std::size_t const bytes = std::min(pages, buffer_entries) * sizeof(std::uint64_t);
        if (error_) {
            return {};
        }
        ssize_t const n =
            sys::pread(file_.get(), buffer_, bytes, first.value() * sizeof(std::uint64_t));
        return {buffer_, n < 0 ? 0 : static_cast<std::size_t>(n) / sizeof(std::uint64_t)};
    }

  private:
    std::uint64_t* buffer_;
    descriptor file_;
    os_error error_;
};

/// mlockall(MCL_FUTURE) makes the kernel write to a new mapping at once, which breaks the
/// copy-on-write of every merged page: seen at a mapping that nobody wrote to.
[[nodiscard]] inline bool new_memory_is_locked(pagemap& table, std::size_t page) noexcept {
    if (file_size_limit() < page) {
        return false; // nothing will be promoted, either
    }
    int const fd = create_memfd("ksm trial");
    bool locked = false;
    if (fd >= 0 && sys::ftruncate(fd, page) == 0) {
        void* const p = sys::mmap(nullptr, page, read_write, MAP_PRIVATE, fd, 0);
        if (p != MAP_FAILED) {
            auto const entries =
                table.read(page_number{reinterpret_cast<std::uintptr_t>(p) / page}, 1);
            locked = !entries.empty() && pagemap_entry{entries[0]}.anonymous();
            sys::munmap(p, page);
        }
    }
    if (fd >= 0) {
        sys::close(fd);
    }
    return locked;
}

} // namespace detail::os
KSM_NAMESPACE_END

#endif
