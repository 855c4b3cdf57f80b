// SPDX-License-Identifier: BSL-1.0
// Write exclusion by moving: UFFDIO_MOVE takes the pages themselves away to a place that nobody
// knows. Who accesses them meanwhile waits, in user mode and in the kernel, and the kernel refuses
// to move a page that is pinned for I/O.
#ifndef KSM_PROVIDERS_LINUX_PAGE_MOVER_HPP
#define KSM_PROVIDERS_LINUX_PAGE_MOVER_HPP

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include <time.h>

#include <ksm/outcome.hpp>
#include <ksm/providers/linux/fork_gate.hpp>
#include <ksm/providers/linux/moved_content.hpp>
#include <ksm/providers/linux/piece_list.hpp>
#include <ksm/providers/linux/place.hpp>
#include <ksm/providers/linux/scratch_memory.hpp>
#include <ksm/providers/linux/syscalls.hpp>
#include <ksm/providers/linux/userfault.hpp>
#include <ksm/providers/linux/window_refusal.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

class page_mover {
  public:
    explicit page_mover(userfault const& faults) noexcept : faults_(faults) {}

    /// Finds out, on a page of its own, whether the kernel keeps its word.
    [[nodiscard]] os_error prepare(std::size_t page) noexcept {
        page_ = page;
        if (!faults_.has(userfault::write_protect | userfault::move_pages)) {
            return faults_.error() ? faults_.error() : os_error{"ioctl(UFFDIO_MOVE)", ENOTTY};
        }
        if (os_error const e = fork_gate::instance().install()) {
            return e;
        }
        if (scratch_.get(page) == nullptr) {
            return {"mmap", ENOMEM};
        }
        // What is moved from and to must be enrolled. In this mode nobody waits for an absent page.
        if (int const e = faults_.enroll(scratch_.get(page), scratch_memory::bytes(page),
                                         userfault::protected_from_writes);
            e != 0) {
            return {"ioctl(UFFDIO_REGISTER)", e};
        }
        scratch_memory trial;
        std::byte* const at = trial.get(page);
        if (at == nullptr) {
            return {"mmap", ENOMEM};
        }
        constexpr std::size_t pages = moved_content::trial_pages;
        std::memset(at, 1, pages * page);
        place p{page_number{}, at, pages};
        p.anonymous = true;
        window_refusal r = open(p, piece_list::run(pages));
        for (int tries = 0; tries < 100 && r.why == status::busy && r.error == 0; ++tries) {
            timespec const t{0, 10'000'000}; // a fork is under way
            ::nanosleep(&t, nullptr);
            r = open(p, piece_list::run(pages));
        }
        bool moved = r.why == status::ok && pages_ == pages;
        if (r.why == status::ok) {
            moved_.calibrate(slot(0), page);
            moved = moved && content()[pages * page - 1] == std::byte{1};
            close(p, 0);
        }
        return moved && at[0] == std::byte{1} ? os_error{}
                                              : os_error{"ioctl(UFFDIO_MOVE)", r.error};
    }

    /// Takes away as many of the wanted pages as the kernel lets go, from the first on. Anything
    /// but ok: none, and nothing has changed.
    [[nodiscard]] window_refusal open(place const& p, piece_list const& wanted) noexcept {
        wanted_ = wanted;
        window_refusal r = try_open(p);
        if (r.why == status::busy && r.error == EBUSY) {
            // Since a fork, pages that nobody has written to are taken for shared, also when the
            // child is gone. A write fault makes them exclusive; pages that are pinned stay busy.
            for (piece const& w : wanted_) {
                static_cast<void>(
                    advise(p.at + w.first * page_, w.pages * page_, madv_populate_write));
            }
            r = try_open(p);
        }
        return r;
    }
    /// They lie side by side.
    [[nodiscard]] std::byte const* content() noexcept { return content_; }
    [[nodiscard]] std::size_t pages() const noexcept { return pages_; }
    /// Why there are not more.
    [[nodiscard]] status why_short() const noexcept { return why_short_; }

    /// The first `replaced` pages have another mapping by now, or stay empty; the rest is put back.
    /// What is not put back stays in the scratch memory until that is full: giving it back costs a
    /// flush of every processor's TLB, once then and not in each window.
    void close(place const& p, std::size_t replaced, bool empty = false) noexcept {
        std::size_t used = replaced;
        for (std::size_t i = replaced; i < pages_;) {
            std::size_t const n = put_back(p, i, pages_ - i, true);
            used = n == 0 ? pages_ : used;
            i += n == 0 ? 1 : n;
        }
        taken_ += std::max(used, dirty_);
        pages_ = 0;
        finish(p, empty ? 0 : replaced);
    }

