// SPDX-License-Identifier: BSL-1.0
// Tells a forked child from its parent without a system call. A process id would not do: a vfork
// child has another id but shares the memory, and so the open windows.
#ifndef KSM_PROVIDERS_LINUX_FORK_MARKER_HPP
#define KSM_PROVIDERS_LINUX_FORK_MARKER_HPP

#include <atomic>
#include <cstdint>
#include <new>

#include <ksm/providers/linux/own_memory.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

/// A page that the kernel wipes in a forked child.
class fork_marker {
  public:
    fork_marker() noexcept {
        void* const page = own_map(page_bytes());
        if (page == nullptr) {
            error_ = {"mmap", ENOMEM};
        } else if (int const e = advise(page, page_bytes(), MADV_WIPEONFORK); e != 0) {
            sys::munmap(page, page_bytes());
            error_ = {"madvise(MADV_WIPEONFORK)", e};
        } else {
            word_ = ::new (page) std::atomic<std::uint32_t>{1};
        }
    }
    ~fork_marker() {
        if (word_ != nullptr) {
            sys::munmap(static_cast<void*>(word_), page_bytes());
        }
    }
    fork_marker(fork_marker const&) = delete;
    fork_marker& operator=(fork_marker const&) = delete;

    [[nodiscard]] os_error error() const noexcept { return error_; }
    /// Also true when there is no marker: then nothing may be merged.
    [[nodiscard]] bool in_child() const noexcept {
        return word_ == nullptr || word_->load(std::memory_order_relaxed) == 0;
    }

  private:
    std::atomic<std::uint32_t>* word_ = nullptr;
    os_error error_;
};

} // namespace detail::os
KSM_NAMESPACE_END

#endif
