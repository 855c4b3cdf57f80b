// SPDX-License-Identifier: BSL-1.0
// Stable frames: pages of memfds, written once before the first page maps them and never again.
// A forked child may rely on a frame that this process has no use for any more, so in this version
// a released frame keeps its memory (I11).
#ifndef KSM_PROVIDERS_LINUX_FRAME_STORE_HPP
#define KSM_PROVIDERS_LINUX_FRAME_STORE_HPP

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>

#include <ksm/outcome.hpp>
#include <ksm/providers/linux/own_memory.hpp>
#include <ksm/providers/linux/page_table.hpp>
#include <ksm/types.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

class frame_store {
  public:
    frame_store(std::size_t page, std::size_t arena_pages) noexcept
        : page_(page), shift_(static_cast<unsigned>(std::countr_zero(std::bit_ceil(
                           std::clamp<std::size_t>(arena_pages, 64, std::size_t{1} << 24))))) {}
    ~frame_store() {
        // The pages that map a frame keep its file alive, here and in every child.
        for (arena& a : arenas_) {
            sys::munmap(a.view, a.capacity * page_);
            a.file.close();
        }
    }
    frame_store(frame_store const&) = delete;
    frame_store& operator=(frame_store const&) = delete;

    [[nodiscard]] unsigned arena_shift() const noexcept { return shift_; }
    [[nodiscard]] std::size_t arenas() const noexcept { return arenas_.size(); }
    [[nodiscard]] std::size_t live() const noexcept { return promoted_ - dead_; }
    [[nodiscard]] std::size_t dead() const noexcept { return dead_; }
    [[nodiscard]] std::size_t metadata_bytes() const noexcept {
        return arenas_.bytes() + released_.bytes();
    }

    [[nodiscard]] std::byte const* view(frame_id frame) const noexcept {
        arena const& a = arenas_[index(frame)];
        return a.view + slot(frame) * page_;
    }
    [[nodiscard]] bool contains(frame_id frame) const noexcept {
        return index(frame) < arenas_.size() && slot(frame) < arenas_[index(frame)].used;
    }
    /// Whether the kernel says that a frame is mapped.
    [[nodiscard]] bool is_at(frame_id frame, dev_t device, std::uint64_t inode,
                             std::uint64_t offset) const noexcept {
        return arenas_[index(frame)].file.is_of(device, inode) && slot(frame) * page_ == offset;
    }
    /// Frames from `frame` to the end of its arena, the most that one mapping can hold.
    [[nodiscard]] std::size_t to_arena_end(frame_id frame) const noexcept {
        return arenas_[index(frame)].capacity - slot(frame);
    }

    [[nodiscard]] bool released(frame_id frame) const noexcept {
        return (released_[frame.value() / 64] >> (frame.value() % 64) & 1) != 0;
    }
    void release(frame_id first, std::size_t frames) noexcept {
        for (std::size_t i = 0; i < frames; ++i) {
            std::uint64_t const f = first.value() + i;
            std::uint64_t const bit = std::uint64_t{1} << (f % 64);
            KSM_ASSERT(contains(frame_id{f}) && (released_[f / 64] & bit) == 0,
                       "a live frame of this provider");
            released_[f / 64] |= bit;
        }
        dead_ += frames;
    }

    /// Room for new frames, which `write` fills and `commit` makes stable.
    struct reservation {
        frame_id first;
        std::size_t frames = 0; ///< At least one, at most what was asked for; 0: refused.
        os_error error;
    };
    [[nodiscard]] reservation reserve(std::size_t frames) noexcept {
        os_error error;
        if (arenas_.size() == 0 || room(arenas_[arenas_.size() - 1]) == 0) {
            if (error = add_arena(); error) {
                return {frame_id{}, 0, error};
            }
        }
        std::size_t const last = arenas_.size() - 1;
        arena const& a = arenas_[last];
        return {frame_id{(std::uint64_t{last} << shift_) + a.used}, std::min(frames, room(a)), {}};
    }

