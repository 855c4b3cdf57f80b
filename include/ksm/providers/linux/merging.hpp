// SPDX-License-Identifier: BSL-1.0
// Gives pages to frames. Each function opens one window. The comparison, or the copy, and the
// replacement are both inside of it: the one ordering that no lost store rests on (I1).
#ifndef KSM_PROVIDERS_LINUX_MERGING_HPP
#define KSM_PROVIDERS_LINUX_MERGING_HPP

#include <algorithm>
#include <array>
#include <cstddef>

#include <sys/uio.h>

#include <ksm/outcome.hpp>
#include <ksm/providers/linux/machinery.hpp>
#include <ksm/providers/linux/piece_list.hpp>
#include <ksm/providers/linux/write_window.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

/// What the replacement in a window came to.
struct replacement {
    int error = 0;
    bool repaired = false;
    bool sound = true;
};

/// Copies pages into reserved frames and maps them there: as many as the window holds, or none.
[[nodiscard]] inline progress promote_pages(machinery& m, place p, frame_id frame) noexcept {
    p.pages = std::min(p.pages, m.writers.size().copied());
    auto const entry = page_entry::merged(frame);
    if (!m.table.prepare(p.first, p.pages, entry)) {
        return {page_count{0}, status::out_of_memory};
    }
    if (status const s = m.affordable_merge(p.first, p.pages, entry); s != status::ok) {
        return {page_count{0}, s};
    }
    // A frame is of no use unless its first sharer can be paid for, too.
    std::ptrdiff_t const cost = std::max<std::ptrdiff_t>(m.table.cost(p.first, p.pages, entry), 0);
    if (!m.budget.allows(m.mappings(), 2 * cost)) {
        return {page_count{0}, status::out_of_mappings};
    }
    if (!m.budget.worth(m.mappings() + static_cast<std::size_t>(cost), cost, p.pages)) {
        return {page_count{0}, status::busy};
    }
    m.split_huge_pages(p);
    replacement r;
    std::size_t pages = 0;
    std::size_t copied = 0;
    int copy_error = 0;
    status short_because = status::ok;
    {
        write_window window{m.writers, p, m.page};
        if (window.why() != status::ok) {
            return {page_count{0}, window.why()};
        }
        pages = window.pages();
        short_because = window.why_short();
        // The kernel reads the pages; no page is read twice, so no content is seen twice.
        copied = m.frames.write(frame, window.content(), pages, copy_error);
        r.sound = window.sound();
        if (copied == pages && r.sound) {
            r.error = m.frames.map(p.at, frame, pages, p.map_flags);
            r.repaired =
                r.error == ENOMEM && m.repair(p.at, pages, m.frames.view(frame), p.map_flags);
            window.replaced(r.error == 0 || r.repaired ? pages : 0);
        }
    }
    if (!r.sound) {
        return {page_count{0}, status::busy};
    }
    if (copied != pages) {
        switch (copy_error) {
        case EFAULT: return {page_count{0}, status::gone};
        case EFBIG: // RLIMIT_FSIZE has been lowered: the next arena is smaller
        case EPERM: // somebody sealed it
            m.frames.retire(frame);
            return {page_count{0}, status::out_of_frames};
        case 0: // short
        case ENOSPC:
        case ENOMEM:
        case EDQUOT:
        case EINTR: return {page_count{0}, status::out_of_frames};
        default: return {page_count{0}, m.refused("pwrite", copy_error, false)};
        }
    }
    if (r.repaired) {
        m.table.set(p.first, pages, page_entry::home());
    }
    if (r.error != 0) {
        return {page_count{0}, m.refused("mmap", r.error, false)};
    }
    m.tracker.expect_copies();
    m.frames.commit(frame, pages);
    m.table.set(p.first, pages, entry);
    return {page_count{pages}, pages == p.pages ? status::ok : short_because};
}

