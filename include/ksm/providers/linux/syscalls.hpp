// SPDX-License-Identifier: BSL-1.0
// What the provider asks of the kernel: errno as the result, no allocation. What each errno means
// to a caller of the provider is decided here.
#ifndef KSM_PROVIDERS_LINUX_SYSCALLS_HPP
#define KSM_PROVIDERS_LINUX_SYSCALLS_HPP

#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <limits>

#include <linux/futex.h>
#include <sys/syscall.h>

#include <ksm/outcome.hpp>
#include <ksm/providers/linux/os_error.hpp>
#include <ksm/providers/linux/sys.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

// Newer than the headers of some systems that the library is compiled on.
inline constexpr int madv_cold = 20;                 // Linux 5.4
inline constexpr int madv_populate_write = 23;       // Linux 5.14
inline constexpr int madv_dontneed_locked = 24;      // Linux 5.18
inline constexpr int mremap_dontunmap = 4;           // Linux 5.7
inline constexpr unsigned mfd_noexec_seal = 8U;      // Linux 6.3
inline constexpr int map_fixed_noreplace = 0x100000; // Linux 4.17

inline constexpr int read_write = PROT_READ | PROT_WRITE;
inline constexpr int anonymous = MAP_PRIVATE | MAP_ANONYMOUS;

/// 0 or errno.
[[nodiscard]] inline int map_at(void* at, std::size_t bytes, int protection, int flags,
                                int file = -1, std::uint64_t offset = 0) noexcept {
    void* const got = sys::mmap(at, bytes, protection, flags | MAP_FIXED, file, offset);
    return got == MAP_FAILED ? errno : 0;
}
[[nodiscard]] inline int protect(void* at, std::size_t bytes, int protection) noexcept {
    return sys::mprotect(at, bytes, protection) != 0 ? errno : 0;
}
[[nodiscard]] inline int advise(void* at, std::size_t bytes, int advice) noexcept {
    return sys::madvise(at, bytes, advice) != 0 ? errno : 0;
}

[[nodiscard]] inline int thread_id() noexcept { return static_cast<int>(::syscall(SYS_gettid)); }

[[nodiscard]] inline int create_memfd(char const* name) noexcept {
    unsigned const flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    int const fd = sys::memfd_create(name, flags | mfd_noexec_seal);
    return fd < 0 && errno == EINVAL ? sys::memfd_create(name, flags) : fd;
}

/// A write that changes nothing, by the kernel: copy-on-write breaks, and a page that is not there
/// or not writable is an errno instead of a signal.
[[nodiscard]] inline int touch(std::byte* at) noexcept {
    std::uint32_t const nobody_waits = 0;
    return ::syscall(SYS_futex, &nobody_waits, FUTEX_WAKE_OP_PRIVATE, 0, nullptr, at,
                     FUTEX_OP(FUTEX_OP_OR, 0, FUTEX_OP_CMP_EQ, 0)) < 0
               ? errno
               : 0;
}

/// Gives whole pages memory of their own, as a write to each would. False: the kernel has none.
[[nodiscard]] inline bool write_fault(std::byte* at, std::size_t bytes, std::size_t page) noexcept {
    int const e = advise(at, bytes, madv_populate_write);
    if (e != EINVAL) {
        return e == 0;
    }
    bool all = true; // before Linux 5.14
    for (std::size_t i = 0; i < bytes && all; i += page) {
        all = touch(at + i) == 0;
    }
    return all;
}