    /// Gives memory back that is only of use from window to window.
    void rest() noexcept {
        empty_scratch();
        moved_.rest();
    }

  private:
    static constexpr int most_tries = 8;

    /// Lets the kernel find memory: 1 us, and twice as long each time, up to 10 ms.
    class pause {
      public:
        void longer() noexcept {
            timespec const t{0, nanoseconds_};
            ::nanosleep(&t, nullptr);
            nanoseconds_ = std::min(2 * nanoseconds_, 10'000'000L);
        }

      private:
        long nanoseconds_ = 1000;
    };

    /// Gives back what is left in the scratch memory.
    void empty_scratch() noexcept {
        std::size_t const bytes = taken_ * page_;
        if (taken_ != 0 && (advise(scratch_.get(page_), bytes, MADV_DONTNEED) == 0 ||
                            advise(scratch_.get(page_), bytes, madv_dontneed_locked) == 0)) {
            taken_ = 0;
        }
    }

    /// Where page `i` of the window goes.
    [[nodiscard]] std::byte* slot(std::size_t i) noexcept {
        return scratch_.get(page_) + (taken_ + i) * page_;
    }

    [[nodiscard]] window_refusal try_open(place const& p) noexcept {
        std::size_t const bytes = p.pages * page_;
        if (taken_ + wanted_.pages() > window_pages) {
            empty_scratch();
            if (taken_ != 0) { // what lies there could come back into the wrong place
                return {status::busy, ENOMEM};
            }
        }
        dirty_ = 0;
        if (!fork_gate::instance().enter()) {
            return {status::busy};
        }
        int e = faults_.enroll(p.at, bytes, userfault::missing | userfault::protected_from_writes);
        if (e != 0) {
            if (e == ENOMEM) {
                finish(p, 0, false); // a part may be enrolled
            } else {
                // Nothing has changed, and older kernels would take off what another
                // userfaultfd has enrolled.
                fork_gate::instance().leave();
            }
            return enrolment_refused(e, p);
        }
        pages_ = 0;
        for (piece const& w : wanted_) {
            auto const m = take(p.at + w.first * page_, w.pages * page_);
            pages_ += m.bytes / page_;
            e = m.error;
            if (e != 0) {
                break;
            }
        }
        window_refusal const r = move_refused(e);
        why_short_ = r.why;
        if (e != 0 && e != EBUSY && e != ENOENT) { // those two look at the place of the page first
            recall(p);
        }
        if (pages_ == 0) {
            taken_ += dirty_;
            finish(p, 0);
            return r;
        }
        content_ = moved_.of(slot(0), pages_, page_);
        return {};
    }

    /// Moves consecutive pages behind those that are away.
    [[nodiscard]] userfault::moved take(std::byte* from, std::size_t bytes) noexcept {
        userfault::moved all{0, 0};
        for (int tries = 0; all.bytes < bytes && tries < most_tries; ++tries) {
            auto const m =
                faults_.move(slot(pages_) + all.bytes, from + all.bytes, bytes - all.bytes);
            all = {all.bytes + m.bytes, m.error};
            // With a part done the answer is EAGAIN; the next one says what is in the way.
            if (m.error != EAGAIN) {
                break;
            }
        }
        return all;
    }

    [[nodiscard]] window_refusal enrolment_refused(int e, place const& p) const noexcept {
        switch (e) {
        case ENOMEM:
            return {has_hole(p.at, p.pages * page_, page_) ? status::gone : status::out_of_mappings,
                    e};
        case EBUSY:  // another userfaultfd has it
        case EINVAL: // not anonymous memory any more
        case EPERM: return {status::refused, e};
        default: return {status::refused, e, true};
        }
    }
    [[nodiscard]] static window_refusal move_refused(int e) noexcept {
        switch (e) {
        case 0: return {};
        case EBUSY:
        case EAGAIN:
        case EEXIST: return {status::busy, e}; // see `recall`
        case ENOENT: return {status::gone, e};
        case EINVAL: return {status::refused, e}; // protected or locked since it was adopted
        case ENOMEM: return {status::out_of_memory, e};
        default: return {status::refused, e, true};
        }
    }

