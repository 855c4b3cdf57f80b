// SPDX-License-Identifier: BSL-1.0
// How long a soak test lasts, and where its totals go: both by the environment, so that tests are
// short and quiet unless somebody asks.
#ifndef KSM_TESTS_INTEGRATION_TORTURE_REPORT_HPP
#define KSM_TESTS_INTEGRATION_TORTURE_REPORT_HPP

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace torture {

/// KSM_SOAK_SECONDS; 5 if it is not set.
inline unsigned soak_seconds() {
    char const* const text = std::getenv("KSM_SOAK_SECONDS");
    unsigned long const n = text == nullptr ? 0 : std::strtoul(text, nullptr, 10);
    return n == 0 ? 5 : static_cast<unsigned>(std::min(n, 86400UL));
}

/// Appends a line to the file that KSM_SOAK_REPORT names.
inline void report(std::string const& line) {
    if (char const* const path = std::getenv("KSM_SOAK_REPORT")) {
        if (std::FILE* const f = std::fopen(path, "a")) {
            std::fprintf(f, "%s\n", line.c_str());
            std::fclose(f);
        }
    }
}

} // namespace torture

#endif
