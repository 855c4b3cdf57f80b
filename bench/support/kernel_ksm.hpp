// SPDX-License-Identifier: BSL-1.0
// Linux's own KSM, through sysfs, for comparison. All of it belongs to the whole machine.
#ifndef KSM_BENCH_SUPPORT_KERNEL_KSM_HPP
#define KSM_BENCH_SUPPORT_KERNEL_KSM_HPP

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

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

/// Settings under which the kernel looks at every page of every pass, as fast as it can. What was
/// set before is there again afterwards.
class settings {
  public:
    settings() {
        // In the order in which they can be restored: nothing is shared when max_page_sharing is
        // set, and the advisor, when it is on, does not let pages_to_scan be set.
        for (auto const& [name, value] : std::initializer_list<std::pair<char const*, char const*>>{
                 {"advisor_mode", "none"},
                 {"smart_scan", "0"},
                 {"sleep_millisecs", "0"},
                 {"pages_to_scan", "10000"},
                 {"max_page_sharing", "1000000"},
                 {"use_zero_pages", "0"}}) {
            if (auto const before = get(name)) { // older kernels do not have all of them
                saved_.emplace_back(name, *before);
                ok_ = set(name, value) && ok_;
            }
        }
    }
    ~settings() { (void)restore(); }
    settings(settings const&) = delete;
    settings& operator=(settings const&) = delete;

    [[nodiscard]] bool in_force() const { return ok_; }

    /// \returns Whether everything is as it was.
    [[nodiscard]] bool restore() {
        bool all = saved_.empty() || unmerge_all();
        while (!saved_.empty()) {
            all = set(saved_.back().first, saved_.back().second) && all;
            saved_.pop_back();
        }
        return set("run", run_) && all;
    }

  private:
    std::string run_ = get("run").value_or("0");
    std::vector<std::pair<std::string, std::string>> saved_;
    bool ok_ = unmerge_all();
};

} // namespace bench::kernel

#endif
