// SPDX-License-Identifier: BSL-1.0
// Whether memory may become a region: /proc/self/smaps says what it is. A merged page is another
// mapping, which has none of the attributes that the old one may have had; so memory with any but
// the usual ones is refused.
#ifndef KSM_PROVIDERS_LINUX_VM_FLAGS_HPP
#define KSM_PROVIDERS_LINUX_VM_FLAGS_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include <ksm/providers/linux/region_error.hpp>
#include <ksm/providers/linux/syscalls.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

/// Lines of a file of /proc, without a heap. Longer lines than the buffer are cut.
class line_reader {
  public:
    explicit line_reader(int fd) noexcept : fd_(fd) {}

    /// False at the end, or when the file cannot be read any further: see `error`.
    [[nodiscard]] bool next(std::string_view& line) noexcept {
        std::size_t n = 0;
        for (;;) {
            if (at_ == filled_) {
                ssize_t const got = sys::read(fd_, block_, sizeof block_);
                at_ = 0;
                filled_ = got > 0 ? static_cast<std::size_t>(got) : 0;
                error_ = got < 0 ? errno : 0;
                if (filled_ == 0) {
                    return false;
                }
            }
            char const c = block_[at_++];
            if (c == '\n') {
                line = {line_, n};
                return true;
            }
            if (n < sizeof line_) {
                line_[n++] = c;
            }
        }
    }

    [[nodiscard]] int error() const noexcept { return error_; }

  private:
    int fd_;
    int error_ = 0;
    std::size_t at_ = 0;
    std::size_t filled_ = 0;
    char line_[256];
    char block_[4096];
};

/// Takes the next word off the front of `text`.
[[nodiscard]] inline std::string_view word(std::string_view& text) noexcept {
    text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
    std::string_view const w = text.substr(0, text.find(' '));
    text.remove_prefix(w.size());
    return w;
}
[[nodiscard]] inline std::uintptr_t hexadecimal(std::string_view text) noexcept {
    std::uintptr_t value = 0;
    for (char const c : text) {
        value = value * 16 + static_cast<std::uintptr_t>(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    return value;
}

[[nodiscard]] inline region_fault judge_flags(std::string_view flags, bool& noreserve) noexcept {
    noreserve = false;
    auto fault = region_fault::none;
    auto const complain = [&](region_fault f) { fault = fault == region_fault::none ? f : fault; };
    bool readable = false;
    bool writable = false;
    for (std::string_view f = word(flags); !f.empty(); f = word(flags)) {
        if (f == "rd") {
            readable = true;
        } else if (f == "wr") {
            writable = true;
        } else if (f == "nr") {
            noreserve = true;
        } else if (f == "gd") {
            complain(region_fault::stack);
        } else if (f == "lo" || f == "lf") {
            complain(region_fault::locked);
        } else if (f == "ht" || f == "hg") {
            complain(region_fault::huge);
        } else if (f == "sh" || f == "ms") {
            complain(region_fault::shared);
        } else if (f == "ex") {
            complain(region_fault::not_read_write);
        } else if (f != "mr" && f != "mw" && f != "me" && f != "ac" && f != "sd") {
            complain(region_fault::special);
        }
    }
    return readable && writable ? fault : region_fault::not_read_write;
}

/// Where one of the kernel's mappings begins and ends.
struct extent {
    std::uintptr_t begin = 0;
    std::uintptr_t end = 0;
};
/// The mapping that holds the address; empty if there is none, or the kernel does not tell.
[[nodiscard]] inline extent mapping_at(std::uintptr_t address) noexcept {
    extent found;
    int const fd = sys::open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return found;
    }
    line_reader lines{fd};
    for (std::string_view line; found.end <= address && lines.next(line);) {
        std::string_view const range = word(line);
        std::size_t const dash = std::min(range.find('-'), range.size() - 1);
        found = {hexadecimal(range.substr(0, dash)), hexadecimal(range.substr(dash + 1))};
    }
    sys::close(fd);
    return found.begin <= address && address < found.end ? found : extent{};
}

struct memory_kind {
    region_error error;
    bool noreserve = false;
};

/// \requires `begin < end`.
[[nodiscard]] inline memory_kind examine_memory(std::uintptr_t begin, std::uintptr_t end) noexcept {
    int const fd = sys::open("/proc/self/smaps", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return {{region_fault::refused, {"open(/proc/self/smaps)", errno}}};
    }
    line_reader lines{fd};
    memory_kind kind;
    std::uintptr_t covered = begin;
    bool inside = false; // the lines are those of a mapping that overlaps the range
    bool first = true;
    auto fault = region_fault::none;
    for (std::string_view line; fault == region_fault::none && lines.next(line);) {
        bool const header = !line.empty() && (line[0] < 'A' || line[0] > 'Z');
        if (header) {
            if (covered >= end) {
                break;
            }
            std::string_view const range = word(line);
            std::size_t const dash = std::min(range.find('-'), range.size() - 1);
            std::uintptr_t const from = hexadecimal(range.substr(0, dash));
            std::uintptr_t const to = hexadecimal(range.substr(dash + 1));
            inside = from < end && to > begin;
            if (!inside) {
                continue;
            }
            std::string_view const permissions = word(line);
            static_cast<void>(word(line)); // offset
            static_cast<void>(word(line)); // device
            std::string_view const inode = word(line);
            std::string_view const path = word(line);
            if (from > covered) {
                fault = region_fault::unmapped;
            } else if (permissions.size() == 4 && permissions[3] == 's') {
                fault = region_fault::shared;
            } else if (path.substr(0, 6) == "[stack") {
                fault = region_fault::stack;
            } else if (inode != "0") {
                fault = region_fault::file_backed;
            }
            covered = to;
        } else if (inside && line.substr(0, 8) == "VmFlags:") {
            bool noreserve = false;
            fault = judge_flags(line.substr(8), noreserve);
            if (fault == region_fault::none && !first && noreserve != kind.noreserve) {
                fault = region_fault::mixed;
            }
            kind.noreserve = noreserve;
            first = false;
            inside = false;
        }
    }
    sys::close(fd);
    if (lines.error() != 0) {
        return {{region_fault::refused, {"read(/proc/self/smaps)", lines.error()}}};
    }
    if (fault == region_fault::none && covered < end) {
        fault = region_fault::unmapped;
    } else if (fault == region_fault::none && first) {
        fault = region_fault::special; // a kernel that does not tell
    }
    kind.error.what = fault;
    return kind;
}

} // namespace detail::os
KSM_NAMESPACE_END

#endif
