// SPDX-License-Identifier: BSL-1.0
// Stable frames: pages of memfds, written before the first page maps them and never while one
// does. A frame that nobody in this process relies on may still be read by a forked child, so its
// memory is given back (punched) only when the canaries say that there is none (I11). The place of
// a punched frame is used again; a frame is never written over in place, because the kernel may
// still reference its page (a pipe, a send without copying): punching leaves the page to those.
#ifndef KSM_PROVIDERS_LINUX_FRAME_STORE_HPP
#define KSM_PROVIDERS_LINUX_FRAME_STORE_HPP

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>

#include <ksm/outcome.hpp>
#include <ksm/providers/linux/bit_row.hpp>
#include <ksm/providers/linux/fork_canary.hpp>
#include <ksm/providers/linux/frame_records.hpp>
#include <ksm/providers/linux/own_memory.hpp>
#include <ksm/providers/linux/page_entry.hpp>
#include <ksm/types.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

class frame_store {
  public:
    frame_store(std::size_t page, std::size_t arena_pages, fork_marker const& marker) noexcept
        : page_(page), shift_(static_cast<unsigned>(std::countr_zero(std::bit_ceil(
                           std::clamp<std::size_t>(arena_pages, 64, std::size_t{1} << 24))))),
          marker_(marker), records_(shift_), canaries_(marker) {}
    ~frame_store() {
        // The pages that map a frame keep its file alive, here and in every child.
        for (arena& a : arenas_) {
            discard_mappings(a);
            a.file.close();
        }
    }
    frame_store(frame_store const&) = delete;
    frame_store& operator=(frame_store const&) = delete;

    [[nodiscard]] unsigned arena_shift() const noexcept { return shift_; }
    [[nodiscard]] frame_records& records() noexcept { return records_; }
    /// Mappings of the kernel: the views, and the canary.
    [[nodiscard]] std::size_t mappings() const noexcept {
        return arenas_.size() + canaries_.mappings();
    }
    [[nodiscard]] std::size_t live() const noexcept { return records_.live(); }
    [[nodiscard]] std::size_t dead() const noexcept { return records_.dead(); }
    [[nodiscard]] std::size_t punched() const noexcept {
        return touched_ - records_.live() - records_.dead();
    }
    [[nodiscard]] std::size_t metadata_bytes() const noexcept {
        std::size_t bytes = arenas_.bytes() + touched_ * frame_records::bytes_of_a_frame;
        for (arena const& a : arenas_) {
            bytes += bit_bytes(a.capacity);
        }
        return bytes;
    }

    [[nodiscard]] std::byte const* view(frame_id frame) const noexcept {
        arena const& a = arenas_[index(frame)];
        return a.view + slot(frame) * page_;
    }
    [[nodiscard]] bool contains(frame_id frame) const noexcept {
        return index(frame) < arenas_.size() && slot(frame) < arenas_[index(frame)].capacity &&
               records_.state(frame) != frame_state::unused;
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
        return records_.state(frame) != frame_state::live;
    }
    void release(frame_id first, std::size_t frames) noexcept {
        for (std::size_t i = 0; i < frames; ++i) {
            records_.release(first + page_count{i});
        }
    }
    /// Memory that the application changed behind our back may map the frame for ever.
    void keep(frame_id frame) noexcept { records_.keep(frame); }
    /// A page that is no page of a region any more keeps a mapping of the place of a frame. There
    /// MADV_DONTNEED may show nothing or zeros, but never another frame.
    void strand(frame_id frame) noexcept {
        if (records_.state(frame) == frame_state::unused) {
            arena& a = arenas_[index(frame)];
            a.vacant -= a.free.run(slot(frame), 1);
            a.free.fill(slot(frame), 1, false);
        } else {
            records_.strand(frame);
        }
    }

    /// Room for new frames, which `write` fills and `commit` makes stable.
    struct reservation {
        frame_id first;
        std::size_t frames = 0; ///< At least one, at most what was asked for; 0: refused.
        os_error error;
    };
    [[nodiscard]] reservation reserve(std::size_t frames) noexcept;

