// SPDX-License-Identifier: BSL-1.0
// The entry points of the kernel under their own names. The provider calls it through these only,
// so that a test can make any call fail with any errno.
#ifndef KSM_PROVIDERS_LINUX_SYS_HPP
#define KSM_PROVIDERS_LINUX_SYS_HPP

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>

#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

enum class call : std::uint8_t {
    open,
    close,
    read,
    pread,
    pwrite,
    fstat,
    fcntl,
    ftruncate,
    fallocate,
    memfd_create,
    mmap,
    munmap,
    mprotect,
    madvise,
    process_madvise,
    mremap,
    mincore,
    process_vm_readv,
    getrlimit,
    sigaction,
    procmap_query,
    pagemap_scan,
    userfaultfd,
    uffd_api,
    uffd_register,
    uffd_unregister,
    uffd_wake,
    uffd_write_protect,
    uffd_move,
    uffd_copy,
};

/// Asked before each call: 0 lets it happen, an errno makes it fail without happening; an ioctl
/// happens and fails nevertheless for the negative of one. A hook may run inside of a write window
/// and in a signal handler, and may change memory as the kernel or another thread would. Without
/// one a call costs one relaxed load more, a thousandth of itself.
inline constinit std::atomic<int (*)(call) noexcept> fault_hook{nullptr};

/// 0, or the errno that the call is to fail with.
[[nodiscard]] inline int injected(call c) noexcept {
    auto* const hook = fault_hook.load(std::memory_order_relaxed);
    return hook == nullptr ? 0 : hook(c);
}
/// The same, and sets errno.
[[nodiscard]] inline bool fails(call c) noexcept {
    int const e = injected(c);
    if (e != 0) {
        errno = e;
    }
    return e != 0;
}

namespace sys {

[[nodiscard]] inline int open(char const* path, int flags) noexcept {
    return fails(call::open) ? -1 : ::open(path, flags);
}
inline int close(int fd) noexcept { return fails(call::close) ? -1 : ::close(fd); }
[[nodiscard]] inline ssize_t read(int fd, void* to, std::size_t bytes) noexcept {
    return fails(call::read) ? -1 : ::read(fd, to, bytes);
}
[[nodiscard]] inline ssize_t pread(int fd, void* to, std::size_t bytes,
                                   std::uint64_t from) noexcept {
    return fails(call::pread) ? -1 : ::pread(fd, to, bytes, static_cast<off_t>(from));
}
[[nodiscard]] inline ssize_t pwrite(int fd, void const* from, std::size_t bytes,
                                    std::uint64_t to) noexcept {
    return fails(call::pwrite) ? -1 : ::pwrite(fd, from, bytes, static_cast<off_t>(to));
}
[[nodiscard]] inline int fstat(int fd, struct stat& s) noexcept {
    return fails(call::fstat) ? -1 : ::fstat(fd, &s);
}
[[nodiscard]] inline int fcntl(int fd, int command, int argument) noexcept {
    return fails(call::fcntl) ? -1 : ::fcntl(fd, command, argument);
}
[[nodiscard]] inline int ftruncate(int fd, std::uint64_t bytes) noexcept {
    return fails(call::ftruncate) ? -1 : ::ftruncate(fd, static_cast<off_t>(bytes));
}
[[nodiscard]] inline int fallocate(int fd, int mode, std::uint64_t from,
                                   std::uint64_t bytes) noexcept {
    return fails(call::fallocate)
               ? -1
               : ::fallocate(fd, mode, static_cast<off_t>(from), static_cast<off_t>(bytes));
}
[[nodiscard]] inline int memfd_create(char const* name, unsigned flags) noexcept {
    return fails(call::memfd_create) ? -1 : ::memfd_create(name, flags);
}
[[nodiscard]] inline void* mmap(void* at, std::size_t bytes, int protection, int flags, int fd,
                                std::uint64_t offset) noexcept {
    return fails(call::mmap) ? MAP_FAILED
                             : ::mmap(at, bytes, protection, flags, fd, static_cast<off_t>(offset));
}
/// A range that cannot be unmapped is lost: there is nothing that a caller could do about it.
inline int munmap(void* at, std::size_t bytes) noexcept {
    return fails(call::munmap) ? -1 : ::munmap(at, bytes);
}
[[nodiscard]] inline int mprotect(void* at, std::size_t bytes, int protection) noexcept {
    return fails(call::mprotect) ? -1 : ::mprotect(at, bytes, protection);
}
[[nodiscard]] inline int madvise(void* at, std::size_t bytes, int advice) noexcept {
    return fails(call::madvise) ? -1 : ::madvise(at, bytes, advice);
}
/// Of this process. \returns Bytes, or -1.
[[nodiscard]] inline ssize_t process_madvise(std::span<iovec const> parts, int advice) noexcept {
    constexpr long number = 440;       // on every architecture
    constexpr int pidfd_self = -10000; // Linux 6.14
    return fails(call::process_madvise)
               ? -1
               : ::syscall(number, pidfd_self, parts.data(), parts.size(), advice, 0);
}
/// \param to For MREMAP_FIXED.
[[nodiscard]] inline void* mremap(void* at, std::size_t old_bytes, std::size_t bytes, int flags,
                                  void* to = nullptr) noexcept {
    return fails(call::mremap) ? MAP_FAILED : ::mremap(at, old_bytes, bytes, flags, to);
}
[[nodiscard]] inline int mincore(void* at, std::size_t bytes, unsigned char* resident) noexcept {
    return fails(call::mincore) ? -1 : ::mincore(at, bytes, resident);
}
/// From this process's own memory. \returns Bytes, or -1.
[[nodiscard]] inline ssize_t process_vm_readv(iovec const& to, iovec const& from) noexcept {
    return fails(call::process_vm_readv) ? -1 : ::process_vm_readv(::getpid(), &to, 1, &from, 1, 0);
}
[[nodiscard]] inline int getrlimit(decltype(RLIMIT_DATA) resource, rlimit& limit) noexcept {
    return fails(call::getrlimit) ? -1 : ::getrlimit(resource, &limit);
}
[[nodiscard]] inline int sigaction(int signal, struct sigaction const* wanted,
                                   struct sigaction* before) noexcept {
    return fails(call::sigaction) ? -1 : ::sigaction(signal, wanted, before);
}

/// \param c  Which request it is.
[[nodiscard]] inline int ioctl(call c, int fd, unsigned long request, void* argument) noexcept {
    int const e = injected(c);
    int const result = e > 0 ? -1 : ::ioctl(fd, request, argument);
    if (e != 0) {
        errno = e > 0 ? e : -e;
        return -1;
    }
    return result;
}

} // namespace sys
} // namespace detail::os
KSM_NAMESPACE_END

#endif
