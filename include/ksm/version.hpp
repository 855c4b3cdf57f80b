// SPDX-License-Identifier: BSL-1.0
// The one place that states the version; CMake and Meson read it from here.
#ifndef KSM_VERSION_HPP
#define KSM_VERSION_HPP

#define KSM_VERSION_MAJOR 0
#define KSM_VERSION_MINOR 1
#define KSM_VERSION_PATCH 0

// The inline namespace keeps two versions of the library apart at link time.
#define KSM_NAMESPACE_BEGIN                                                                        \
    namespace ksm {                                                                                \
    inline namespace v0_1 {
#define KSM_NAMESPACE_END                                                                          \
    }                                                                                              \
    }

#endif
