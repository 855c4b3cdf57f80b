// SPDX-License-Identifier: BSL-1.0
// Keeps writers out of pages between their comparison and their replacement. Inside of a window
// only the stack, the provider's own mappings and the pages themselves are accessed: no heap, no
// lock, no callback (I10).
#ifndef KSM_PROVIDERS_LINUX_WRITE_WINDOW_HPP
#define KSM_PROVIDERS_LINUX_WRITE_WINDOW_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>

#include <ksm/outcome.hpp>
#include <ksm/providers/linux/exclusion.hpp>
#include <ksm/providers/linux/piece_list.hpp>
#include <ksm/providers/linux/place.hpp>
#include <ksm/providers/linux/signals_blocked.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

/// Blocks signals, whose handlers might write, and opens the window of the strategy in force.
class write_window {
  public:
    write_window(exclusion& e, place const& p, std::size_t page) noexcept
        : write_window(e, p, page, piece_list::run(p.pages)) {}
    /// Writers are kept out of the pieces of the place, and maybe of what is between them.
    write_window(exclusion& e, place const& p, std::size_t page, piece_list const& pieces) noexcept
        : exclusion_(e), place_(p), pieces_(pieces), page_(page), pages_(pieces.pages()) {
        if (holds(__builtin_frame_address(0), 0) ||
            (waits_for_accesses() && (holds(e.owner_.data(), e.owner_.size()) || holds_gate()))) {
            // We would wait for ourselves, or write into the window.
            why_ = {status::refused};
            return;
        }
        signals_.emplace();
        opened_at_ = window_log::now();
        open();
        if (why_.why != status::ok) {
            e.log_.refused();
            e.log_.error(why_.error);
            if (why_.disable) {
                e.disable("A window could not be opened, for an error that should not be: see "
                          "refusal.",
                          {"ioctl or mprotect", why_.error});
            }
            signals_.reset();
        }
    }
    ~write_window() { close(); }
    write_window(write_window const&) = delete;
    write_window& operator=(write_window const&) = delete;

    /// Anything but ok: the window is not open, the pages are as they were.
    [[nodiscard]] status why() const noexcept { return why_.why; }
    /// It is not open because a fork is under way.
    [[nodiscard]] bool met_fork() const noexcept {
        return why_.why == status::busy && why_.error == 0;
    }
    /// The first so many pages of all pieces are in the window, which may not be all.
    [[nodiscard]] std::size_t pages() const noexcept { return pages_; }
    /// Why there are not more.
    [[nodiscard]] status why_short() const noexcept {
        return way_ == way::move ? exclusion_.mover_.why_short() : status::ok;
    }
    /// Where the content of page number `i` of all pieces is to be read, and of those behind it in
    /// its piece.
    [[nodiscard]] std::byte const* content(std::size_t i = 0) const noexcept {
        return vacated() ? exclusion_.mover_.content() + i * page_
                         : place_.at + pieces_.from(i).first * page_;
    }
    /// The pages are away: there is nothing but an empty anonymous mapping in their place.
    [[nodiscard]] bool vacated() const noexcept { return way_ == way::move; }
    /// Writers stay out of pages whose memory is given back inside of the window.
    [[nodiscard]] bool survives_discarding() const noexcept {
        return way_ == way::none || way_ == way::mprotect;
    }

    /// The last look before the replacement. False: somebody got in after all, and nothing may be
    /// replaced.
    [[nodiscard]] bool sound() noexcept {
        switch (way_) {
        case way::mprotect: return !exclusion_.window_->aborted.load();
        case way::protect:
            return std::all_of(pieces_.begin(), pieces_.end(), [this](piece const& w) {
                place part = place_;
                part.first += page_count{w.first};
                part.pages = w.pages;
                return exclusion_.protector_.sound(part, !exclusion_.options_.no_pinned_io);
            });
        default: return true;
        }
    }
    /// The first pages have another mapping now.
    void replaced(std::size_t pages) noexcept { replaced_ = pages; }
    /// The first pages, which are away, are not to come back.
    void emptied(std::size_t pages) noexcept {
        replaced_ = pages;
        empty_ = true;
    }

