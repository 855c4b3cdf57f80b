// SPDX-License-Identifier: BSL-1.0
// Reads memory that the application may have unmapped behind our back. The kernel copies it into a
// memfd, so that a page that is not there costs an EFAULT, not a signal.
//
// A write to a memfd, not process_vm_readv: that pins what it reads, which gives every page that is
// shared with a forked child a private copy, and it takes half as long again.
#ifndef KSM_PROVIDERS_LINUX_READING_HPP
#define KSM_PROVIDERS_LINUX_READING_HPP

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>

#include <ksm/outcome.hpp>
#include <ksm/providers/linux/fork_marker.hpp>
#include <ksm/providers/linux/live_memory.hpp>
#include <ksm/providers/linux/own_memory.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

/// More pages make a window long for the writers that wait; fewer make merging dear: opening and
/// closing a window costs as much as merging ten pages of a run.
inline constexpr std::size_t window_pages = 128;

class memory_reader {
  public:
    /// Pages that are copied at once when they are asked for one after the other.
    static constexpr std::size_t ahead = 32;

    memory_reader(std::size_t page, fork_marker const& marker) noexcept
        : page_(page), marker_(marker) {}
    ~memory_reader() { close(); }
    memory_reader(memory_reader const&) = delete;
    memory_reader& operator=(memory_reader const&) = delete;

    /// Makes it possible to read, also after the application has closed our descriptor.
    [[nodiscard]] os_error prepare() noexcept;
    [[nodiscard]] std::size_t bytes() const noexcept {
        return view_ == nullptr ? 0 : all_pages * page_;
    }

    /// A copy of a page, or null: it cannot be read. Valid until the second next call.
    /// \param pages  From `at` on: what may be copied with it.
    [[nodiscard]] std::byte const* view(std::byte const* at, std::size_t pages) noexcept;
    /// The copies are out of date: a digest must not be older than the latest survey.
    void forget() noexcept { copies_ = {}; }

    // For a write window. `in_place`: the memory is certain to be there. `error`: why not all pages
    // could be read, otherwise 0; the results stay on the stack (I10).

    /// Pages before the first that differs, or cannot be read.
    [[nodiscard]] std::size_t equal(std::byte const* at, std::byte const* content,
                                    std::size_t pages, bool in_place, int& error) const noexcept {
        return leading(at, pages, in_place, error, [&](std::byte const* a, std::size_t i) {
            return live_equal(a, content + i * page_, page_);
        });
    }
    /// Pages before the first that is not zero, or cannot be read.
    [[nodiscard]] std::size_t zero(std::byte const* at, std::size_t pages, bool in_place,
                                   int& error) const noexcept {
        return leading(at, pages, in_place, error,
                       [&](std::byte const* a, std::size_t) { return live_zero(a, page_); });
    }
    /// False: not all pages can be read.
    [[nodiscard]] bool copy(std::byte* to, std::byte const* at, std::size_t pages,
                            bool in_place) const noexcept {
        int error = 0;
        return leading(at, pages, in_place, error, [&](std::byte const* a, std::size_t i) {
                   live_copy(to + i * page_, a, page_);
                   return true;
               }) == pages;
    }
    /// What it means that a comparison ended early.
    [[nodiscard]] static status unequal(int error) noexcept {
        switch (error) {
        case 0: return status::changed;
        case EFAULT: return status::gone;
        case ENOMEM:
        case ENOSPC:
        case EDQUOT: return status::out_of_memory;
        default: return status::busy; // our descriptor was closed: a survey opens another
        }
    }

  private:
    // Two pages, two sequences of pages (an engine compares one with the other), and a window.
    static constexpr std::size_t window_at = 2 + 2 * ahead;
    static constexpr std::size_t all_pages = window_at + window_pages;

    struct copied {
        std::uintptr_t at = 0;
        std::size_t bytes = 0;

        [[nodiscard]] bool holds(std::uintptr_t a) const noexcept { return a - at < bytes; }
    };