    /// Inside a window. Copies pages into reserved frames; the number that was copied.
    /// A frame that was written but not committed may be written anew: no page has mapped it.
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
        a.free.fill(slot(first), frames, false);
        a.vacant -= frames;
        a.cursor = slot(first) + frames;
        cursor_ = index(first);
        touched_ += a.cursor > a.touched ? a.cursor - a.touched : 0;
        a.touched = std::max(a.touched, a.cursor);
        for (std::size_t i = 0; i < frames; ++i) {
            records_.make(first + page_count{i}, canaries_.current());
        }
    }
    /// Gives back the memory of reserved frames that were perhaps written, but not committed.
    void discard(frame_id first, std::size_t frames) const noexcept {
        static_cast<void>(punch(arenas_[index(first)], slot(first), frames));
    }

    /// No further frames in the arena of `frame`: it refused a write.
    void retire(frame_id frame) noexcept { arenas_[index(frame)].full = true; }

    /// Gives back the memory of dead frames, as far as nobody can read them; outside of windows.
    /// Once in a while, with `ask`, the children are asked after. A call does the work of at most
    /// `frames_of_a_step` frames, some ten milliseconds; the next one goes on.
    void reclaim(bool ask) noexcept;
    static constexpr std::size_t frames_of_a_step = 16384;

  private:
    struct arena {
        descriptor file;
        std::byte* view;
        std::uint64_t* bits;
        std::size_t capacity;
        bit_row free;        ///< Punched or never used, and to be used.
        bit_row ready;       ///< Dead, and nobody can read them: to be punched.
        std::size_t vacant;  ///< Bits in `free`.
        std::size_t dead;    ///< Bits in `ready`.
        std::size_t longest; ///< No run of free places that begins before `touched` is longer.
        std::size_t cursor;  ///< Where the last frame was made: its successor goes next to it.
        std::size_t touched; ///< No frame from here on was ever made.
        bool full;           ///< Refused a write.
        bool fixed;          ///< Cannot be punched: its dead frames keep their memory.
    };

    [[nodiscard]] std::size_t index(frame_id f) const noexcept {
        return static_cast<std::size_t>(f.value() >> shift_);
    }
    [[nodiscard]] std::size_t slot(frame_id f) const noexcept {
        return static_cast<std::size_t>(f.value() & ((std::uint64_t{1} << shift_) - 1));
    }
    [[nodiscard]] frame_id frame(std::size_t arena_index, std::size_t place) const noexcept {
        return frame_id{(std::uint64_t{arena_index} << shift_) + place};
    }
    [[nodiscard]] static std::size_t bit_bytes(std::size_t slots) noexcept {
        return 2 * bit_row::words_for(slots) * sizeof(std::uint64_t);
    }
    void discard_mappings(arena& a) const noexcept {
        sys::munmap(a.view, a.capacity * page_);
        sys::munmap(a.bits, bit_bytes(a.capacity));
    }

    [[nodiscard]] reservation take_hole(std::size_t arena_index, std::size_t wanted) noexcept;
    [[nodiscard]] reservation take_fresh(std::size_t arena_index,
                                         std::size_t wanted) const noexcept;
    [[nodiscard]] reservation longest_run() noexcept;
    [[nodiscard]] bool roomy() const noexcept;
    [[nodiscard]] os_error add_arena() noexcept;
    [[nodiscard]] int punch(arena const& a, std::size_t first, std::size_t frames) const noexcept;
    /// Punching costs half a microsecond a frame, and three a call.
    static constexpr std::size_t frames_of_a_call = 6;
    void punch_ready(arena& a, std::size_t& work) noexcept;
    [[nodiscard]] bool may_be_huge(descriptor const& file) const noexcept;

    std::size_t page_;
    unsigned shift_;
    fork_marker const& marker_;
    own_array<arena> arenas_;
    frame_records records_;
    fork_canaries canaries_;
    /// Dead frames, by the canary that is the newest that may have seen a child that reads them.
    std::array<frame_chain, fork_canaries::max_retired> waiting_;
    std::size_t cursor_ = 0;  ///< The arena of the last frame that was made.
    std::size_t touched_ = 0; ///< Of all arenas.
};

