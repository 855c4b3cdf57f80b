// SPDX-License-Identifier: BSL-1.0
// /proc/self/pagemap: what the kernel's page table says of our pages.
#ifndef KSM_PROVIDERS_LINUX_PAGEMAP_HPP
#define KSM_PROVIDERS_LINUX_PAGEMAP_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

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
    /// A page of the process's own. Of a mapping of a frame: copy-on-write was broken.
    [[nodiscard]] constexpr bool anonymous() const noexcept {
        return (present() || swapped()) && !file();
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
            ::munmap(buffer_, buffer_bytes());
        }
    }
    pagemap(pagemap const&) = delete;
    pagemap& operator=(pagemap const&) = delete;

    /// For a descriptor that the application has closed. \requires Not a forked child: the
    /// descriptor stays bound to the memory of the process that opens it.
    bool reopen() noexcept {
        int const fd = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
        error_ = fd < 0 ? os_error{"open(/proc/self/pagemap)", errno} : os_error{};
        file_ = descriptor{fd};
        return fd >= 0;
    }

    [[nodiscard]] os_error error() const noexcept { return error_; }
    [[nodiscard]] bool intact() const noexcept { return !error_ && file_.intact(); }
    [[nodiscard]] static constexpr std::size_t buffer_bytes() noexcept {
        return buffer_entries * sizeof(std::uint64_t);
    }

    /// Entries from `first` on, as many as are to be had at once, at most `pages`; none if the
    /// kernel refuses. Valid until the next call.
    [[nodiscard]] std::span<std::uint64_t const> read(page_number first,
                                                      std::size_t pages) noexcept {
        std::size_t const bytes = std::min(pages, buffer_entries) * sizeof(std::uint64_t);
        if (error_) {
            return {};
        }
        ssize_t const n = ::pread(file_.get(), buffer_, bytes,
                                  static_cast<off_t>(first.value() * sizeof(std::uint64_t)));
        return {buffer_, n < 0 ? 0 : static_cast<std::size_t>(n) / sizeof(std::uint64_t)};
    }

  private:
    std::uint64_t* buffer_;
    descriptor file_;
    os_error error_;
};

} // namespace detail::os
KSM_NAMESPACE_END

#endif
