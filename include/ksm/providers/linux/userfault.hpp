// SPDX-License-Identifier: BSL-1.0
// A userfaultfd: the kernel makes accesses to chosen pages wait. What Linux 6.1's headers lack is
// defined here. Nobody need read the descriptor: the merging thread itself ends every wait.
#ifndef KSM_PROVIDERS_LINUX_USERFAULT_HPP
#define KSM_PROVIDERS_LINUX_USERFAULT_HPP

#include <cerrno>
#include <cstddef>
#include <cstdint>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <ksm/providers/linux/fork_marker.hpp>
#include <ksm/providers/linux/os_error.hpp>
#include <ksm/providers/linux/syscalls.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

class userfault {
  public:
    // Features, by the kernel's numbers.
    static constexpr std::uint64_t write_protect = 1U << 0;   ///< Linux 5.7
    static constexpr std::uint64_t protect_files = 1U << 12;  ///< Linux 5.19; memfds are files
    static constexpr std::uint64_t protect_absent = 1U << 13; ///< Linux 6.4
    static constexpr std::uint64_t track_writes = 1U << 15;   ///< Linux 6.7
    static constexpr std::uint64_t move_pages = 1U << 16;     ///< Linux 6.8

    // Modes of registration.
    static constexpr std::uint64_t missing = 1U << 0;
    static constexpr std::uint64_t protected_from_writes = 1U << 1;

    /// \param marker  In a forked child nothing is done: the descriptor is that of the parent's
    /// memory.
    explicit userfault(fork_marker const& marker, std::uint64_t wanted = 0) noexcept
        : marker_(marker) {
        if (wanted != 0) {
            open(wanted);
        }
    }
    ~userfault() { close(); }
    userfault(userfault const&) = delete;
    userfault& operator=(userfault const&) = delete;

    /// Opens with those of `wanted` that the kernel has: by the system call, by /dev/userfaultfd,
    /// or for faults in user mode only.
    void open(std::uint64_t wanted) noexcept {
        bool user_mode = false;
        int probe = create(user_mode);
        if (probe < 0) {
            error_ = {"userfaultfd", -probe};
            return;
        }
        std::uint64_t had = 0;
        int const e = negotiate(probe, had); // tells what there is; another one is used
        sys::close(probe);
        if (e != 0) {
            error_ = {"ioctl(UFFDIO_API)", e};
            return;
        }
        std::uint64_t features = wanted & had;
        int const fd = create(user_mode);
        if (fd < 0) {
            error_ = {"userfaultfd", -fd};
            return;
        }
        if (int const refused = negotiate(fd, features); refused != 0) {
            error_ = {"ioctl(UFFDIO_API)", refused};
            sys::close(fd);
            return;
        }
        features_ = wanted & had;
        user_mode_ = user_mode;
        file_ = descriptor{fd};
    }
    void close() noexcept {
        file_.close();
        features_ = 0;
    }

    [[nodiscard]] bool has(std::uint64_t features) const noexcept {
        return file_.is_open() && (features_ & features) == features;
    }
    /// Faults of system calls do not wait: they fail with EFAULT.
    [[nodiscard]] bool user_mode_only() const noexcept { return user_mode_; }
    [[nodiscard]] bool intact() const noexcept { return file_.intact(); }
    [[nodiscard]] os_error error() const noexcept { return error_; }

