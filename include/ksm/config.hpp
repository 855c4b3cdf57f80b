// SPDX-License-Identifier: BSL-1.0
// What a user may override before the first include, and what the compiler must offer.
#ifndef KSM_CONFIG_HPP
#define KSM_CONFIG_HPP

#if (defined(_MSVC_LANG) ? _MSVC_LANG : __cplusplus) < 202002L
#error "ksm needs C++20: compile with -std=c++20"
#endif

// A broken contract of the caller. Define KSM_ASSERT(condition, message) to route it elsewhere.
#ifndef KSM_ASSERT
#include <cassert>
#define KSM_ASSERT(condition, message) assert((condition) && (message))
#endif

#ifdef __cpp_exceptions
#define KSM_HAS_EXCEPTIONS 1
#else
#define KSM_HAS_EXCEPTIONS 0
#endif

#endif
