// SPDX-License-Identifier: BSL-1.0
// Write-protects pages so that the kernel notes the next write to each: what change tracking costs
// the application, whoever asks for it.
#ifndef KSM_BENCH_SUPPORT_WRITE_TRACKING_HPP
#define KSM_BENCH_SUPPORT_WRITE_TRACKING_HPP

#include <cstddef>
#include <cstdint>
#include <span>

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace bench {

/// userfaultfd with WP_ASYNC, and PAGEMAP_SCAN (Linux 6.7).
class write_tracking {
  public:
    explicit write_tracking(std::span<std::byte> memory) : memory_(memory) {
        constexpr int user_mode_only = 1;
        fd_ = static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | user_mode_only));
        pagemap_ = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
        uffdio_api api{};
        api.api = UFFD_API;
        api.features = wp_unpopulated | wp_async;
        uffdio_register registration{};
        registration.range = {begin(), memory.size()};
        registration.mode = UFFDIO_REGISTER_MODE_WP;
        possible_ = fd_ >= 0 && pagemap_ >= 0 && ::ioctl(fd_, UFFDIO_API, &api) == 0 &&
                    ::ioctl(fd_, UFFDIO_REGISTER, &registration) == 0;
    }
    ~write_tracking() {
        ::close(fd_);
        ::close(pagemap_);
    }
    write_tracking(write_tracking const&) = delete;
    write_tracking& operator=(write_tracking const&) = delete;

    /// \returns Whether every page is write-protected now.
    [[nodiscard]] bool arm() {
        page_region written[1];
        scan_argument argument{};
        argument.size = sizeof argument;
        argument.flags = protect_matching | check_async;
        argument.start = begin();
        argument.end = begin() + memory_.size();
        argument.category_mask = page_is_written;
        argument.return_mask = page_is_written;
        argument.vec = reinterpret_cast<std::uintptr_t>(written);
        argument.vec_len = 1; // all pages were written, so they are one region
        return possible_ && ::ioctl(pagemap_, pagemap_scan, &argument) == 1 &&
               argument.walk_end == argument.end && written[0].start == argument.start &&
               written[0].end == argument.end;
    }

  private:
    // Headers before Linux 6.7 do not have these.
    struct page_region {
        std::uint64_t start, end, categories;
    };
    struct scan_argument {
        std::uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
        std::uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
    };
    static constexpr std::uint64_t wp_unpopulated = 1U << 13U;
    static constexpr std::uint64_t wp_async = 1U << 15U;
    static constexpr std::uint64_t protect_matching = 1;
    static constexpr std::uint64_t check_async = 2;
    static constexpr std::uint64_t page_is_written = 2;
    static constexpr unsigned long pagemap_scan = _IOWR('f', 16, scan_argument);

    [[nodiscard]] std::uint64_t begin() const {
        return reinterpret_cast<std::uintptr_t>(memory_.data());
    }

    std::span<std::byte> memory_;
    int fd_ = -1;
    int pagemap_ = -1;
    bool possible_ = false;
};

} // namespace bench

#endif