/// Maps the pages before the first difference to the frames. \requires The frames are of one arena.
[[nodiscard]] inline progress merge_pages(machinery& m, place p, frame_id frame) noexcept {
    if (!m.writers.nobody_waits()) {
        p.pages = std::min(p.pages, m.writers.size().compared());
    }
    auto const entry = page_entry::merged(frame);
    if (!m.table.prepare(p.first, p.pages, entry)) {
        return {page_count{0}, status::out_of_memory};
    }
    // Fewer pages would cost no less.
    status price = m.affordable_merge(p.first, p.pages, entry);
    if (price != status::ok) {
        return {page_count{0}, price};
    }
    m.split_huge_pages(p);
    std::byte const* const content = m.frames.view(frame);
    replacement r;
    std::size_t equal = 0;
    int unread = 0;
    status why = status::changed;
    {
        write_window window{m.writers, p, m.page};
        if (window.why() != status::ok) {
            return {page_count{0}, window.why()};
        }
        equal = m.reader.equal(window.content(), content, window.pages(),
                               p.in_place || window.vacated(), unread);
        why = equal == window.pages() ? window.why_short() : memory_reader::unequal(unread);
        if (equal != 0) {
            price = m.affordable_merge(p.first, equal, entry);
        }
        r.sound = window.sound();
        if (equal != 0 && price == status::ok && r.sound) {
            r.error = m.frames.map(p.at, frame, equal, p.map_flags);
            r.repaired = r.error == ENOMEM && m.repair(p.at, equal, content, p.map_flags);
            window.replaced(r.error == 0 || r.repaired ? equal : 0);
        }
    }
    if (!r.sound) {
        return {page_count{0}, status::busy};
    }
    if (price != status::ok) {
        return {page_count{0}, price};
    }
    if (r.repaired) {
        m.table.set(p.first, equal, page_entry::home());
    }
    if (r.error != 0) {
        return {page_count{0}, m.refused("mmap", r.error, false)};
    }
    if (equal != 0) {
        m.tracker.expect_copies();
        m.table.set(p.first, equal, entry);
    }
    return {page_count{equal}, equal == p.pages ? status::ok : why};
}

/// Gives pieces of anonymous memory back, `at_once` by one call as far as that gets: each call may
/// cost a flush of every processor's TLB. Otherwise no page is given back twice: under `wp`
/// somebody may have written to it in between.
/// \returns The pages given back; with fewer than all, `error` says why the next one was not.
[[nodiscard]] inline std::size_t discard(std::byte* at, piece_list const& pieces, std::size_t page,
                                         bool at_once, int& error) noexcept {
    error = 0;
    std::size_t done = 0;
    if (at_once && pieces.size() > 1) {
        std::array<iovec, piece_list::most> parts;
        std::size_t n = 0;
        for (piece const& w : pieces) {
            parts[n++] = {at + w.first * page, w.pages * page};
        }
        ssize_t const bytes = sys::process_madvise({parts.data(), n}, MADV_DONTNEED);
        done = bytes < 0 ? 0 : static_cast<std::size_t>(bytes) / page; // whole pieces
    }
    while (done < pieces.pages() && error == 0) {
        piece const w = pieces.from(done);
        error = advise(at + w.first * page, w.pages * page, MADV_DONTNEED);
        done += error == 0 ? w.pages : 0;
    }
    return done;
}

/// The pages of the pieces that are zero, before the first that is not or that is not in the
/// window.
[[nodiscard]] inline progress zeros_in(machinery& m, place const& p, write_window const& window,
                                       piece_list const& pieces) noexcept {
    std::size_t zeros = 0;
    while (zeros < window.pages()) {
        int unread = 0;
        std::size_t const here = std::min(pieces.from(zeros).pages, window.pages() - zeros);
        std::size_t const n =
            m.reader.zero(window.content(zeros), here, p.in_place || window.vacated(), unread);
        zeros += n;
        if (n < here) {
            return {page_count{zeros}, memory_reader::unequal(unread)};
        }
    }
    return {page_count{zeros}, window.why_short()};
}