    // 0 or errno.
    [[nodiscard]] int enroll(std::byte const* at, std::size_t bytes,
                             std::uint64_t mode) const noexcept {
        struct {
            range where;
            std::uint64_t mode, ioctls;
        } r{{address(at), bytes}, mode, 0};
        return control(call::uffd_register, _IOWR(0xAA, 0x00, decltype(r)), &r);
    }
    [[nodiscard]] int dismiss(std::byte const* at, std::size_t bytes) const noexcept {
        range r{address(at), bytes};
        return control(call::uffd_unregister, _IOR(0xAA, 0x01, range), &r);
    }
    /// Needs no mapping there: waiters of a mapping that has been replaced wake up, too.
    void wake(std::byte const* at, std::size_t bytes) const noexcept {
        range r{address(at), bytes};
        static_cast<void>(control(call::uffd_wake, _IOR(0xAA, 0x02, range), &r));
    }
    /// Accesses that wait and have not been counted before.
    [[nodiscard]] std::size_t count_waiting() const noexcept {
        std::byte messages[16][32]; // struct uffd_msg
        std::size_t all = 0;
        ssize_t n = sizeof messages;
        // Another file that has the number by now may wait for something to read.
        while (n == static_cast<ssize_t>(sizeof messages) && file_.intact()) {
            n = sys::read(file_.get(), messages, sizeof messages);
            all += n > 0 ? static_cast<std::size_t>(n) / sizeof messages[0] : 0;
        }
        return all;
    }
    /// Opening wakes who waits.
    [[nodiscard]] int protect(std::byte const* at, std::size_t bytes, bool on) const noexcept {
        struct {
            range where;
            std::uint64_t mode;
        } r{{address(at), bytes}, on ? 1U : 0U};
        return control(call::uffd_write_protect, _IOWR(0xAA, 0x06, decltype(r)), &r);
    }

    struct moved {
        std::size_t bytes;
        int error; ///< Why there are not more.
    };
    [[nodiscard]] moved move(std::byte* to, std::byte* from, std::size_t bytes) const noexcept {
        struct {
            std::uint64_t to, from, bytes, mode;
            std::int64_t done;
        } r{address(to), address(from), bytes, dont_wake, 0};
        int const e = control(call::uffd_move, _IOWR(0xAA, 0x05, decltype(r)), &r);
        bool const told = (e == 0 || e == EAGAIN) && r.done > 0;
        return {told ? static_cast<std::size_t>(r.done) : 0, e};
    }
    [[nodiscard]] int copy(std::byte* to, std::byte const* from, std::size_t bytes) const noexcept {
        struct {
            std::uint64_t to, from, bytes, mode;
            std::int64_t done;
        } r{address(to), address(from), bytes, dont_wake, 0};
        return control(call::uffd_copy, _IOWR(0xAA, 0x03, decltype(r)), &r);
    }

  private:
    struct range {
        std::uint64_t start, bytes;
    };
    static constexpr std::uint64_t dont_wake = 1;
    static constexpr int user_mode_flag = 1; // Linux 5.11

    [[nodiscard]] static std::uint64_t address(std::byte const* p) noexcept {
        return reinterpret_cast<std::uintptr_t>(p);
    }
    [[nodiscard]] int control(call c, unsigned long request, void* argument) const noexcept {
        if (marker_.in_child()) {
            return EPERM;
        }
        return sys::ioctl(c, file_.get(), request, argument) != 0 ? errno : 0;
    }

    /// A descriptor, or minus errno.
    [[nodiscard]] static int create(bool& user_mode) noexcept {
        int const flags = O_CLOEXEC | O_NONBLOCK;
        int fd = make(flags);
        if (fd >= 0) {
            return fd;
        }
        int const error = errno;
        int const device = sys::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
        if (device >= 0) {
            fd = fails(call::userfaultfd) ? -1 : ::ioctl(device, _IO(0xAA, 0x00), flags);
            sys::close(device);
            if (fd >= 0) {
                return fd;
            }
        }
        fd = make(flags | user_mode_flag);
        user_mode = fd >= 0;
        return fd >= 0 ? fd : -error;
    }
    [[nodiscard]] static int make(int flags) noexcept {
        return fails(call::userfaultfd) ? -1 : static_cast<int>(::syscall(SYS_userfaultfd, flags));
    }
    [[nodiscard]] static int negotiate(int fd, std::uint64_t& features) noexcept {
        struct {
            std::uint64_t api, features, ioctls;
        } r{0xAA, features, 0};
        int const e =
            sys::ioctl(call::uffd_api, fd, _IOWR(0xAA, 0x3F, decltype(r)), &r) != 0 ? errno : 0;
        features = r.features;
        return e;
    }

    fork_marker const& marker_;
    descriptor file_;
    std::uint64_t features_ = 0;
    bool user_mode_ = false;
    os_error error_;
};

} // namespace detail::os
KSM_NAMESPACE_END

#endif
