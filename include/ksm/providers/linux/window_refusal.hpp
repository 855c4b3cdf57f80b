// SPDX-License-Identifier: BSL-1.0
// Why a window could not be opened.
#ifndef KSM_PROVIDERS_LINUX_WINDOW_REFUSAL_HPP
#define KSM_PROVIDERS_LINUX_WINDOW_REFUSAL_HPP

#include <ksm/outcome.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

struct window_refusal {
    status why = status::ok;
    int error = 0;
    /// The error can only come from a fault of the provider, or from an application that closed
    /// its descriptors: the provider must not go on.
    bool disable = false;
};

} // namespace detail::os
KSM_NAMESPACE_END

#endif