/// A run of places that were used before, if possible next to the last frame that was made.
inline frame_store::reservation frame_store::take_hole(std::size_t arena_index,
                                                       std::size_t wanted) noexcept {
    arena& a = arenas_[arena_index];
    if (a.full || a.longest < wanted) {
        return {};
    }
    bit_row::found run = a.free.find(a.cursor, wanted);
    if (run.at >= a.touched) {
        run = a.free.find(0, wanted);
    }
    if (run.at >= a.touched) {
        a.longest = std::min(run.most, wanted - 1);
        return {};
    }
    return {frame(arena_index, run.at), wanted, {}};
}
/// A run of places that were never used.
inline frame_store::reservation frame_store::take_fresh(std::size_t arena_index,
                                                        std::size_t wanted) const noexcept {
    arena const& a = arenas_[arena_index];
    bool const fits = !a.full && a.capacity - a.touched >= wanted;
    return fits ? reservation{frame(arena_index, a.touched), wanted, {}} : reservation{};
}

inline frame_store::reservation frame_store::longest_run() noexcept {
    for (;;) {
        std::size_t best = 0;
        std::size_t length = 0;
        for (std::size_t i = 0; i < arenas_.size(); ++i) {
            arena const& a = arenas_[i];
            std::size_t const n = std::max(a.longest, a.capacity - a.touched);
            if (!a.full && n > length) {
                best = i;
                length = n;
            }
        }
        if (length == 0) {
            return {};
        }
        // The length of a hole may be an estimate: the search that does not find it corrects it.
        reservation const r = take_fresh(best, length);
        if (r.frames != 0) {
            return r;
        }
        if (reservation const hole = take_hole(best, length); hole.frames != 0) {
            return hole;
        }
    }
}

/// A quarter of all places is free: short runs are used before the store grows.
inline bool frame_store::roomy() const noexcept {
    std::size_t places = 0;
    std::size_t vacant = 0;
    for (arena const& a : arenas_) {
        places += a.full ? 0 : a.capacity;
        vacant += a.full ? 0 : a.vacant;
    }
    return vacant > places / 4;
}

inline frame_store::reservation frame_store::reserve(std::size_t frames) noexcept {
    canaries_.begin();
    std::size_t const wanted = std::min(frames, std::size_t{1} << shift_);
    for (std::size_t i = 0; i < arenas_.size(); ++i) {
        reservation const r = take_hole((cursor_ + i) % arenas_.size(), wanted);
        if (r.frames != 0) {
            return r;
        }
    }
    for (std::size_t i = 0; i < arenas_.size(); ++i) {
        reservation const r = take_fresh((cursor_ + i) % arenas_.size(), wanted);
        if (r.frames != 0) {
            return r;
        }
    }
    os_error error;
    if (!roomy()) {
        if (error = add_arena(); !error) {
            std::size_t const last = arenas_.size() - 1;
            return take_fresh(last, std::min(wanted, arenas_[last].capacity));
        }
    }
    reservation r = longest_run();
    r.error = r.frames == 0 ? error : os_error{};
    return r;
}

inline os_error frame_store::add_arena() noexcept {
    std::size_t const capacity = static_cast<std::size_t>(
        std::min<std::uint64_t>(std::uint64_t{1} << shift_, file_size_limit() / page_));
    std::uint64_t const ids = (std::uint64_t{arenas_.size()} + 1) << shift_;
    if (capacity == 0) {
        return {"RLIMIT_FSIZE", EFBIG};
    }
    if (ids > page_entry::max_value) {
        return {"frame numbers", ENOSPC};
    }
    if (!arenas_.reserve(arenas_.size() + 1)) {
        return {"mmap", ENOMEM};
    }
    int const fd = create_memfd("ksm frames");
    if (fd < 0) {
        return {"memfd_create", errno};
    }
    os_error error;
    void* view = MAP_FAILED;
    void* bits = nullptr;
    if (sys::ftruncate(fd, capacity * page_) != 0) {
        error = {"ftruncate", errno};
    } else if (sys::fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0) {
        error = {"fcntl", errno};
    } else if (view = sys::mmap(nullptr, capacity * page_, PROT_READ, MAP_PRIVATE, fd, 0);
               view == MAP_FAILED) {
        error = {"mmap", errno};
    } else if (bits = own_map(bit_bytes(capacity));
               bits == nullptr || !records_.add_arena(capacity)) {
        error = {"mmap", ENOMEM};
    }
    if (error) {
        if (view != MAP_FAILED) {
            sys::munmap(view, capacity * page_);
        }
        if (bits != nullptr) {
            sys::munmap(bits, bit_bytes(capacity));
        }
        sys::close(fd);
        return error;
    }
    arena a{};
    a.file = descriptor{fd};
    a.view = static_cast<std::byte*>(view);
    a.bits = static_cast<std::uint64_t*>(bits);
    a.capacity = a.vacant = capacity;
    a.free = bit_row{a.bits, capacity};
    a.free.fill(0, capacity, true);
    a.ready = bit_row{a.bits + bit_row::words_for(capacity), capacity};
    a.fixed = may_be_huge(a.file);
    arenas_.push_back(a);
    return {};
}

