// SPDX-License-Identifier: BSL-1.0
// Linux's own KSM, through sysfs, for comparison. All of it belongs to the whole machine.
#ifndef KSM_BENCH_SUPPORT_KERNEL_KSM_HPP
#define KSM_BENCH_SUPPORT_KERNEL_KSM_HPP

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "workload.hpp"

namespace bench::kernel {

inline std::optional<std::string> read_line(std::filesystem::path const& path) {
    std::ifstream file{path};
    std::string line;
    return std::getline(file, line) ? std::optional{line} : std::nullopt;
}

/// The value of a file of sysfs; of a choice such as `[none] scan-time` the one that is chosen.
inline std::optional<std::string> get(std::string const& name) {
    auto line = read_line("/sys/kernel/mm/ksm/" + name);
    if (line && line->find('[') != std::string::npos) {
        auto const open = line->find('[');
        line = line->substr(open + 1, line->find(']') - open - 1);
    }
    return line;
}

inline bool set(std::string const& name, std::string const& value) {
    std::ofstream file{"/sys/kernel/mm/ksm/" + name};
    return static_cast<bool>(file << value << std::flush);
}

inline std::uint64_t number(std::string const& name) {
    auto const value = get(name);
    return value ? std::stoull(*value) : 0;
}

inline exact_counts counts() {
    return {number("pages_shared"), number("pages_sharing"), number("ksm_zero_pages")};
}

/// Unmerges everything; `full_scans` starts anew. \returns Whether nothing is shared any more.
inline bool unmerge_all() {
    if (!set("run", "2")) {
        return false;
    }
    for (int i = 0; i < 1000 && counts() != exact_counts{}; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds{10});
    }
    return counts() == exact_counts{};
}

/// The CPU time that the kernel's thread has taken, and the thread.
class thread {
  public:
    /// \returns Nothing when the kernel has no such thread, or does not count its time.
    [[nodiscard]] static std::optional<thread> find() {
        std::error_code ignored;
        for (auto const& entry : std::filesystem::directory_iterator{"/proc", ignored}) {
            if (read_line(entry.path() / "comm") == "ksmd") {
                thread t{entry.path() / "schedstat"};
                return t.has_time() ? std::optional{t} : std::nullopt;
            }
        }
        return std::nullopt;
    }

    [[nodiscard]] std::chrono::nanoseconds cpu_time() const {
        auto const line = read_line(schedstat_);
        return std::chrono::nanoseconds{line ? std::stoll(*line) : 0};
    }

  private:
    explicit thread(std::filesystem::path schedstat) : schedstat_(std::move(schedstat)) {}
    [[nodiscard]] bool has_time() const { return read_line(schedstat_).has_value(); }

    std::filesystem::path schedstat_;
};

/// What the programs here set. What was set before is there again afterwards, and whoever uses
/// this class meanwhile in another process waits for nothing: it is refused.
class settings {
  public:
    using list = std::initializer_list<std::pair<char const*, char const*>>;

    /// \param wanted  In the order in which they can be restored from the last to the first:
    ///                nothing is shared when max_page_sharing is set, and the advisor, when it is
    ///                on, does not let pages_to_scan be set.
    explicit settings(list wanted) {
        fd_ = ::open("/sys/kernel/mm/ksm/run", O_RDONLY | O_CLOEXEC);
        if (::geteuid() != 0 || fd_ < 0 || !get("run") || !thread::find()) {
            why_not_ = "the kernel's KSM needs root and a kernel that has it";
        } else if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
            why_not_ = "another benchmark uses the kernel's KSM";
        } else if (counts() != exact_counts{}) {
            why_not_ = "the kernel's KSM is in use, and its counts are the whole machine's";
        } else {
            run_ = get("run");
            bool taken = unmerge_all();
            for (auto const& [name, value] : wanted) {
                if (auto const before = get(name)) { // older kernels do not have all of them
                    saved_.emplace_back(name, *before);
                    taken = set(name, value) && taken;
                }
            }
            why_not_ = taken ? nullptr : "the kernel's KSM does not take the settings";
        }
    }
    ~settings() {
        (void)restore();
        if (fd_ >= 0) {
            ::close(fd_); // and the lock is free
        }
    }
    settings(settings const&) = delete;
    settings& operator=(settings const&) = delete;

    /// Null when they are in force.
    [[nodiscard]] char const* why_not() const { return why_not_; }

    /// \returns Whether everything is as it was.
    [[nodiscard]] bool restore() {
        if (!run_) {
            return true;
        }
        bool all = unmerge_all();
        while (!saved_.empty()) {
            all = set(saved_.back().first, saved_.back().second) && all;
            saved_.pop_back();
        }
        return set("run", *std::exchange(run_, std::nullopt)) && all;
    }

  private:
    int fd_ = -1;
    char const* why_not_ = nullptr;
    std::optional<std::string> run_; ///< Nothing: there is nothing to restore.
    std::vector<std::pair<std::string, std::string>> saved_;
};

/// The kernel looks at every page of every pass, whole passes at a time, and is told when.
inline constexpr settings::list whole_passes{
    {"advisor_mode", "none"},        {"smart_scan", "0"},
    {"sleep_millisecs", "100000"},   {"pages_to_scan", "1000000000"},
    {"max_page_sharing", "1000000"}, {"use_zero_pages", "0"}};

/// One whole pass under `whole_passes`: the end of a pass ends a batch, and this stops the thread
/// before the next. \returns Whether it came to its end.
inline bool pass(std::chrono::seconds patience) {
    auto const deadline = std::chrono::steady_clock::now() + patience;
    std::uint64_t const before = number("full_scans");
    // Another pause ends the one that the thread may still be in after the previous pass.
    bool const started =
        set("sleep_millisecs", get("sleep_millisecs") == "100000" ? "100001" : "100000") &&
        set("run", "1");
    while (started && number("full_scans") == before &&
           std::chrono::steady_clock::now() < deadline) {
        std::this_thread::sleep_for(std::chrono::microseconds{100});
    }
    return set("run", "0") && number("full_scans") == before + 1;
}

} // namespace bench::kernel

#endif
