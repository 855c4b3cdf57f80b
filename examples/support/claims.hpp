// SPDX-License-Identifier: BSL-1.0
// What a program says it does, and whether it did.
#ifndef KSM_EXAMPLES_CLAIMS_HPP
#define KSM_EXAMPLES_CLAIMS_HPP

#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

namespace examples {

class claims {
  public:
    /// \param fault  What was found instead; empty if the claim holds.
    void add(std::string claim, std::string fault) {
        claims_.emplace_back(std::move(claim), std::move(fault));
    }
    void add(std::string claim, bool holds, std::string found) {
        add(std::move(claim), holds ? "" : std::move(found));
    }

    [[nodiscard]] bool hold() const {
        return std::ranges::all_of(claims_, [](auto const& c) { return c.second.empty(); });
    }

    /// Lists the claims that hold.
    void print() const {
        for (auto const& [claim, fault] : claims_) {
            if (fault.empty()) {
                fmt::print("  ok  {}\n", claim);
            }
        }
    }
    /// Lists the others on standard error.
    void print_faults(char const* program) const {
        std::fflush(stdout);
        for (auto const& [claim, fault] : claims_) {
            if (!fault.empty()) {
                fmt::print(stderr, "{}: FAILED: {}: {}\n", program, claim, fault);
            }
        }
    }

  private:
    std::vector<std::pair<std::string, std::string>> claims_;
};

} // namespace examples

#endif
