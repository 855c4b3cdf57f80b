// SPDX-License-Identifier: BSL-1.0
// The options of a program. What --help prints is made of the same table, so it is true.
#ifndef KSM_BENCH_SUPPORT_COMMAND_LINE_HPP
#define KSM_BENCH_SUPPORT_COMMAND_LINE_HPP

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <system_error>

namespace bench {

struct option {
    char const* name;
    char const* value;                          ///< What to call it; null: there is none.
    char const* help;                           ///< With a line break where it is long.
    std::function<bool(std::string_view)> take; ///< \returns Whether the value will do.
};

/// For an option that is there or not.
inline auto set(bool& out) {
    return [&out](std::string_view) { return out = true; };
}

/// For a number of at least one.
inline auto set(std::size_t& out) {
    return [&out](std::string_view text) {
        auto const [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
        return error == std::errc{} && end == text.data() + text.size() && out > 0;
    };
}

/// Calls `take` for each word of a list `a,b,c`. \returns Whether it took all of them.
template <class Take>
bool for_each_word(std::string_view list, Take&& take) {
    for (;;) {
        std::size_t const comma = list.find(',');
        if (!take(list.substr(0, comma))) {
            return false;
        }
        if (comma == std::string_view::npos) {
            return true;
        }
        list.remove_prefix(comma + 1);
    }
}

inline void print_help(std::FILE* out, char const* program, char const* about,
                       std::span<option const> options) {
    fmt::print(out, "usage: {} [option]...\n{}\n\n", program, about);
    for (option const& o : options) {
        std::string_view const help = o.help;
        std::size_t const line = std::min(help.find('\n'), help.size());
        fmt::print(out, "  {:14} {:6} {}\n", o.name, o.value == nullptr ? "" : o.value,
                   help.substr(0, line));
        if (line != help.size()) {
            fmt::print(out, "  {:14} {:6} {}\n", "", "", help.substr(line + 1));
        }
    }
    fmt::print(out, "  {:14} {:6} {}\n", "--help", "", "this");
}

/// \returns The exit status when the program is to end: 0 after --help, 2 for what is not known.
inline std::optional<int> take_options(std::span<char* const> words, char const* program,
                                       char const* about, std::span<option const> options) {
    for (std::size_t i = 1; i < words.size(); ++i) {
        std::string_view const word = words[i];
        if (word == "--help") {
            print_help(stdout, program, about, options);
            return EXIT_SUCCESS;
        }
        bool taken = false;
        for (option const& o : options) {
            if (word == o.name) {
                bool const complete = o.value == nullptr || i + 1 < words.size();
                taken = complete && o.take(o.value == nullptr ? "" : words[++i]);
            }
        }
        if (!taken) {
            fmt::print(stderr, "{}: I do not understand {}\n", program, words[i]);
            print_help(stderr, program, about, options);
            return 2;
        }
    }
    return {};
}

} // namespace bench

#endif
