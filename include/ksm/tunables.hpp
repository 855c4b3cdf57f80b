// SPDX-License-Identifier: BSL-1.0
// The knobs, under the kernel's names, with the kernel's defaults and validation (S22).
#ifndef KSM_TUNABLES_HPP
#define KSM_TUNABLES_HPP

#include <charconv>
#include <cstdint>
#include <limits>
#include <string_view>
#include <system_error>

#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN

/// Why a value was not taken.
enum class [[nodiscard]] tunable_error : std::uint8_t {
    none,
    unknown_name,
    not_a_number,
    out_of_range,
    busy,   ///< Not while pages are shared.
    failed, ///< `run` = 2 could not unmerge everything; `run` is 0 now.
};

/// What `run` says.
enum class run_state : std::uint8_t {
    stop = 0,    ///< Merged pages stay merged.
    run = 1,     ///<
    unmerge = 2, ///< Stopped, and everything unmerged.
};

/// The values in force. Changed through `scanner::tune`, which checks them.
struct tunables {
    run_state run = run_state::stop;
    std::uint32_t pages_to_scan = 100;  ///< Pages in a batch of the daemon.
    std::uint32_t sleep_millisecs = 20; ///< Pause of the daemon between batches. [ms]
    bool use_zero_pages = false;        ///< Merge zero pages into the zero page.
    bool merge_across_nodes = true;     ///< Let pages of different NUMA nodes merge.

    friend bool operator==(tunables const&, tunables const&) = default;
};

namespace detail {

/// The whole of `text` as a decimal number; one trailing newline is allowed, as in sysfs.
[[nodiscard]] inline tunable_error parse(std::string_view text, std::uint64_t& value) noexcept {
    if (text.ends_with('\n')) {
        text.remove_suffix(1);
    }
    auto const [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error == std::errc::result_out_of_range) {
        return tunable_error::out_of_range;
    }
    return error == std::errc{} && end == text.data() + text.size() ? tunable_error::none
                                                                    : tunable_error::not_a_number;
}

} // namespace detail

KSM_NAMESPACE_END

#endif
