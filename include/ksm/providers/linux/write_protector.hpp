// SPDX-License-Identifier: BSL-1.0
// Write exclusion by userfaultfd's write protection: writers wait, in user mode and in the kernel,
// readers go on. A write through a page that is pinned for I/O is not stopped.
#ifndef KSM_PROVIDERS_LINUX_WRITE_PROTECTOR_HPP
#define KSM_PROVIDERS_LINUX_WRITE_PROTECTOR_HPP

#include <cerrno>
#include <cstddef>
#include <cstdint>

#include <fcntl.h>
#include <unistd.h>

#include <ksm/outcome.hpp>
#include <ksm/providers/linux/pagemap.hpp>
#include <ksm/providers/linux/place.hpp>
#include <ksm/providers/linux/scratch_memory.hpp>
#include <ksm/providers/linux/userfault.hpp>
#include <ksm/providers/linux/window_refusal.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

class write_protector {
  public:
    explicit write_protector(userfault const& faults, pagemap& entries) noexcept
        : faults_(faults), entries_(entries) {}

    /// Finds out, on a page of its own, whether the kernel keeps its word.
    [[nodiscard]] os_error prepare(std::size_t page) noexcept {
        page_ = page;
        std::uint64_t const needed = userfault::write_protect | userfault::protect_files;
        if (!faults_.has(needed)) {
            return faults_.error() ? faults_.error()
                                   : os_error{"ioctl(UFFDIO_WRITEPROTECT)", ENOTTY};
        }
        scratch_memory trial;
        std::byte* const at = trial.get(page);
        if (at == nullptr) {
            return {"mmap", ENOMEM};
        }
        *at = std::byte{1};
        std::uint64_t const number = reinterpret_cast<std::uintptr_t>(at) / page;
        place p{page_number{number}, at, 1};
        p.anonymous = true;
        window_refusal const r = open(p);
        bool const held = r.why == status::ok && sound(p, false);
        close(p);
        return held ? os_error{} : os_error{"ioctl(UFFDIO_WRITEPROTECT)", r.error};
    }

    /// Anything but ok: nothing has changed.
    [[nodiscard]] window_refusal open(place const& p) noexcept {
        std::size_t const bytes = p.pages * page_;
        int e = faults_.enroll(p.at, bytes, userfault::protected_from_writes);
        bool const may_be_enrolled = e == 0 || e == ENOMEM;
        if (e == 0) {
            e = faults_.protect(p.at, bytes, true);
            if (e == ENOENT) { // before Linux 6.4 also when the place has more than one mapping
                e = protect_one_by_one(p);
            }
        }
        if (e == 0) {
            return {};
        }
        bool const hole = e == ENOMEM && has_hole(p.at, bytes, page_);
        if (may_be_enrolled) { // on older kernels another userfaultfd would lose it
            close(p);
        }
        switch (e) {
        case ENOMEM: return {hole ? status::gone : status::out_of_mappings, e};
        case EAGAIN: return {status::busy, e};
        case ENOENT: return {status::gone, e};
        case EBUSY:
        case EINVAL:
        case EPERM: return {status::refused, e};
        default: return {status::refused, e, true};
        }
    }

    /// The last look before the replacement. Without `protect_absent` a page that was absent for a
    /// moment has lost its protection; a mapping of a frame may have had a copy all the time, which
    /// may be pinned.
    [[nodiscard]] bool sound(place const& p, bool refuse_copies) noexcept {
        for (std::size_t i = 0; i < p.pages;) {
            auto const got = entries_.read(p.first + page_count{i}, p.pages - i);
            if (got.empty()) {
                return false;
            }
            for (std::uint64_t const bits : got) {
                pagemap_entry const e{bits};
                if (!e.write_protected() || (p.anonymous && e.file()) ||
                    (refuse_copies && e.anonymous())) {
                    return false;
                }
            }
            i += got.size();
        }
        return true;
    }

    /// The first `replaced` pages have another mapping by now, which nothing protects: who waits
    /// for them only has to wake up.
    void close(place const& p, std::size_t replaced = 0) noexcept {
        std::byte* const rest = p.at + replaced * page_;
        std::size_t const bytes = (p.pages - replaced) * page_;
        // One call fails as a whole where the application has replaced a page: then one by one.
        if (bytes != 0 && faults_.protect(rest, bytes, false) != 0) {
            for (std::size_t i = 0; i < bytes; i += page_) {
                static_cast<void>(faults_.protect(rest + i, page_, false));
            }
        }
        if (!p.anonymous && bytes != 0) {
            static_cast<void>(faults_.dismiss(rest, bytes));
        }
        faults_.wake(p.at, p.pages * page_);
    }

  private:
    [[nodiscard]] int protect_one_by_one(place const& p) const noexcept {
        int e = 0;
        for (std::size_t i = 0; i < p.pages && e == 0; ++i) {
            e = faults_.protect(p.at + i * page_, page_, true);
        }
        return e;
    }

    userfault const& faults_;
    pagemap& entries_;
    std::size_t page_ = 0;
};

} // namespace detail::os
KSM_NAMESPACE_END

#endif
