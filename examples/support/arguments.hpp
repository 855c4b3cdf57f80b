// SPDX-License-Identifier: BSL-1.0
// A command line of flags, numbers and names of files.
#ifndef KSM_EXAMPLES_ARGUMENTS_HPP
#define KSM_EXAMPLES_ARGUMENTS_HPP

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>

namespace examples {

/// The caller's mistake, in words for the caller.
struct usage_error : std::runtime_error {
    using runtime_error::runtime_error;
};

class arguments {
  public:
    void flag(std::string_view name, bool& value) { flags_[name] = &value; }
    void number(std::string_view name, std::uint64_t& value, std::uint64_t least,
                std::uint64_t most) {
        numbers_[name] = {&value, least, most};
    }

    /// Takes `--name`, `--name N` and `--name=N`; what follows `--` is no option.
    /// \returns The other arguments. \throws usage_error
    std::vector<std::filesystem::path> parse(std::span<char const* const> words) {
        std::vector<std::filesystem::path> others;
        bool options = true;
        for (std::size_t i = 0; i < words.size(); ++i) {
            std::string_view const word = words[i];
            std::string_view const name = word.substr(0, word.find('='));
            if (!options || !word.starts_with('-')) {
                others.emplace_back(word);
            } else if (word == "--") {
                options = false;
            } else if (auto const f = flags_.find(word); f != flags_.end()) {
                *f->second = true;
            } else if (auto const n = numbers_.find(name); n != numbers_.end()) {
                if (name.size() == word.size() && ++i == words.size()) {
                    throw usage_error(fmt::format("{} needs a number", name));
                }
                read(*n, name.size() == word.size() ? words[i] : word.substr(name.size() + 1));
            } else {
                throw usage_error(fmt::format("unknown option {}", word));
            }
        }
        return others;
    }

  private:
    struct bounded {
        std::uint64_t* value;
        std::uint64_t least;
        std::uint64_t most;
    };

    static void read(std::pair<std::string_view const, bounded> const& option,
                     std::string_view text) {
        auto const& [value, least, most] = option.second;
        auto const [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
        if (error != std::errc{} || end != text.data() + text.size() || *value < least ||
            *value > most) {
            throw usage_error(fmt::format("{} takes a number from {} to {}, not \"{}\"",
                                          option.first, least, most, text));
        }
    }

    std::map<std::string_view, bool*> flags_;
    std::map<std::string_view, bounded> numbers_;
};

} // namespace examples

#endif
