// SPDX-License-Identifier: BSL-1.0
// How many pages could be saved, counted without the library: what it is measured by.
#ifndef KSM_EXAMPLES_DUPLICATES_HPP
#define KSM_EXAMPLES_DUPLICATES_HPP

#include <algorithm>
#include <cstddef>
#include <span>
#include <string_view>
#include <unordered_map>

namespace examples {

/// For each content that n pages have: n - 1 of them, or all n if it is zeros, because those need
/// no frame of their own. Exact: pages are equal when their bytes are.
[[nodiscard]] inline std::size_t count_duplicates(std::span<std::byte const> memory,
                                                  std::size_t page_size) {
    std::unordered_map<std::string_view, std::size_t> copies;
    auto const* const text = reinterpret_cast<char const*>(memory.data());
    for (std::size_t at = 0; at < memory.size(); at += page_size) {
        ++copies[{text + at, page_size}];
    }
    std::size_t duplicates = 0;
    for (auto const& [content, n] : copies) {
        bool const zeros = std::ranges::all_of(content, [](char c) { return c == '\0'; });
        duplicates += zeros ? n : n - 1;
    }
    return duplicates;
}

} // namespace examples

#endif
