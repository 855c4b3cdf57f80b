// SPDX-License-Identifier: BSL-1.0
// Catch2, version 2 or 3.
#ifndef KSM_TESTS_SUPPORT_CATCH_HPP
#define KSM_TESTS_SUPPORT_CATCH_HPP

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif

#endif
