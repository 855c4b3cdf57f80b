// SPDX-License-Identifier: BSL-1.0
// Gives pages to frames. Each function opens one window. The comparison, or the copy, and the
// replacement are both inside of it: the one ordering that no lost store rests on (I1).
#ifndef KSM_PROVIDERS_LINUX_MERGING_HPP
#define KSM_PROVIDERS_LINUX_MERGING_HPP

#include <cstddef>

#include <ksm/outcome.hpp>
#include <ksm/providers/linux/machinery.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

/// What the replacement in a window came to.
struct replacement {
    int error = 0;
    bool repaired = false;
    bool aborted = false;
};

/// Copies all pages into reserved frames and maps them there: all or none.
[[nodiscard]] inline status promote_pages(machinery& m, place const& p, frame_id frame) noexcept {
    auto const entry = page_entry::merged(frame);
    if (!m.table.prepare(p.first, p.pages, entry)) {
        return status::out_of_memory;
    }
    if (!m.affordable(p.first, p.pages, entry)) {
        return status::out_of_mappings;
    }
    replacement r;
    std::size_t copied = 0;
    int copy_error = 0;
    {
        write_window window{m.writers, p.at, p.pages * m.page, m.page};
        if (window.why() != status::ok) {
            return window.why();
        }
        // The kernel reads the pages; no page is read twice, so no content is seen twice.
        copied = m.frames.write(frame, p.at, p.pages, copy_error);
        r.aborted = window.aborted();
        if (copied == p.pages && !r.aborted) {
            r.error = m.frames.map(p.at, frame, p.pages, p.map_flags);
            r.repaired =
                r.error == ENOMEM && m.repair(p.at, p.pages, m.frames.view(frame), p.map_flags);
        }
    }
    if (r.aborted) {
        return status::busy;
    }
    if (copied != p.pages) {
        switch (copy_error) {
        case EFAULT: return status::gone;
        case EFBIG: // RLIMIT_FSIZE has been lowered: the next arena is smaller
        case EPERM: // somebody sealed it
            m.frames.retire(frame);
            return status::out_of_frames;
        case 0: // short
        case ENOSPC:
        case ENOMEM:
        case EDQUOT:
        case EINTR: return status::out_of_frames;
        default: return m.refused("pwrite", copy_error, false);
        }
    }
    if (r.repaired) {
        m.table.set(p.first, p.pages, page_entry::home());
    }
    if (r.error != 0) {
        return m.refused("mmap", r.error, false);
    }
    m.frames.commit(frame, p.pages);
    m.table.set(p.first, p.pages, entry);
    return status::ok;
}

/// Maps the pages before the first difference to the frames. \requires The frames are of one arena.
[[nodiscard]] inline progress merge_pages(machinery& m, place const& p, frame_id frame) noexcept {
    auto const entry = page_entry::merged(frame);
    if (!m.table.prepare(p.first, p.pages, entry)) {
        return {page_count{0}, status::out_of_memory};
    }
    std::byte const* const content = m.frames.view(frame);
    replacement r;
    std::size_t equal = 0;
    int unread = 0;
    bool affordable = true;
    {
        write_window window{m.writers, p.at, p.pages * m.page, m.page};
        if (window.why() != status::ok) {
            return {page_count{0}, window.why()};
        }
        equal = m.reader.equal(p.at, content, p.pages, p.in_place, unread);
        affordable = equal == 0 || m.affordable(p.first, equal, entry);
        // The last look before the replacement: see segv_handler.
        r.aborted = window.aborted();
        if (equal != 0 && !r.aborted) {
            if (affordable) {
                r.error = m.frames.map(p.at, frame, equal, p.map_flags);
                r.repaired = r.error == ENOMEM && m.repair(p.at, equal, content, p.map_flags);
            }
        }
    }
    if (r.aborted) {
        return {page_count{0}, status::busy};
    }
    if (!affordable) {
        return {page_count{0}, status::out_of_mappings};
    }
    if (r.repaired) {
        m.table.set(p.first, equal, page_entry::home());
    }
    if (r.error != 0) {
        return {page_count{0}, m.refused("mmap", r.error, false)};
    }
    if (equal != 0) {
        m.table.set(p.first, equal, entry);
    }
    return {page_count{equal}, equal == p.pages ? status::ok : m.reader.unequal(unread)};
}

/// Gives the pages before the first that is not zero back to the kernel. \requires All of them, or
/// none, are anonymous memory of the application.
[[nodiscard]] inline progress zero_pages(machinery& m, place const& p) noexcept {
    backing const kind = m.table.at(p.first).kind();
    // MADV_DONTNEED would show the frame that a page maps, not zero. A displaced page could do
    // with it, but a new mapping joins the neighbours.
    bool const by_advice = kind == backing::home || kind == backing::zero;
    if (!m.table.prepare(p.first, p.pages, page_entry::zero())) {
        return {page_count{0}, status::out_of_memory};
    }
    replacement r;
    std::size_t zeros = 0;
    int unread = 0;
    bool affordable = true;
    {
        write_window window{m.writers, p.at, p.pages * m.page, m.page};
        if (window.why() != status::ok) {
            return {page_count{0}, window.why()};
        }
        zeros = m.reader.zero(p.at, p.pages, p.in_place, unread);
        affordable = by_advice || zeros == 0 || m.affordable(p.first, zeros, page_entry::zero());
        r.aborted = window.aborted();
        if (zeros != 0 && !r.aborted) {
            if (by_advice) {
                r.error = advise(p.at, zeros * m.page, MADV_DONTNEED);
            } else {
                if (affordable) {
                    r.error = map_at(p.at, zeros * m.page, read_write, anonymous | p.map_flags);
                    // Anonymous memory is zero: there is no content to put back.
                    if (r.error == ENOMEM && has_hole(p.at, zeros * m.page, m.page)) {
                        r.error = map_at(p.at, zeros * m.page, read_write,
                                         anonymous | map_fixed_noreplace | p.map_flags);
                    }
                }
            }
        }
    }
    if (r.aborted) {
        return {page_count{0}, status::busy};
    }
    if (!affordable) {
        return {page_count{0}, status::out_of_mappings};
    }
    if (r.error != 0 && by_advice) {
        switch (r.error) {
        case ENOMEM: return {page_count{0}, status::gone};
        case EAGAIN: return {page_count{0}, status::busy};
        default: return {page_count{0}, status::refused}; // locked since it was adopted
        }
    }
    if (r.error != 0) {
        return {page_count{0}, m.refused("mmap", r.error, false)};
    }
    if (zeros != 0) {
        m.table.set(p.first, zeros, page_entry::zero());
    }
    return {page_count{zeros}, zeros == p.pages ? status::ok : m.reader.unequal(unread)};
}

} // namespace detail::os
KSM_NAMESPACE_END

#endif
