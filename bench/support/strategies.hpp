// SPDX-License-Identifier: BSL-1.0
// The Linux provider's ways to exclude writers, by name.
#ifndef KSM_BENCH_SUPPORT_STRATEGIES_HPP
#define KSM_BENCH_SUPPORT_STRATEGIES_HPP

#include <fmt/format.h>

#include <ksm/providers/linux.hpp>

#include <cstdio>
#include <optional>
#include <string_view>
#include <vector>

#include "command_line.hpp"

namespace bench {

struct strategy {
    char const* name;
    ksm::write_exclusion value;
};

inline constexpr strategy strategies[] = {
    {"quiescent", ksm::write_exclusion::quiescent},
    {"move", ksm::write_exclusion::move},
    {"wp", ksm::write_exclusion::wp},
    {"mprotect", ksm::write_exclusion::mprotect},
};
inline constexpr char const* strategies_help = "quiescent,move,wp,mprotect; otherwise all";

/// Adds those of a list `a,b,c`. \returns Whether they are all known.
inline auto add_to(std::vector<strategy>& out) {
    return [&out](std::string_view list) {
        return for_each_word(list, [&](std::string_view word) {
            for (strategy const& s : strategies) {
                if (word == s.name) {
                    out.push_back(s);
                    return true;
                }
            }
            return false;
        });
    };
}

/// A provider with this strategy and no other. The promises are true here: nobody but the thread
/// that stores writes to a region, by stores, and it only does when the strategy lets it.
inline ksm::linux_options options_for(strategy const& s) {
    ksm::linux_options o;
    o.strategy = s.value;
    o.no_syscall_io = true;
    o.no_pinned_io = true;
    o.stable_mappings = true;
    o.mapping_share = 1;
    return o;
}

/// Those of `wanted`, or of all if it is empty, that the provider has here; says why it has not.
inline std::vector<strategy> available(std::vector<strategy> wanted, char const* program) {
    if (wanted.empty()) {
        wanted.assign(std::begin(strategies), std::end(strategies));
    }
    std::erase_if(wanted, [&](strategy const& s) {
        ksm::linux_options o = options_for(s);
        o.quiescent = s.value == ksm::write_exclusion::quiescent;
        ksm::linux_provider const provider{o};
        auto const has = provider.capabilities();
        if (has.strategy == s.value) {
            return false;
        }
        fmt::print(stderr, "{}: no {}: {}{}{}\n", program, s.name, has.reason,
                   has.refusal ? " Refused: " : "", has.refusal ? has.refusal.call : "");
        return true;
    });
    return wanted;
}

} // namespace bench

#endif
