// SPDX-License-Identifier: BSL-1.0
// Our vocabulary as text, through fmt and, where the library has it, std::format. A format
// specification is that of the number or the string behind the type: "{:>6}", "{:#x}".
#ifndef KSM_FORMAT_HPP
#define KSM_FORMAT_HPP

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <version>

#ifdef __cpp_lib_format
#include <format>
#endif
#if __has_include(<fmt/format.h>)
#include <fmt/format.h>
#endif

#include <ksm/outcome.hpp>
#include <ksm/page_provider.hpp>
#include <ksm/types.hpp>

KSM_NAMESPACE_BEGIN
namespace detail {

// What is printed for a value. No other type converts to one of these parameters.
[[nodiscard]] constexpr std::string_view printed(status s) noexcept { return name(s); }
[[nodiscard]] constexpr std::size_t printed(page_count n) noexcept { return n.value(); }
[[nodiscard]] constexpr std::uint64_t printed(page_number p) noexcept { return p.value(); }
[[nodiscard]] constexpr std::uint64_t printed(frame_id f) noexcept { return f.value(); }
[[nodiscard]] constexpr std::string_view printed(page_state s) noexcept {
    switch (s) {
    case page_state::unknown: return "unknown";
    case page_state::written: return "written";
    case page_state::merged: return "merged";
    case page_state::zero: return "zero";
    case page_state::gone: return "gone";
    }
    return "?";
}

template <class T>
using printed_type = decltype(detail::printed(std::declval<T const&>()));

template <class T>
concept printable = requires { typename printed_type<T>; };

} // namespace detail
KSM_NAMESPACE_END

#if __has_include(<fmt/format.h>)
template <ksm::detail::printable T>
struct fmt::formatter<T> : fmt::formatter<ksm::detail::printed_type<T>> {
    template <class Context>
    auto format(T const& value, Context& context) const {
        return fmt::formatter<ksm::detail::printed_type<T>>::format(ksm::detail::printed(value),
                                                                    context);
    }
};
#endif

#ifdef __cpp_lib_format
template <ksm::detail::printable T>
struct std::formatter<T> : std::formatter<ksm::detail::printed_type<T>> {
    template <class Context>
    auto format(T const& value, Context& context) const {
        return std::formatter<ksm::detail::printed_type<T>>::format(ksm::detail::printed(value),
                                                                    context);
    }
};
#endif

#endif