    void close() noexcept {
        if (way_ != way::none) {
            bool const is_long = window_log::now() - opened_at_ > window_size::long_ns;
            std::size_t const waiting = count_waiting(is_long);
            switch (way_) {
            case way::none: break;
            case way::mprotect:
                // An error says that the application has unmapped a part: there is nothing to open.
                static_cast<void>(segv_handler::instance().close(*exclusion_.window_));
                break;
            case way::protect: exclusion_.protector_.close(place_, replaced_); break;
            case way::move: exclusion_.mover_.close(place_, replaced_, empty_); break;
            }
            // Not before: they may lie in the window.
            exclusion_.log_.opened(window_log::now() - opened_at_);
            exclusion_.log_.waited(counts_waits() ? waiting : 0);
            exclusion_.size_.closed(pages_, is_long && waiting != 0);
            way_ = way::none;
        }
        signals_.reset();
    }

  private:
    enum class way : unsigned char { none, mprotect, protect, move };

    void open() noexcept {
        switch (exclusion_.in_force_) {
        case write_exclusion::mprotect:
            if (exclusion_.strict_commit_) {
                // A mapping that was never written gives up its commit charge while it is
                // read-only.
                static_cast<void>(advise(place_.at, bytes(), madv_populate_write));
            }
            open_read_only();
            return;
        case write_exclusion::move:
            if (place_.anonymous) {
                why_ = exclusion_.mover_.open(place_, pieces_);
                if (why_.why == status::ok) {
                    way_ = way::move;
                    pages_ = exclusion_.mover_.pages();
                }
                return;
            }
            if (!exclusion_.can_protect_) {
                why_ = {status::refused};
                return;
            }
            [[fallthrough]];
        case write_exclusion::wp:
            why_ = exclusion_.protector_.open(place_);
            way_ = why_.why == status::ok ? way::protect : way::none;
            return;
        default: return;
        }
    }

    void open_read_only() noexcept {
        bool entered = false;
        int const error =
            segv_handler::instance().open(*exclusion_.window_, place_.at, bytes(), entered);
        if (!entered) {
            why_ = {status::busy};
        } else if (error != 0) {
            refusal const r =
                mapping_refused(error, error == ENOMEM && has_hole(place_.at, bytes(), page_));
            why_ = {r.why, error, r.disable};
        } else {
            way_ = way::mprotect;
        }
    }

    [[nodiscard]] bool counts_waits() const noexcept {
        return way_ == way::mprotect || exclusion_.options_.count_waits;
    }
    /// Accesses that wait for the window, as far as that is asked for or `needed`.
    [[nodiscard]] std::size_t count_waiting(bool needed) const noexcept {
        if (way_ == way::mprotect) {
            return exclusion_.window_->waiting.load();
        }
        if (!needed && !counts_waits()) {
            return 0;
        }
        return (way_ == way::move ? exclusion_.faults_ : exclusion_.guard_).count_waiting();
    }

    [[nodiscard]] std::size_t bytes() const noexcept { return place_.pages * page_; }
    [[nodiscard]] bool holds(void const* object, std::size_t size) const noexcept {
        auto const o = reinterpret_cast<std::uintptr_t>(object);
        auto const begin = reinterpret_cast<std::uintptr_t>(place_.at);
        return o + size >= begin && o < begin + bytes();
    }
    [[nodiscard]] bool holds_gate() const noexcept {
        return holds(&fork_gate::instance(), sizeof(fork_gate));
    }
    /// Of the merging thread, too.
    [[nodiscard]] bool waits_for_accesses() const noexcept {
        return exclusion_.in_force_ == write_exclusion::move ||
               exclusion_.in_force_ == write_exclusion::wp;
    }

    exclusion& exclusion_;
    place place_;
    piece_list pieces_;
    std::size_t page_;
    std::size_t pages_;
    std::size_t replaced_ = 0;
    std::uint64_t opened_at_ = 0;
    window_refusal why_;
    std::optional<signals_blocked> signals_;
    way way_ = way::none;
    bool empty_ = false;
};

} // namespace detail::os
KSM_NAMESPACE_END

#endif