inline void futex_wait(std::uint32_t const* word, std::uint32_t while_it_is) noexcept {
    ::syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, while_it_is, nullptr, nullptr, 0);
}
inline void futex_wake_all(std::uint32_t const* word) noexcept {
    ::syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

[[nodiscard]] inline std::size_t page_bytes() noexcept {
    return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

/// Tries it on a page: process_madvise gives the calling process's own memory back (Linux 6.14).
[[nodiscard]] inline bool can_discard_at_once(std::size_t page) noexcept {
    void* const trial = sys::mmap(nullptr, page, read_write, anonymous, -1, 0);
    if (trial == MAP_FAILED) {
        return false;
    }
    auto* const byte = static_cast<unsigned char volatile*>(trial);
    *byte = 1;
    iovec const part{trial, page};
    bool const works =
        sys::process_madvise({&part, 1}, MADV_DONTNEED) == static_cast<ssize_t>(page) && *byte == 0;
    sys::munmap(trial, page);
    return works;
}

/// True when a part of the range is not mapped at all.
[[nodiscard]] inline bool has_hole(std::byte* at, std::size_t bytes, std::size_t page) noexcept {
    unsigned char resident[128];
    std::size_t const step = sizeof resident * page;
    for (std::size_t i = 0; i < bytes; i += step) {
        if (sys::mincore(at + i, bytes - i < step ? bytes - i : step, resident) != 0 &&
            errno == ENOMEM) {
            return true;
        }
    }
    return false;
}

/// What it means that pages could not be given another mapping or protection. The pages are as
/// they were. `disable` says that the error can only come from a fault of the provider, or from an
/// application that closed its descriptors: it must not go on.
struct refusal {
    status why;
    bool disable = false;
};
[[nodiscard]] inline refusal mapping_refused(int error, bool hole) noexcept {
    switch (error) {
    case ENOMEM: return {hole ? status::gone : status::out_of_mappings};
    case EAGAIN: // mlockall(MCL_FUTURE)
    case EPERM:  // sealed
    case EACCES: // a security module
        return {status::refused};
    default: return {status::refused, true};
    }
}

/// A descriptor that notices when somebody else closed it. Applications that close all
/// descriptors close ours, and the number may name another file by then.
class descriptor {
  public:
    constexpr descriptor() = default;
    explicit descriptor(int fd) noexcept : fd_(fd) {
        struct stat s;
        if (fd_ >= 0 && sys::fstat(fd_, s) == 0) {
            device_ = s.st_dev;
            inode_ = s.st_ino;
        }
    }
    [[nodiscard]] int get() const noexcept { return fd_; }
    [[nodiscard]] bool is_open() const noexcept { return fd_ >= 0; }

    /// Still the file that it was opened for. `links`, when given, receives its link count.
    [[nodiscard]] bool intact(std::size_t* links = nullptr) const noexcept {
        struct stat s;
        if (fd_ < 0 || sys::fstat(fd_, s) != 0 || s.st_dev != device_ || s.st_ino != inode_) {
            return false;
        }
        if (links != nullptr) {
            *links = static_cast<std::size_t>(s.st_nlink);
        }
        return true;
    }
    /// Whether it was opened for this file.
    [[nodiscard]] bool is_of(dev_t device, std::uint64_t inode) const noexcept {
        return fd_ >= 0 && device == device_ && inode == inode_;
    }
    void close() noexcept {
        if (intact()) {
            sys::close(fd_);
        }
        fd_ = -1;
    }

  private:
    int fd_ = -1;
    dev_t device_ = 0;
    ino_t inode_ = 0;
};

/// RLIMIT_FSIZE, which holds for memfds, too: going beyond raises SIGXFSZ.
[[nodiscard]] inline std::uint64_t file_size_limit() noexcept {
    rlimit limit;
    return sys::getrlimit(RLIMIT_FSIZE, limit) != 0 || limit.rlim_cur == RLIM_INFINITY
               ? std::numeric_limits<std::uint64_t>::max()
               : limit.rlim_cur;
}

/// A small number in a file such as /proc/sys/vm/max_map_count, or `otherwise`.
[[nodiscard]] inline std::size_t number_in_file(char const* path, std::size_t otherwise) noexcept {
    int const fd = sys::open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return otherwise;
    }
    char text[32];
    ssize_t const n = sys::read(fd, text, sizeof text);
    sys::close(fd);
    std::size_t value = 0;
    ssize_t i = 0;
    for (; i < n && text[i] >= '0' && text[i] <= '9'; ++i) {
        value = value * 10 + static_cast<std::size_t>(text[i] - '0');
    }
    return i > 0 ? value : otherwise;
}

} // namespace detail::os
KSM_NAMESPACE_END

#endif