inline void frame_store::reclaim(bool ask) noexcept {
    if (marker_.in_child()) {
        return; // the files are the parent's
    }
    if (ask) {
        if (records_.found_dead()) {
            if (std::size_t const s = canaries_.hand_over(); s != fork_canaries::none) {
                waiting_[s] = records_.take_dead();
            }
        }
        canaries_.ask();
    }
    std::size_t work = frames_of_a_step;
    for (std::size_t s = 0; s < waiting_.size(); ++s) {
        if (!canaries_.alone(s)) {
            continue;
        }
        for (; work != 0 && !waiting_[s].empty(); --work) {
            frame_id const f = records_.pop(waiting_[s]);
            std::size_t const obstacle = canaries_.next_obstacle(records_.birth(f), s);
            if (obstacle != fork_canaries::none) {
                records_.push(waiting_[obstacle], f);
            } else {
                arenas_[index(f)].ready.fill(slot(f), 1, true);
                ++arenas_[index(f)].dead;
            }
        }
        if (waiting_[s].empty()) {
            canaries_.forget(s);
        }
    }
    work = frames_of_a_step;
    for (arena& a : arenas_) {
        if (a.dead != 0 && !a.fixed && work != 0) {
            punch_ready(a, work);
        }
    }
}

/// Neighbours in one call.
inline void frame_store::punch_ready(arena& a, std::size_t& work) noexcept {
    std::size_t const arena_index = static_cast<std::size_t>(&a - arenas_.begin());
    a.fixed = may_be_huge(a.file);
    for (std::size_t i = a.ready.next(0); i < a.capacity && work != 0 && !a.fixed;) {
        std::size_t const n = a.ready.run(i, work);
        switch (punch(a, i, n)) {
        case 0: break;
        case EINTR:
        case ENOMEM:
        case ENOSPC: work = 0; return;   // another time
        default: a.fixed = true; return; // sealed or closed by somebody, or forbidden
        }
        a.ready.fill(i, n, false);
        a.dead -= n;
        for (std::size_t j = i; j < i + n; ++j) {
            if (records_.bring_back(frame(arena_index, j))) {
                a.free.fill(j, 1, true);
                ++a.vacant;
            }
        }
        a.longest = a.capacity;
        work -= std::min(work, n + frames_of_a_call);
        i = a.ready.next(i + n);
    }
}

inline int frame_store::punch(arena const& a, std::size_t first,
                              std::size_t frames) const noexcept {
    if (!a.file.intact()) {
        return EBADF;
    }
    int const mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    return sys::fallocate(a.file.get(), mode, first * page_, frames * page_) != 0 ? errno : 0;
}

/// A part of a huge page is not dropped by punching but zeroed in place, and with it what the
/// kernel references. The kernel reports huge pages of memfds (shmem_enabled) as the block size.
inline bool frame_store::may_be_huge(descriptor const& file) const noexcept {
    struct stat s;
    return sys::fstat(file.get(), s) != 0 || static_cast<std::size_t>(s.st_blksize) > page_;
}

} // namespace detail::os
KSM_NAMESPACE_END

#endif
