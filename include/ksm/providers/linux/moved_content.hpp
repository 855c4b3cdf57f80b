// SPDX-License-Identifier: BSL-1.0
// Reading pages right after they were moved. Where page tables are kept in software (a virtual
// machine without nested paging) the first access through each new entry takes microseconds; a
// copy that the kernel makes, who has other mappings, takes one. Elsewhere copies are dearer.
#ifndef KSM_PROVIDERS_LINUX_MOVED_CONTENT_HPP
#define KSM_PROVIDERS_LINUX_MOVED_CONTENT_HPP

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include <ksm/providers/linux/scratch_memory.hpp>
#include <ksm/providers/linux/syscalls.hpp>
#include <ksm/providers/linux/window_log.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

class moved_content {
  public:
    /// A first access takes less than 300 ns where the processor walks the page tables, and about
    /// 3 us where it does not. A copy takes one more microsecond than reading in place.
    static constexpr std::uint64_t dear_ns = 1000;
    static constexpr std::size_t trial_pages = 7;

    /// Decides by first accesses. \requires `trial_pages` pages, which nobody has accessed since
    /// they were moved.
    void calibrate(std::byte const* fresh, std::size_t page) noexcept {
        std::array<std::uint64_t, trial_pages> took{};
        for (std::uint64_t& t : took) {
            std::uint64_t const before = window_log::now();
            static_cast<void>(*static_cast<std::byte const volatile*>(fresh));
            t = window_log::now() - before;
            fresh += page;
        }
        std::ranges::nth_element(took, took.begin() + trial_pages / 2);
        prefer_copies(took[trial_pages / 2] > dear_ns, page);
    }
    void prefer_copies(bool yes, std::size_t page) noexcept {
        buffer_ = memory_.get(page); // takes mappings now, memory when it is used
        copies_ = yes && buffer_ != nullptr;
    }

    /// Where the content of pages can be read, until the next call.
    [[nodiscard]] std::byte const* of(std::byte* moved, std::size_t pages,
                                      std::size_t page) noexcept {
        if (!copies_) {
            return moved;
        }
        std::size_t const bytes = pages * page;
        used_ = std::max(used_, bytes);
        bool const copied =
            sys::process_vm_readv({buffer_, bytes}, {moved, bytes}) == static_cast<ssize_t>(bytes);
        return copied ? buffer_ : moved;
    }

    /// Gives the memory of copies back.
    void rest() noexcept {
        if (used_ != 0 && advise(buffer_, used_, MADV_DONTNEED) == 0) {
            used_ = 0;
        }
    }

  private:
    scratch_memory memory_;
    std::byte* buffer_ = nullptr;
    std::size_t used_ = 0; ///< Bytes, since memory was given back.
    bool copies_ = false;
};

} // namespace detail::os
KSM_NAMESPACE_END

#endif
