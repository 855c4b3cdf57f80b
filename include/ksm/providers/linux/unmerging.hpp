// SPDX-License-Identifier: BSL-1.0
// Gives pages private copies again. Where writers can be excluded, a prepared copy is moved into
// the page's place, which is anonymous memory then. If it comes from the region's mirror it joins
// its neighbours and is as it was before it was merged; otherwise it stays a mapping of its own.
// Without exclusion, and at the limit of mappings, a write fault without a write breaks
// copy-on-write: the copy is private, too, but the mapping stays one of the frame.
#ifndef KSM_PROVIDERS_LINUX_UNMERGING_HPP
#define KSM_PROVIDERS_LINUX_UNMERGING_HPP

#include <cstddef>

#include <ksm/outcome.hpp>
#include <ksm/providers/linux/machinery.hpp>
#include <ksm/providers/linux/mirror.hpp>
#include <ksm/providers/linux/write_window.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

enum class restoration : unsigned char { done, not_possible, not_now, no_memory };

/// One window: copies take the place of the pages. \requires The pages map frames, the provider has
/// entered, and copying is allowed.
[[nodiscard]] inline restoration restore_pages(machinery& m, mirror_store& mirrors,
                                               place const& p) noexcept {
    std::byte* copy = mirrors.get(p.mirror, p.first, p.pages);
    auto const entry =
        copy != nullptr ? page_entry::home() : page_entry::displaced(m.displacements);
    if (copy == nullptr) {
        copy = mirrors.scratch().get(m.page);
    }
    std::size_t const bytes = p.pages * m.page;
    if (copy == nullptr || !m.affordable(p.first, p.pages, entry) ||
        !m.table.prepare(p.first, p.pages, entry)) {
        return restoration::not_possible;
    }
    // Fault the copies in here: in the window it would keep writers waiting, and memory that is
    // refused would be a signal.
    if (int const e = advise(copy, bytes, madv_populate_write); e == ENOMEM || e == EFAULT) {
        return restoration::no_memory;
    }
    int error = 0;
    bool repaired = false;
    {
        write_window window{m.writers, p, m.page};
        if (window.why() != status::ok) {
            return window.met_fork() ? restoration::not_now : restoration::not_possible;
        }
        if (!m.reader.copy(copy, p.at, p.pages, p.in_place) || !window.sound()) {
            return restoration::not_possible;
        }
        // Readers see the old page or the new one. MREMAP_DONTUNMAP keeps the place of the copy:
        // its hole could be taken by another thread.
        void* const got =
            sys::mremap(copy, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED | mremap_dontunmap, p.at);
        error = got == MAP_FAILED ? errno : 0;
        repaired = error != 0 && m.repair(p.at, p.pages, copy, p.map_flags);
        window.replaced(error == 0 || repaired ? p.pages : 0);
    }
    if (error == 0) {
        m.made_anonymous(p.at, bytes);
        m.table.set(p.first, p.pages, entry);
        m.displacements += entry.is_home() ? 0 : static_cast<std::uint32_t>(p.pages) + 1;
        return restoration::done;
    }
    static_cast<void>(advise(copy, bytes, MADV_DONTNEED));
    if (repaired) {
        m.table.set(p.first, p.pages, page_entry::home());
        return restoration::done;
    }
    return restoration::not_possible;
}

/// \requires The pages are merged or broken.
[[nodiscard]] inline status break_cow(machinery& m, place const& p) noexcept {
    switch (advise(p.at, p.pages * m.page, madv_populate_write)) {
    case 0: break;
    case EINVAL: // before Linux 5.14, or not writable
        for (std::size_t i = 0; i < p.pages; ++i) {
            if (touch(p.at + i * m.page) != 0) {
                return has_hole(p.at + i * m.page, m.page, m.page) ? status::gone : status::refused;
            }
        }
        break;
    case ENOMEM:
        return has_hole(p.at, p.pages * m.page, m.page) ? status::gone : status::out_of_memory;
    case EAGAIN: return status::busy;
    default: return status::refused; // EFAULT, EHWPOISON: the kernel cannot read the frame
    }
    for (std::size_t i = 0; i < p.pages; ++i) {
        page_number const page = p.first + page_count{i};
        m.table.set(page, 1, page_entry::broken(m.table.at(page).frame()));
    }
    return status::ok;
}

/// How far `unmerge_pages` goes.
enum class privacy : unsigned char {
    content, ///< A private copy: a page whose copy-on-write is broken is one.
    mapping, ///< Anonymous memory, if that is possible now.
};

/// \requires `pages <= window_pages`.
[[nodiscard]] inline progress unmerge_pages(machinery& m, mirror_store& mirrors, place const& p,
                                            privacy wanted, bool exclusive) noexcept {
    auto const work = [&](page_number page) {
        backing const k = m.table.at(page).kind();
        if (k == backing::merged || (k == backing::broken && wanted == privacy::mapping)) {
            return backing::merged;
        }
        return k == backing::zero ? backing::zero : backing::home;
    };
    for (std::size_t i = 0; i < p.pages;) {
        page_number const first = p.first + page_count{i};
        backing const kind = work(first);
        std::size_t n = 1;
        while (i + n < p.pages && work(first + page_count{n}) == kind) {
            ++n;
        }
        place run = p;
        run.first = first;
        run.at = p.at + i * m.page;
        run.pages = n;
        run.anonymous = kind != backing::merged;
        status why = status::ok;
        if (kind == backing::merged) {
            restoration const r =
                exclusive ? restore_pages(m, mirrors, run) : restoration::not_possible;
            if (r == restoration::no_memory) {
                why = status::out_of_memory;
            } else if (r == restoration::not_now && wanted == privacy::mapping) {
                why = status::busy;
            } else if (r != restoration::done) {
                why = break_cow(m, run);
            }
        } else if (kind == backing::zero) {
            int const e = advise(run.at, n * m.page, madv_populate_write);
            if (e == EINVAL) {
                for (std::size_t j = 0; j < n && why == status::ok; ++j) {
                    why = touch(run.at + j * m.page) == 0 ? status::ok : status::refused;
                }
            } else if (e != 0) {
                why = e == ENOMEM   ? status::out_of_memory
                      : e == EAGAIN ? status::busy
                                    : status::refused;
            }
            if (why == status::ok) {
                m.table.set(first, n, page_entry::home());
            }
        }
        if (why != status::ok) {
            return {page_count{i}, why};
        }
        i += n;
    }
    return {page_count{p.pages}, status::ok};
}

} // namespace detail::os
KSM_NAMESPACE_END

#endif