/// Gives pages back to the kernel, those before the first that is not zero, in one window.
/// \param opened  Whether the window could be opened.
[[nodiscard]] inline progress zero_pieces(machinery& m, place const& p, piece_list const& pieces,
                                          bool by_advice, bool& opened) noexcept {
    opened = false;
    if (!m.table.prepare(p.first, p.pages, page_entry::zero())) {
        return {page_count{0}, status::out_of_memory};
    }
    m.split_huge_pages(p);
    replacement r;
    std::size_t zeros = 0;
    bool affordable = true;
    status why = status::ok;
    {
        write_window window{m.writers, p, m.page, pieces};
        if (window.why() != status::ok) {
            return {page_count{0}, window.why()};
        }
        opened = true;
        progress const found = zeros_in(m, p, window, pieces);
        zeros = found.done.value();
        why = found.why;
        affordable = by_advice || zeros == 0 || m.affordable(p.first, zeros, page_entry::zero());
        r.sound = window.sound();
        if (zeros != 0 && affordable && r.sound) {
            if (!by_advice) {
                r.error = map_at(p.at, zeros * m.page, read_write, anonymous | p.map_flags);
                // Anonymous memory is zero: there is no content to put back.
                if (r.error == ENOMEM && has_hole(p.at, zeros * m.page, m.page)) {
                    r.error = map_at(p.at, zeros * m.page, read_write,
                                     anonymous | map_fixed_noreplace | p.map_flags);
                }
                window.replaced(r.error == 0 ? zeros : 0);
            } else if (window.vacated()) {
                window.emptied(zeros);
            } else {
                zeros = discard(p.at, pieces.lowest(zeros), m.page,
                                m.discards_at_once && window.survives_discarding(), r.error);
            }
        }
    }
    if (!r.sound) {
        return {page_count{0}, status::busy};
    }
    if (!affordable) {
        return {page_count{0}, status::out_of_mappings};
    }
    if (r.error != 0 && by_advice) {
        switch (r.error) {
        case ENOMEM: why = status::gone; break;
        case EAGAIN: why = status::busy; break;
        default: why = status::refused; break; // locked since it was adopted
        }
    }
    if (r.error != 0 && !by_advice) {
        return {page_count{0}, m.refused("mmap", r.error, false)};
    }
    for (piece const& w : pieces.lowest(zeros)) {
        m.table.set(p.first + page_count{w.first}, w.pages, page_entry::zero());
    }
    if (zeros != 0 && !by_advice) {
        m.made_anonymous(p.at, zeros * m.page);
    }
    return {page_count{zeros}, why};
}

/// Gives pages back to the kernel, those before the first that is not zero. \requires The first
/// page of the place is the first of the pieces; all pages of the place are displaced, or none.
[[nodiscard]] inline progress zero_pages(machinery& m, place p, piece_list pieces) noexcept {
    // MADV_DONTNEED would show the frame that a page maps, not zero. A displaced page could do
    // with it, but a new mapping joins the neighbours.
    bool const by_advice = p.anonymous && m.table.at(p.first).kind() != backing::displaced;
    bool opened = false;
    pieces = pieces.front(m.writers.size().pieces());
    if (by_advice && pieces.size() > 1 && m.writers.takes_pieces()) {
        p.pages = pieces.span();
        progress const all = zero_pieces(m, p, pieces, by_advice, opened);
        bool const between = all.why == status::refused || all.why == status::gone ||
                             all.why == status::out_of_mappings;
        if (opened || !between || m.writers.disabled()) {
            return all;
        }
        // Perhaps because of a page between the pieces: without these, then.
    }
    p.pages = pieces.begin()->pages;
    return zero_pieces(m, p, piece_list::run(p.pages), by_advice, opened);
}

} // namespace detail::os
KSM_NAMESPACE_END

#endif
