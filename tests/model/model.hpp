// SPDX-License-Identifier: BSL-1.0
// Programs: drawing them, running them, and making a failing one small.
#ifndef KSM_TESTS_MODEL_MODEL_HPP
#define KSM_TESTS_MODEL_MODEL_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "ops.hpp"
#include "world.hpp"

namespace model {

struct failure {
    std::size_t step; ///< The operation after which it was seen.
    std::string what; ///< Begins with the invariant's number.
};

/// Performs a program in a new world. \returns The first failure.
[[nodiscard]] inline std::optional<failure> run(setup const& s, program const& p) {
    world w{s};
    for (std::size_t i = 0; i < p.size(); ++i) {
        w.step(p[i]);
        if (!w.fault().empty()) {
            return failure{i, w.fault()};
        }
    }
    return std::nullopt;
}

/// A program of at most `length` operations that ends by settling.
[[nodiscard]] inline program draw(source& numbers, setup const& s, std::size_t length) {
    program p;
    drawer d{numbers, s.pages};
    while (!numbers.empty() && p.size() + 1 < length) {
        p.push_back(d.draw());
    }
    p.push_back(settle{});
    return p;
}

/// A world of any kind, small enough that everything meets.
[[nodiscard]] inline setup draw_setup(source& numbers) {
    setup s;
    s.policy = static_cast<policy>(numbers.below(4));
    s.change_tracking = numbers.below(4) != 0;
    switch (numbers.below(12)) {
    case 0: s.page_size = 4096; break;
    case 1:
    case 2: s.page_size = 256; break;
    default: break;
    }
    // A chunk of items has 64 pages: some worlds need several.
    switch (numbers.below(16)) {
    case 0: s.pages = 256; break;
    case 1:
    case 2: s.pages = 80; break;
    default: s.pages = 4 + numbers.below(28); break;
    }
    s.batches = numbers.below(2) != 0;
    return s;
}

/// Leaves out operations, large parts first, for as long as the program still fails; then also
/// operations of the programs at seams.
[[nodiscard]] inline program minimise(program p, std::function<bool(program const&)> const& fails) {
    for (std::size_t part = p.size(); part > 0; part /= 2) {
        for (std::size_t at = 0; at < p.size();) {
            program shorter = p;
            auto const from = shorter.begin() + static_cast<std::ptrdiff_t>(at);
            auto const length = std::min(part, p.size() - at);
            shorter.erase(from, from + static_cast<std::ptrdiff_t>(length));
            if (fails(shorter)) {
                p = std::move(shorter);
            } else {
                at += part;
            }
        }
    }
    for (operation& o : p) {
        if (auto* const hook = std::get_if<at_seam>(&o.what)) {
            hook->program = minimise(hook->program, [&](program const& shorter) {
                program const longer = std::exchange(hook->program, shorter);
                bool const still = fails(p);
                hook->program = longer;
                return still;
            });
        }
    }
    return p;
}

[[nodiscard]] inline char const* name(policy p) noexcept {
    switch (p) {
    case policy::standard: return "standard";
    case policy::classic: return "classic";
    case policy::weak_standard: return "weak_standard";
    case policy::weak_classic: return "weak_classic";
    }
    return "?";
}

/// A program as a test case to be pasted into replay.test.cpp.
[[nodiscard]] inline std::string print_test_case(setup const& s, program const& p,
                                                 std::string const& title) {
    return "TEST_CASE(\"" + title +
           "\") {\n    setup const s{.page_size = " + std::to_string(s.page_size) +
           ", .pages = " + std::to_string(s.pages) + ", .policy = policy::" + name(s.policy) +
           ", .change_tracking = " + print(s.change_tracking) + ", .batches = " + print(s.batches) +
           "};\n    check_passes(s, " + print(p, "    ") + ");\n}\n";
}

} // namespace model

#endif
