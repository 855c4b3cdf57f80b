// SPDX-License-Identifier: BSL-1.0
// A refusal of the operating system.
#ifndef KSM_PROVIDERS_LINUX_OS_ERROR_HPP
#define KSM_PROVIDERS_LINUX_OS_ERROR_HPP

#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN

/// Which call of the operating system failed, and its errno. Empty: none did.
struct os_error {
    char const* call = nullptr;
    int error = 0;

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return call != nullptr; }
};

KSM_NAMESPACE_END

#endif
