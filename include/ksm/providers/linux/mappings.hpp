// SPDX-License-Identifier: BSL-1.0
// Asks the kernel what it has mapped at an address: PROCMAP_QUERY of Linux 6.11. It takes a
// microsecond or two; the text of /proc/self/maps would take that for every mapping there is.
#ifndef KSM_PROVIDERS_LINUX_MAPPINGS_HPP
#define KSM_PROVIDERS_LINUX_MAPPINGS_HPP

#include <cerrno>
#include <cstdint>
#include <limits>

#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include <ksm/providers/linux/own_memory.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

/// struct procmap_query, which the headers of some systems do not have.
struct procmap_query {
    std::uint64_t size;
    std::uint64_t query_flags;
    std::uint64_t query_addr;
    std::uint64_t vma_start;
    std::uint64_t vma_end;
    std::uint64_t vma_flags;
    std::uint64_t vma_page_size;
    std::uint64_t vma_offset;
    std::uint64_t inode;
    std::uint32_t dev_major;
    std::uint32_t dev_minor;
    std::uint32_t vma_name_size;
    std::uint32_t build_id_size;
    std::uint64_t vma_name_addr;
    std::uint64_t build_id_addr;
};
static_assert(sizeof(procmap_query) == 104);

/// One of the kernel's mappings. Without one: `end` is where the next begins.
struct mapping {
    std::uint64_t begin = 0;
    std::uint64_t end = std::numeric_limits<std::uint64_t>::max();
    bool there = false;
    bool private_read_write = false;
    dev_t device = 0;
    std::uint64_t inode = 0;  ///< 0: anonymous.
    std::uint64_t offset = 0; ///< In the file, of `begin`.
};

class mapping_list {
  public:
    mapping_list() noexcept { reopen(); }
    ~mapping_list() { file_.close(); }
    mapping_list(mapping_list const&) = delete;
    mapping_list& operator=(mapping_list const&) = delete;

    /// False: the kernel does not tell. \requires Not a forked child, as for `pagemap`.
    [[nodiscard]] bool find(std::uint64_t address, mapping& out) noexcept {
        if (!known_) {
            return false;
        }
        procmap_query q{};
        q.size = sizeof q;
        q.query_flags = covering_or_next;
        q.query_addr = address;
        out = {};
        int error = ask(q);
        if (error != 0 && !file_.intact() && reopen()) {
            error = ask(q); // the application had closed the file
        }
        switch (error) {
        case 0: break;
        case ENOENT: return true;
        case ENOTTY: // before Linux 6.11
        case EINVAL:
        case ENOSYS: known_ = false; return false;
        default: return false;
        }
        if (q.vma_start > address) {
            out.end = q.vma_start;
            return true;
        }
        out = {q.vma_start,
               q.vma_end,
               true,
               (q.vma_flags & (readable | writable | executable | shared)) == (readable | writable),
               ::makedev(q.dev_major, q.dev_minor),
               q.inode,
               q.vma_offset};
        return true;
    }

  private:
    static constexpr unsigned long request = _IOWR('f', 17, procmap_query);
    static constexpr std::uint64_t readable = 1;
    static constexpr std::uint64_t writable = 2;
    static constexpr std::uint64_t executable = 4;
    static constexpr std::uint64_t shared = 8;
    static constexpr std::uint64_t covering_or_next = 16;

    /// What is no list of mappings answers with an error, so nothing is asked in advance. Another
    /// process's list, opened under the number of ours after that was closed, would be believed.
    [[nodiscard]] int ask(procmap_query& q) const noexcept {
        return sys::ioctl(call::procmap_query, file_.get(), request, &q) != 0 ? errno : 0;
    }
    bool reopen() noexcept {
        file_ = descriptor{sys::open("/proc/self/maps", O_RDONLY | O_CLOEXEC)};
        return file_.is_open();
    }

    descriptor file_;
    bool known_ = true;
};

} // namespace detail::os
KSM_NAMESPACE_END

#endif
