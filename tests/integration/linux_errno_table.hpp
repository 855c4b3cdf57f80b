// SPDX-License-Identifier: BSL-1.0
// What becomes of a system call that fails: for each strategy, operation, call ("mmap 7" is the
// seventh mmap of the operation) and errno the answer of the operation; "off" says that the
// provider merges no more, and `capabilities()` why. Where no row is, the operation succeeds.
// `ksm_linux "[errno-table]"` prints the rows as the code has them.
#ifndef KSM_TESTS_INTEGRATION_LINUX_ERRNO_TABLE_HPP
#define KSM_TESTS_INTEGRATION_LINUX_ERRNO_TABLE_HPP

namespace {

constexpr unsigned q = 1; ///< Strategy `quiescent`.
constexpr unsigned m = 2; ///< Strategy `mprotect`.
constexpr unsigned v = 4; ///< Strategy `move`.
constexpr unsigned w = 8; ///< Strategy `wp`.

struct errno_row {
    unsigned strategies;
    char const* place;
    char const* outcomes;
};

constexpr errno_row errno_table[] = {
    {q | m | v | w, "construct, open 1", "off"},
    {q | m | v | w, "construct, mmap 1", "off"},
    {q | m | v | w, "construct, mmap 2", "off"},
    {q | m | v | w, "construct, madvise 1", "off"},
    {m, "construct, sigaction 1", "off"},
    {v | w, "construct, mmap 3", "off"},
    {v, "construct, mmap 4", "off"},
    {v | w, "construct, mprotect 1", "off"},
    {v, "construct, mprotect 2", "off"},
    {v, "construct, uffd_api 1", "off"},
    {v, "construct, uffd_api 2", "off"},
    {v | w, "construct, uffd_register 1", "off"},
    {v, "construct, uffd_register 2", "off"},
    {v, "construct, uffd_move 1", "EAGAIN: ok; EBUSY: ok; else: off"},
    {w, "construct, pread 1", "off"},
    {w, "construct, uffd_api 3", "off"},
    {w, "construct, uffd_api 4", "off"},
    {w, "construct, uffd_write_protect 1", "off"},
    {q | m | v | w, "try_map, open 1", "the operating system refused (open(/proc/self/smaps))"},
    {q | m | v | w, "try_map, read 1", "the operating system refused (read(/proc/self/smaps))"},
    {q | m | v | w, "try_map, mmap 1",
     "ENOMEM: no memory (mmap); else: the operating system refused (mmap)"},
    {q | m | v | w, "try_map, mmap 3", "no memory"},
    {q | m | v | w, "try_map, mmap 4", "no memory"},
    {q | m | v | w, "try_adopt, open 1", "the operating system refused (open(/proc/self/smaps))"},
    {q | m | v | w, "try_adopt, read 1", "the operating system refused (read(/proc/self/smaps))"},
    {q | m | v | w, "try_adopt, ftruncate 2", "the operating system refused (ftruncate)"},
    {q | m | v | w, "try_adopt, memfd_create 2",
     "EINVAL: ok; else: the operating system refused (memfd_create)"},
    {q | m | v | w, "promote, pwrite 1",
     "EPERM: out_of_frames; EACCES: refused; EAGAIN: refused; EFAULT: gone; EINTR: out_of_frames; "
     "ENOMEM: out_of_frames; ENOSPC: out_of_frames; else: refused, off"},
    {q | m | v | w, "promote, fstat 3", "refused, off"},
    {q | m | v | w, "promote, fstat 5", "refused, off"},
    {q | m | v | w, "promote, fstat 6", "refused, off"},
    {q | m | v | w, "promote, fcntl 2", "out_of_frames"},
    {q | m | v | w, "promote, ftruncate 1", "out_of_frames"},
    {q | m | v | w, "promote, memfd_create 2", "EINVAL: ok; else: out_of_frames"},
    {q | m | v | w, "promote, mmap 2", "out_of_frames"},
    {q | m | v | w, "promote, mmap 3", "out_of_frames"},
    {q | m | v | w, "promote, mmap 4", "out_of_frames"},
    {q | m | v | w, "promote, mmap 5", "out_of_frames"},
    {q | m | v | w, "promote, mmap 6", "out_of_frames"},
    {q | m | v | w, "promote, mmap 7", "out_of_memory"},
    {q | m | v | w, "promote, mmap 8", "out_of_memory"},
    {q | m | v | w, "promote, mmap 9", "out_of_memory"},
    {q | m | v | w, "promote, mmap 10",
     "EPERM: refused; EACCES: refused; EAGAIN: refused; ENOMEM: out_of_mappings, then "
     "out_of_mappings; else: refused, off"},
    {m, "promote, mprotect 1",
     "EPERM: refused; EACCES: refused; EAGAIN: refused; ENOMEM: out_of_mappings; else: refused, "
     "off"},
    {m, "promote, getrlimit 1", "refused"},
    {m, "promote, sigaction 1", "refused"},
    {v, "promote, uffd_register 1",
     "EPERM: refused; EBUSY: refused; EINVAL: refused; ENOMEM: out_of_mappings; else: refused, "
     "off"},
    {v, "promote, uffd_move 1",
     "EAGAIN: ok; EBUSY: ok; EINVAL: refused; ENOMEM: out_of_memory; else: refused, off"},
    {w, "promote, pread 1", "busy"},
    {w, "promote, uffd_register 1",
     "EPERM: refused; EAGAIN: busy; EBUSY: refused; EINVAL: refused; ENOMEM: out_of_mappings; "
     "else: refused, off"},
    {w, "promote, uffd_write_protect 1",
     "EPERM: refused; EAGAIN: busy; EBUSY: refused; EINVAL: refused; ENOMEM: out_of_mappings; "
     "else: refused, off"},
    {q | m | v | w, "promote again, pwrite 1",
     "EPERM: out_of_frames; EACCES: refused; EAGAIN: refused; EFAULT: gone; EINTR: out_of_frames; "
     "ENOMEM: out_of_frames; ENOSPC: out_of_frames; else: refused, off"},
    {q | m | v | w, "promote again, fstat 1", "refused, off"},
    {q | m | v | w, "promote again, fstat 2", "refused, off"},
    {q | m | v | w, "promote again, mmap 1",
     "EPERM: refused; EACCES: refused; EAGAIN: refused; ENOMEM: out_of_mappings, then "
     "out_of_mappings; else: refused, off"},
    {m, "promote again, mprotect 1",
     "EPERM: refused; EACCES: refused; EAGAIN: refused; ENOMEM: out_of_mappings; else: refused, "
     "off"},
    {m, "promote again, getrlimit 1", "refused"},
    {m, "promote again, sigaction 1", "refused"},
    {v, "promote again, uffd_register 1",
     "EPERM: refused; EBUSY: refused; EINVAL: refused; ENOMEM: out_of_mappings; else: refused, "
     "off"},
    {v, "promote again, uffd_move 1",
     "EAGAIN: ok; EBUSY: ok; EINVAL: refused; ENOMEM: out_of_memory; else: refused, off"},
    {w, "promote again, pread 1", "busy"},
    {w, "promote again, uffd_register 1",
     "EPERM: refused; EAGAIN: busy; EBUSY: refused; EINVAL: refused; ENOMEM: out_of_mappings; "
     "else: refused, off"},
    {w, "promote again, uffd_write_protect 1",
     "EPERM: refused; EAGAIN: busy; EBUSY: refused; EINVAL: refused; ENOMEM: out_of_mappings; "
     "else: refused, off"},
    {q | m | w, "merge, pwrite 1",
     "EFAULT: gone; ENOMEM: out_of_memory; ENOSPC: out_of_memory; else: busy"},
    {q | m | w, "merge, fstat 1", "busy"},
    {q | m | w, "merge, fstat 2", "refused, off"},
    {q | m | v | w, "merge, mmap 1",
     "EPERM: refused; EACCES: refused; EAGAIN: refused; ENOMEM: out_of_mappings, then "
     "out_of_mappings; else: refused, off"},
    {m, "merge, mprotect 1",
     "EPERM: refused; EACCES: refused; EAGAIN: refused; ENOMEM: out_of_mappings; else: refused, "
     "off"},
    {m, "merge, getrlimit 1", "refused"},
    {m, "merge, sigaction 1", "refused"},
    {v, "merge, fstat 1", "refused, off"},
    {v, "merge, uffd_register 1",
     "EPERM: refused; EBUSY: refused; EINVAL: refused; ENOMEM: out_of_mappings; else: refused, "
     "off"},
    {v, "merge, uffd_move 1",
     "EAGAIN: ok; EBUSY: ok; EINVAL: refused; ENOMEM: out_of_memory; else: refused, off"},
    {w, "merge, pread 1", "busy"},
    {w, "merge, uffd_register 1",
     "EPERM: refused; EAGAIN: busy; EBUSY: refused; EINVAL: refused; ENOMEM: out_of_mappings; "
     "else: refused, off"},
    {w, "merge, uffd_write_protect 1",
     "EPERM: refused; EAGAIN: busy; EBUSY: refused; EINVAL: refused; ENOMEM: out_of_mappings; "
     "else: refused, off"},
    {q, "merge_batch, fstat 3", "refused, off"},
    {q, "merge_batch, fstat 4", "refused, off"},
    {q, "merge_batch, mmap 1",
     "EPERM: refused; EACCES: refused; EAGAIN: refused; ENOMEM: out_of_mappings; else: refused, "
     "off"},
    {q, "merge_batch, mmap 2",
     "EPERM: refused; EACCES: refused; EAGAIN: refused; ENOMEM: out_of_mappings; else: refused, "
     "off"},
    {q | m | w, "merge_zero, pwrite 1",
     "EFAULT: gone; ENOMEM: out_of_memory; ENOSPC: out_of_memory; else: busy"},
    {q | m | w, "merge_zero, fstat 1", "busy"},
    {q | m | v | w, "merge_zero, mmap 1", "out_of_memory"},
    {q | m | v | w, "merge_zero, mmap 2", "out_of_memory"},
    {q | m | v | w, "merge_zero, mmap 3", "out_of_memory"},
    {q | m | w, "merge_zero, madvise 2", "EAGAIN: busy; ENOMEM: gone; else: refused"},
    {m, "merge_zero, mprotect 1",
     "EPERM: refused; EACCES: refused; EAGAIN: refused; ENOMEM: out_of_mappings; else: refused, "
     "off"},
    {m, "merge_zero, getrlimit 1", "refused"},
    {m, "merge_zero, sigaction 1", "refused"},
    {v, "merge_zero, uffd_register 1",
     "EPERM: refused; EBUSY: refused; EINVAL: refused; ENOMEM: out_of_mappings; else: refused, "
     "off"},
    {v, "merge_zero, uffd_move 1",
     "EAGAIN: ok; EBUSY: ok; EINVAL: refused; ENOMEM: out_of_memory; else: refused, off"},
    {w, "merge_zero, pread 1", "busy"},
    {w, "merge_zero, uffd_register 1",
     "EPERM: refused; EAGAIN: busy; EBUSY: refused; EINVAL: refused; ENOMEM: out_of_mappings; "
     "else: refused, off"},
    {w, "merge_zero, uffd_write_protect 1",
     "EPERM: refused; EAGAIN: busy; EBUSY: refused; EINVAL: refused; ENOMEM: out_of_mappings; "
     "else: refused, off"},
    {q | m | w, "merge_zero in pieces, pwrite 1",
     "EFAULT: gone; ENOMEM: out_of_memory; ENOSPC: out_of_memory; else: busy"},
    {q | m | w, "merge_zero in pieces, pwrite 2",
     "EFAULT: gone; ENOMEM: out_of_memory; ENOSPC: out_of_memory; else: busy"},
    {q | m | w, "merge_zero in pieces, fstat 1", "busy"},
    {q | m | w, "merge_zero in pieces, fstat 2", "busy"},
    {q | m | v | w, "merge_zero in pieces, mmap 1", "out_of_memory"},
    {q | m | v | w, "merge_zero in pieces, mmap 2", "out_of_memory"},
    {q | m | v | w, "merge_zero in pieces, mmap 3", "out_of_memory"},
    {m, "merge_zero in pieces, mprotect 1",
     "EPERM: ok; EACCES: ok; EAGAIN: ok; ENOMEM: ok; else: refused, off"},
    {m, "merge_zero in pieces, getrlimit 1", "refused"},
    {m, "merge_zero in pieces, sigaction 1", "refused"},
    {v, "merge_zero in pieces, uffd_register 1",
     "EPERM: ok; EBUSY: ok; EINVAL: ok; ENOMEM: ok; else: refused, off"},
    {v, "merge_zero in pieces, uffd_move 1",
     "EAGAIN: ok; EBUSY: ok; EINVAL: ok; ENOMEM: out_of_memory; else: refused, off"},
    {v, "merge_zero in pieces, uffd_move 2",
     "EAGAIN: ok; EBUSY: busy; ENOMEM: out_of_memory; else: refused"},
    {w, "merge_zero in pieces, pread 1", "busy"},
    {w, "merge_zero in pieces, pread 2", "busy"},
    {w, "merge_zero in pieces, madvise 2", "EAGAIN: busy; ENOMEM: gone; else: refused"},
    {w, "merge_zero in pieces, madvise 3", "EAGAIN: busy; ENOMEM: gone; else: refused"},
    {w, "merge_zero in pieces, uffd_register 1",
     "EPERM: ok; EAGAIN: busy; EBUSY: ok; EINVAL: ok; ENOMEM: ok; else: refused, off"},
    {w, "merge_zero in pieces, uffd_write_protect 1",
     "EPERM: ok; EAGAIN: busy; EBUSY: ok; EINVAL: ok; ENOMEM: ok; else: refused, off"},
    {q | m | w, "merge_zero of merged, pwrite 1",
     "EFAULT: gone; ENOMEM: out_of_memory; ENOSPC: out_of_memory; else: busy"},
    {q | m | w, "merge_zero of merged, fstat 1", "busy"},
    {q | m | w, "merge_zero of merged, mmap 1",
     "EPERM: refused; EACCES: refused; EAGAIN: refused; ENOMEM: out_of_mappings; else: refused, "
     "off"},
    {m, "merge_zero of merged, mprotect 1",
     "EPERM: refused; EACCES: refused; EAGAIN: refused; ENOMEM: out_of_mappings; else: refused, "
     "off"},
    {m, "merge_zero of merged, getrlimit 1", "refused"},
    {m, "merge_zero of merged, sigaction 1", "refused"},
    {v, "merge_zero of merged, pread 1", "busy, then busy"},
    {v, "merge_zero of merged, pwrite 1", "busy, then busy"},
    {v, "merge_zero of merged, fstat 1", "busy, then busy"},
    {v, "merge_zero of merged, mmap 1",
     "EPERM: refused, then busy; EACCES: refused, then busy; EAGAIN: refused, then busy; ENOMEM: "
     "out_of_mappings, then busy; else: refused, off"},
    {v, "merge_zero of merged, uffd_register 1",
     "EPERM: refused, then busy; EAGAIN: busy, then busy; EBUSY: refused, then busy; EINVAL: "
     "refused, then busy; ENOMEM: out_of_mappings, then busy; else: refused, off"},
    {v, "merge_zero of merged, uffd_write_protect 1",
     "EPERM: refused, then busy; EAGAIN: busy, then busy; EBUSY: refused, then busy; EINVAL: "
     "refused, then busy; ENOMEM: out_of_mappings, then busy; else: refused, off"},
    {w, "merge_zero of merged, pread 1", "busy"},
    {w, "merge_zero of merged, uffd_register 1",
     "EPERM: refused; EAGAIN: busy; EBUSY: refused; EINVAL: refused; ENOMEM: out_of_mappings; "
     "else: refused, off"},
    {w, "merge_zero of merged, uffd_write_protect 1",
     "EPERM: refused; EAGAIN: busy; EBUSY: refused; EINVAL: refused; ENOMEM: out_of_mappings; "
     "else: refused, off"},
    {q | m | v | w, "unmerge, madvise 1", "EFAULT: out_of_memory; ENOMEM: out_of_memory; else: ok"},
    {v | w, "unmerge, uffd_register 1",
     "EPERM: ok; EAGAIN: ok; EBUSY: ok; EINVAL: ok; ENOMEM: ok; else: ok, off"},
    {v | w, "unmerge, uffd_write_protect 1",
     "EPERM: ok; EAGAIN: ok; EBUSY: ok; EINVAL: ok; ENOMEM: ok; else: ok, off"},
    {q | m | v | w, "unmerge of zero, madvise 1",
     "EAGAIN: busy; EINVAL: ok; ENOMEM: out_of_memory; else: refused"},
    {q | m | v | w, "release, madvise 1",
     "EFAULT: no memory (madvise(MADV_POPULATE_WRITE)); ENOMEM: no memory "
     "(madvise(MADV_POPULATE_WRITE)); else: ok"},
    {q | m | v | w, "release, madvise 2",
     "EFAULT: no memory (madvise(MADV_POPULATE_WRITE)); ENOMEM: no memory "
     "(madvise(MADV_POPULATE_WRITE)); else: ok"},
    {v | w, "release, uffd_register 1",
     "EPERM: ok; EAGAIN: ok; EBUSY: ok; EINVAL: ok; ENOMEM: ok; else: ok, off"},
    {v | w, "release, uffd_register 3",
     "EPERM: ok; EAGAIN: ok; EBUSY: ok; EINVAL: ok; ENOMEM: ok; else: ok, off"},
    {v | w, "release, uffd_write_protect 1",
     "EPERM: ok; EAGAIN: ok; EBUSY: ok; EINVAL: ok; ENOMEM: ok; else: ok, off"},
    {v | w, "release, uffd_write_protect 2",
     "EPERM: ok; EAGAIN: ok; EBUSY: ok; EINVAL: ok; ENOMEM: ok; else: ok, off"},
};

} // namespace

#endif