    [[nodiscard]] static constexpr std::size_t slot(std::size_t copy) noexcept {
        return copy < 2 ? copy : 2 + (copy - 2) * ahead;
    }
    [[nodiscard]] std::byte const* use(std::size_t copy, std::uintptr_t at) noexcept {
        latest_[copy / 2] = copy % 2;
        return view_ + slot(copy) * page_ + (at - copies_[copy].at);
    }
    /// Pages that the kernel copied to `slot`.
    [[nodiscard]] std::size_t fetch(std::byte const* at, std::size_t pages, std::size_t slot,
                                    int& error) const noexcept {
        // A file that got our number must not be written to, nor the file that a forked child
        // shares with its parent. Beyond RLIMIT_FSIZE a write raises SIGXFSZ.
        if (marker_.in_child() || !file_.intact()) {
            error = EBADF;
            return 0;
        }
        if (file_size_limit() < all_pages * page_) {
            error = EFBIG;
            return 0;
        }
        ssize_t const n = sys::pwrite(file_.get(), at, pages * page_, slot * page_);
        std::size_t const read = n < 0 ? 0 : static_cast<std::size_t>(n) / page_;
        error = n < 0 ? errno : read < pages ? EFAULT : 0;
        return read;
    }
    template <class Accept>
    [[nodiscard]] std::size_t leading(std::byte const* at, std::size_t pages, bool in_place,
                                      int& error, Accept accept) const noexcept {
        error = 0;
        std::size_t const there = in_place ? pages : fetch(at, pages, window_at, error);
        std::byte const* const from = in_place ? at : view_ + window_at * page_;
        std::size_t n = 0;
        while (n < there && accept(from + n * page_, n)) {
            ++n;
        }
        if (n < there) {
            error = 0;
        }
        return n;
    }
    void close() noexcept {
        if (view_ != nullptr) {
            sys::munmap(view_, all_pages * page_);
            view_ = nullptr;
        }
        file_.close();
    }

    std::size_t page_;
    fork_marker const& marker_;
    descriptor file_;
    std::byte* view_ = nullptr;
    std::array<copied, 4> copies_{};
    std::array<std::size_t, 2> latest_{}; ///< Of the pages, of the sequences: must not change.
};

inline os_error memory_reader::prepare() noexcept {
    if (file_.intact()) {
        return {};
    }
    close();
    forget();
    if (file_size_limit() < all_pages * page_) {
        return {"RLIMIT_FSIZE", EFBIG};
    }
    int const fd = create_memfd("ksm copies");
    if (fd < 0) {
        return {"memfd_create", errno};
    }
    os_error error;
    void* p = MAP_FAILED;
    if (sys::ftruncate(fd, all_pages * page_) != 0) {
        error = {"ftruncate", errno};
    } else if (p = sys::mmap(nullptr, all_pages * page_, PROT_READ, MAP_SHARED, fd, 0);
               p == MAP_FAILED) {
        error = {"mmap", errno};
    }
    if (error) {
        sys::close(fd);
        return error;
    }
    file_ = descriptor{fd};
    view_ = static_cast<std::byte*>(p);
    return {};
}

inline std::byte const* memory_reader::view(std::byte const* at, std::size_t pages) noexcept {
    auto const address = reinterpret_cast<std::uintptr_t>(at);
    bool ascending = false;
    for (std::size_t i = 0; i < copies_.size(); ++i) {
        if (copies_[i].holds(address)) {
            return use(i, address);
        }
        ascending = ascending || (copies_[i].bytes != 0 && copies_[i].holds(address - page_));
    }
    std::size_t const kind = ascending ? 1 : 0;
    std::size_t const copy = 2 * kind + (1 - latest_[kind]);
    copies_[copy] = {};
    int error = 0;
    std::size_t const n = fetch(at, ascending ? std::min(pages, ahead) : 1, slot(copy), error);
    if (n == 0) {
        return nullptr;
    }
    copies_[copy] = {address, n * page_};
    return use(copy, address);
}

} // namespace detail::os
KSM_NAMESPACE_END

#endif
