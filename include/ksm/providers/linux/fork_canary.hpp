// SPDX-License-Identifier: BSL-1.0
// Tells whether a child may still read a frame that this process has no use for any more. A canary
// is a shared writable mapping of a file of its own. Every child that was forked while we mapped
// it, and their children, map it until they exec or exit, also when they have closed all
// descriptors; as long as anybody maps it the kernel refuses to seal the file against writing.
#ifndef KSM_PROVIDERS_LINUX_FORK_CANARY_HPP
#define KSM_PROVIDERS_LINUX_FORK_CANARY_HPP

#include <array>
#include <cstddef>
#include <cstdint>

#include <ksm/providers/linux/fork_marker.hpp>
#include <ksm/providers/linux/os_error.hpp>
#include <ksm/providers/linux/syscalls.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

/// Sees the forks between `create` and `retire`. Copies are the same canary.
class fork_canary {
  public:
    [[nodiscard]] os_error create() noexcept {
        int const fd = create_memfd("ksm canary");
        if (fd < 0) {
            return {"memfd_create", errno};
        }
        // The file stays empty: nobody accesses the mapping, it only exists.
        void* const at = sys::mmap(nullptr, page_bytes(), read_write, MAP_SHARED, fd, 0);
        if (at == MAP_FAILED) {
            os_error const e{"mmap", errno};
            sys::close(fd);
            return e;
        }
        at_ = at;
        file_ = descriptor{fd};
        if (alone()) { // this kernel does not see that we map it: its answers mean nothing
            retire();
            close();
            return {"fcntl(F_ADD_SEALS)", EOPNOTSUPP};
        }
        return {};
    }

    [[nodiscard]] bool exists() const noexcept { return file_.is_open(); }

    /// Ends the time in which forks are seen. A mapping that cannot be removed keeps it busy.
    void retire() noexcept {
        if (at_ != nullptr) {
            sys::munmap(at_, page_bytes());
            at_ = nullptr;
        }
    }

    /// No child that it saw is left. Once true, always true. False is also the answer to every
    /// error: EBUSY says that somebody maps it; EPERM, EINVAL and EBADF that somebody sealed the
    /// file, forbade the call or closed the descriptor, and then nobody can know.
    [[nodiscard]] bool alone() const noexcept {
        return file_.intact() && sys::fcntl(file_.get(), F_ADD_SEALS, F_SEAL_WRITE) == 0;
    }

    /// \requires It is retired, or this is a forked child, in which its mapping has to stay: a
    /// frame that the child inherited depends on it.
    void close() noexcept { file_.close(); }

  private:
    void* at_ = nullptr;
    descriptor file_;
};

/// One canary after the other, without a gap: the next one exists before the last one retires.
///
/// A frame that was made under canary b (the current one at that time) and found dead under canary
/// d may be given back when all of b..d have retired, d after the frame was found dead, and all of
/// them have answered "alone". A child that was forked before b does not map the frame; one that
/// was forked after d retired has inherited no page that relies on it.
class fork_canaries {
  public:
    /// Canaries that have retired and are not alone. A long-lived child keeps one of them busy for
    /// all the frames that it may read; each costs a descriptor and no mapping.
    static constexpr std::size_t max_retired = 16;
    static constexpr std::size_t none = max_retired;

    using number = std::uint32_t;
    /// In place of a canary's number: there was none.
    static constexpr number unwatched = 0;
    static constexpr number max_number = (number{1} << 31) - 1;

    explicit fork_canaries(fork_marker const& marker) noexcept : marker_(marker) {}
    ~fork_canaries() {
        if (!marker_.in_child()) {
            current_.retire();
        }
        current_.close();
        for (retired& r : retired_) {
            r.canary.close();
        }
    }
    fork_canaries(fork_canaries const&) = delete;
    fork_canaries& operator=(fork_canaries const&) = delete;

    /// Makes sure that there is a current canary, if the kernel gives us one.
    void begin() noexcept {
        if (!current_.exists() && !current_.create()) {
            ++number_;
        }
    }
    /// For a frame that is made now.
    [[nodiscard]] number current() const noexcept {
        return current_.exists() ? number_ : unwatched;
    }

    /// Retires the current canary. \returns Its slot, or `none`: all slots are busy, or there is
    /// no successor (EMFILE, ENFILE, ENOMEM, ...), and it stays current.
    [[nodiscard]] std::size_t hand_over() noexcept {
        std::size_t slot = 0;
        while (slot < max_retired && retired_[slot].canary.exists()) {
            ++slot;
        }
        fork_canary next;
        if (slot == none || !current_.exists() || number_ == max_number || next.create()) {
            return none;
        }
        current_.retire();
        retired_[slot] = {current_, number_, false};
        current_ = next;
        ++number_;
        return slot;
    }

    /// Asks every retired canary that was not alone yet.
    void ask() noexcept {
        for (retired& r : retired_) {
            r.alone = r.alone || (r.canary.exists() && r.canary.alone());
        }
    }
    [[nodiscard]] bool alone(std::size_t slot) const noexcept { return retired_[slot].alone; }

    /// For a frame that was made under canary `birth` and waited for the one in `slot`, which is
    /// alone now: the newest older one that is not. `none`: nobody can read the frame.
    [[nodiscard]] std::size_t next_obstacle(number birth, std::size_t slot) const noexcept {
        std::size_t newest = none;
        for (std::size_t i = 0; i < max_retired; ++i) {
            retired const& r = retired_[i];
            bool const counts =
                r.canary.exists() && !r.alone && r.at >= birth && r.at < retired_[slot].at;
            if (counts && (newest == none || r.at > retired_[newest].at)) {
                newest = i;
            }
        }
        return newest;
    }
    /// Makes the slot free. \requires Its canary is alone.
    void forget(std::size_t slot) noexcept {
        retired_[slot].canary.close();
        retired_[slot] = {};
    }

    [[nodiscard]] std::size_t mappings() const noexcept { return current_.exists() ? 1 : 0; }

  private:
    struct retired {
        fork_canary canary;
        number at = 0;
        bool alone = false;
    };

    fork_marker const& marker_;
    fork_canary current_;
    number number_ = 0;
    std::array<retired, max_retired> retired_{};
};

} // namespace detail::os
KSM_NAMESPACE_END

#endif