    /// Linux 6.18 was seen to move a page and to answer EEXIST nevertheless when the machine is
    /// busy. What is away beyond the pages that it owns up to comes back.
    void recall(place const& p) noexcept {
        for (std::size_t i = pages_; i < wanted_.pages(); ++i) {
            dirty_ = put_back(p, i, 1, false) == 0 ? wanted_.pages() : dirty_;
        }
    }

    /// Pages that came back into their place by moving, from `first` on; 0: that one did not. It
    /// was copied; or something is in its place; or the application has unmapped the place.
    /// \param away  They are known to be: not only perhaps.
    [[nodiscard]] std::size_t put_back(place const& p, std::size_t first, std::size_t n,
                                       bool away) noexcept {
        piece const where = wanted_.from(first);
        n = std::min(n, where.pages);
        std::byte* const to = p.at + where.first * page_;
        std::byte* const from = slot(first);
        userfault::moved m = faults_.move(to, from, n * page_);
        for (int tries = 0; m.bytes == 0 && m.error == EAGAIN && tries < most_tries; ++tries) {
            m = faults_.move(to, from, n * page_);
        }
        if (m.bytes == 0 && m.error == EBUSY) { // a raw clone has shared it
            static_cast<void>(advise(from, page_, madv_populate_write));
            m = faults_.move(to, from, page_);
        }
        bool const settled = m.error == EEXIST || m.error == ENOENT;
        if (m.bytes == 0 && (!settled || (away && !faults_.intact()))) {
            copy_back(to, from, away);
        }
        return m.bytes / page_;
    }
    /// For a place that the application has made read-only, or the like: a copy does not mind.
    /// Where the page has moved already the kernel refuses.
    void copy_back(std::byte* to, std::byte* from, bool away) noexcept {
        for (pause p; true; p.longer()) {
            int const e = faults_.copy(to, from, page_);
            // Another file that has the number by now may answer anything.
            bool const ours = e == 0 || faults_.intact();
            if (ours && (e == ENOMEM || e == EAGAIN)) {
                continue;
            }
            if (away && !ours) {
                // The application has closed our descriptor, and with it the window: who waited
                // sees zeros already. A mapping of its own is all that is left for the page.
                static_cast<void>(sys::mremap(
                    from, page_, page_, MREMAP_MAYMOVE | MREMAP_FIXED | mremap_dontunmap, to));
            }
            return;
        }
    }

    /// Every access goes on from here.
    /// \param enrolled  False: the kernel refused that at some page. What it had done until then it
    /// can undo; what it had not it refuses again.
    void finish(place const& p, std::size_t remapped, bool enrolled = true) noexcept {
        std::size_t const bytes = p.pages * page_;
        // Waiters for an absent page would wait for ever in a range that stays enrolled. Leaving
        // needs no mapping, only a little of the kernel's memory: wait for it. Other errors tell
        // that the application has unmapped the range, or closed our descriptor, which wakes all.
        // Where all pages have another mapping there is nothing to leave.
        pause between;
        for (int tries = 1; remapped < p.pages; ++tries) {
            int const e = faults_.dismiss(p.at, bytes);
            if (e == 0) {
                break;
            }
            if (tries >= most_tries && (!enrolled || e != ENOMEM || !faults_.intact())) {
                // Something else is mapped over one of them: then the others one by one.
                for (std::size_t i = 0; i < bytes; i += page_) {
                    static_cast<void>(faults_.dismiss(p.at + i, page_));
                }
                break;
            }
            between.longer();
        }
        if (p.tracked && remapped < p.pages) {
            static_cast<void>(faults_.enroll(p.at + remapped * page_, (p.pages - remapped) * page_,
                                             userfault::protected_from_writes));
        }
        faults_.wake(p.at, bytes);
        fork_gate::instance().leave();
    }

    userfault const& faults_;
    scratch_memory scratch_;
    moved_content moved_;
    std::byte const* content_ = nullptr; ///< Of the pages that are away.
    piece_list wanted_;
    std::size_t page_ = 0;
    std::size_t pages_ = 0; ///< That are away.
    std::size_t taken_ = 0; ///< Places in the scratch memory where earlier windows left something.
    std::size_t dirty_ = 0; ///< Of those behind them, where this window may have left something.
    status why_short_ = status::ok;
};

} // namespace detail::os
KSM_NAMESPACE_END

#endif
