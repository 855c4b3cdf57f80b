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

struct errno_row {
    unsigned strategies;
    char const* place;
    char const* outcomes;
};

constexpr errno_row errno_table[] = {
    {q | m, "construct, open 5", "off"},
    {q | m, "construct, mmap 1", "off"},
    {q | m, "construct, mmap 2", "off"},
    {m, "construct, mmap 3", "off"},
    {q | m, "construct, madvise 1", "off"},
    {m, "construct, madvise 2", "off"},
    {m, "construct, sigaction 2", "off"},
    {m, "construct, sigaction 3", "off"},
    {q | m, "try_map, open 1", "the operating system refused (open(/proc/self/smaps))"},
    {q | m, "try_map, read 1", "the operating system refused (read(/proc/self/smaps))"},
    {q | m, "try_map, mmap 1",
     "ENOMEM: no memory (mmap); else: the operating system refused (mmap)"},
    {q | m, "try_map, mmap 3", "no memory"},
    {q | m, "try_map, mmap 4", "no memory"},
    {q | m, "try_adopt, open 1", "the operating system refused (open(/proc/self/smaps))"},
    {q | m, "try_adopt, read 1", "the operating system refused (read(/proc/self/smaps))"},
    {q | m, "try_adopt, ftruncate 2", "the operating system refused (ftruncate)"},
    {q | m, "try_adopt, memfd_create 2",
     "EINVAL: ok; else: the operating system refused (memfd_create)"},
    {q | m, "try_adopt, mmap 2", "the operating system refused (mmap)"},
    {q | m, "try_adopt, mmap 3", "no memory"},
    {q | m, "try_adopt, mmap 4", "no memory"},
    {q | m, "promote, pwrite 1",
     "EPERM: out_of_frames; EACCES: refused; EAGAIN: refused; EFAULT: gone; EINTR: out_of_frames; "
     "ENOMEM: out_of_frames; ENOSPC: out_of_frames; else: refused, off"},
    {q | m, "promote, fstat 1", "refused, off"},
    {q | m, "promote, fstat 3", "refused, off"},
    {q | m, "promote, fstat 4", "refused, off"},
    {q | m, "promote, fcntl 1", "out_of_frames"},
    {q | m, "promote, ftruncate 1", "out_of_frames"},
    {q | m, "promote, memfd_create 1", "EINVAL: ok; else: out_of_frames"},
    {q | m, "promote, mmap 1", "out_of_frames"},
    {q | m, "promote, mmap 2", "out_of_frames"},
    {q | m, "promote, mmap 3", "out_of_frames"},
    {q | m, "promote, mmap 4", "out_of_memory"},
    {q | m, "promote, mmap 5", "out_of_memory"},
    {q | m, "promote, mmap 6", "out_of_memory"},
    {q | m, "promote, mmap 7",
     "EPERM: refused; EACCES: refused; EAGAIN: refused; ENOMEM: out_of_mappings, then "
     "out_of_mappings; else: refused, off"},
    {m, "promote, mprotect 1",
     "EPERM: refused; EACCES: refused; EAGAIN: refused; ENOMEM: out_of_mappings; else: refused, "
     "off"},
    {m, "promote, getrlimit 1", "refused"},
    {m, "promote, sigaction 1", "refused"},
    {q | m, "promote again, pwrite 1",
     "EPERM: out_of_frames; EACCES: refused; EAGAIN: refused; EFAULT: gone; EINTR: out_of_frames; "
     "ENOMEM: out_of_frames; ENOSPC: out_of_frames; else: refused, off"},
    {q | m, "promote again, fstat 2", "refused, off"},
    {q | m, "promote again, fstat 3", "refused, off"},
    {q | m, "promote again, mmap 1",
     "EPERM: refused; EACCES: refused; EAGAIN: refused; ENOMEM: out_of_mappings, then "
     "out_of_mappings; else: refused, off"},
    {m, "promote again, mprotect 1",
     "EPERM: refused; EACCES: refused; EAGAIN: refused; ENOMEM: out_of_mappings; else: refused, "
     "off"},
    {m, "promote again, getrlimit 1", "refused"},
    {m, "promote again, sigaction 1", "refused"},
    {q | m, "merge, pwrite 1",
     "EFAULT: gone; ENOMEM: out_of_memory; ENOSPC: out_of_memory; else: busy"},
    {q | m, "merge, fstat 2", "busy"},
    {q | m, "merge, fstat 3", "refused, off"},
    {q | m, "merge, mmap 1",
     "EPERM: refused; EACCES: refused; EAGAIN: refused; ENOMEM: out_of_mappings, then "
     "out_of_mappings; else: refused, off"},
    {m, "merge, mprotect 1",
     "EPERM: refused; EACCES: refused; EAGAIN: refused; ENOMEM: out_of_mappings; else: refused, "
     "off"},
    {m, "merge, getrlimit 1", "refused"},
    {m, "merge, sigaction 1", "refused"},
    {q | m, "merge_zero, pwrite 1",
     "EFAULT: gone; ENOMEM: out_of_memory; ENOSPC: out_of_memory; else: busy"},
    {q | m, "merge_zero, fstat 2", "busy"},
    {q | m, "merge_zero, mmap 1", "out_of_memory"},
    {q | m, "merge_zero, mmap 2", "out_of_memory"},
    {q | m, "merge_zero, mmap 3", "out_of_memory"},
    {m, "merge_zero, mprotect 1",
     "EPERM: refused; EACCES: refused; EAGAIN: refused; ENOMEM: out_of_mappings; else: refused, "
     "off"},
    {q | m, "merge_zero, madvise 1", "EAGAIN: busy; ENOMEM: gone; else: refused"},
    {m, "merge_zero, getrlimit 1", "refused"},
    {m, "merge_zero, sigaction 1", "refused"},
    {q | m, "merge_zero of merged, pwrite 1",
     "EFAULT: gone; ENOMEM: out_of_memory; ENOSPC: out_of_memory; else: busy"},
    {q | m, "merge_zero of merged, fstat 2", "busy"},
    {q | m, "merge_zero of merged, mmap 1",
     "EPERM: refused; EACCES: refused; EAGAIN: refused; ENOMEM: out_of_mappings; else: refused, "
     "off"},
    {m, "merge_zero of merged, mprotect 1",
     "EPERM: refused; EACCES: refused; EAGAIN: refused; ENOMEM: out_of_mappings; else: refused, "
     "off"},
    {m, "merge_zero of merged, getrlimit 1", "refused"},
    {m, "merge_zero of merged, sigaction 1", "refused"},
    {m, "unmerge, mprotect 2", "EPERM: ok; EACCES: ok; EAGAIN: ok; ENOMEM: ok; else: ok, off"},
    {q | m, "unmerge, madvise 1", "EFAULT: out_of_memory; ENOMEM: out_of_memory; else: ok"},
    {q | m, "unmerge of zero, madvise 1",
     "EAGAIN: busy; EINVAL: ok; ENOMEM: out_of_memory; else: refused"},
    {m, "release, mprotect 2", "EPERM: ok; EACCES: ok; EAGAIN: ok; ENOMEM: ok; else: ok, off"},
    {m, "release, mprotect 4", "EPERM: ok; EACCES: ok; EAGAIN: ok; ENOMEM: ok; else: ok, off"},
    {q | m, "release, madvise 1",
     "EFAULT: no memory (madvise(MADV_POPULATE_WRITE)); ENOMEM: no memory "
     "(madvise(MADV_POPULATE_WRITE)); else: ok"},
    {q | m, "release, madvise 2",
     "EFAULT: no memory (madvise(MADV_POPULATE_WRITE)); ENOMEM: no memory "
     "(madvise(MADV_POPULATE_WRITE)); else: ok"},
};

} // namespace

#endif
