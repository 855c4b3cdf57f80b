// SPDX-License-Identifier: BSL-1.0
// Counts the provider's calls of one system call, and has some fail.
#ifndef KSM_TESTS_INTEGRATION_LINUX_WATCHING_HPP
#define KSM_TESTS_INTEGRATION_LINUX_WATCHING_HPP

#include <ksm/providers/linux/sys.hpp>

namespace linux_test {

struct watched_call {
    ksm::detail::os::call which{};
    int error = 0;
    int fails_from = 1; ///< The first call that fails.
    int seen = 0;
};
inline watched_call watched;

inline int watch(ksm::detail::os::call c) noexcept {
    if (c != watched.which) {
        return 0;
    }
    ++watched.seen;
    return watched.seen >= watched.fails_from ? watched.error : 0;
}

/// Counts one call, and has it fail if there is an error, while it lives.
class watching {
  public:
    explicit watching(ksm::detail::os::call which, int error = 0, int fails_from = 1) {
        watched = {which, error, fails_from, 0};
        ksm::detail::os::fault_hook.store(&watch);
    }
    ~watching() { ksm::detail::os::fault_hook.store(nullptr); }
    watching(watching const&) = delete;
    watching& operator=(watching const&) = delete;
};

} // namespace linux_test

#endif