    /// Inside a window. Copies pages into reserved frames; the number that was copied.
    /// A frame that was written but not committed is written anew by the next promotion: no page
    /// has mapped it.
    [[nodiscard]] std::size_t write(frame_id first, std::byte const* from, std::size_t frames,
                                    int& error) const noexcept {
        arena const& a = arenas_[index(first)];
        std::uint64_t const at = slot(first) * page_;
        if (!a.file.intact()) {
            error = EBADF;
            return 0;
        }
        // A memfd is subject to RLIMIT_FSIZE, and going beyond raises SIGXFSZ.
        if (file_size_limit() < at + frames * page_) {
            error = EFBIG;
            return 0;
        }
        ssize_t const n = sys::pwrite(a.file.get(), from, frames * page_, at);
        error = n < 0 ? errno : 0;
        return n < 0 ? 0 : static_cast<std::size_t>(n) / page_;
    }

    /// Inside a window. Maps pages to frames of one arena; 0 or errno.
    [[nodiscard]] int map(std::byte* at, frame_id first, std::size_t frames,
                          int extra_flags) const noexcept {
        arena const& a = arenas_[index(first)];
        // Mapping a foreign file that got our number would show its content (I1).
        if (!a.file.intact()) {
            return EBADF;
        }
        return map_at(at, frames * page_, read_write, MAP_PRIVATE | extra_flags, a.file.get(),
                      slot(first) * page_);
    }

    void commit(frame_id first, std::size_t frames) noexcept {
        arena& a = arenas_[index(first)];
        KSM_ASSERT(slot(first) == a.used, "frames are promoted in order");
        a.used += frames;
        promoted_ += frames;
    }

    /// No further frames in the arena of `frame`: it refused a write.
    void retire(frame_id frame) noexcept { arenas_[index(frame)].full = true; }

  private:
    struct arena {
        descriptor file;
        std::byte* view;
        std::size_t capacity;
        std::size_t used;
        bool full;
    };

    [[nodiscard]] static std::size_t room(arena const& a) noexcept {
        return a.full ? 0 : a.capacity - a.used;
    }
    [[nodiscard]] std::size_t index(frame_id f) const noexcept {
        return static_cast<std::size_t>(f.value() >> shift_);
    }
    [[nodiscard]] std::size_t slot(frame_id f) const noexcept {
        return static_cast<std::size_t>(f.value() & ((std::uint64_t{1} << shift_) - 1));
    }

    os_error add_arena() noexcept {
        std::size_t const capacity = static_cast<std::size_t>(
            std::min<std::uint64_t>(std::uint64_t{1} << shift_, file_size_limit() / page_));
        std::uint64_t const ids = (std::uint64_t{arenas_.size()} + 1) << shift_;
        if (capacity == 0) {
            return {"RLIMIT_FSIZE", EFBIG};
        }
        if (ids > page_entry::max_value) {
            return {"frame numbers", ENOSPC};
        }
        if (!arenas_.reserve(arenas_.size() + 1) || !released_.reserve(ids / 64)) {
            return {"mmap", ENOMEM};
        }
        int const fd = create_memfd();
        if (fd < 0) {
            return {"memfd_create", errno};
        }
        os_error error;
        void* view = MAP_FAILED;
        if (sys::ftruncate(fd, capacity * page_) != 0) {
            error = {"ftruncate", errno};
        } else if (sys::fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0) {
            error = {"fcntl", errno};
        } else if (view = sys::mmap(nullptr, capacity * page_, PROT_READ, MAP_PRIVATE, fd, 0);
                   view == MAP_FAILED) {
            error = {"mmap", errno};
        }
        if (error) {
            sys::close(fd);
            return error;
        }
        arenas_.push_back({descriptor{fd}, static_cast<std::byte*>(view), capacity, 0, false});
        while (released_.size() < ids / 64) {
            released_.push_back(0);
        }
        return {};
    }

    std::size_t page_;
    unsigned shift_;
    own_array<arena> arenas_;
    own_array<std::uint64_t> released_; ///< One bit a frame.
    std::size_t promoted_ = 0;
    std::size_t dead_ = 0;
};

} // namespace detail::os
KSM_NAMESPACE_END

#endif
