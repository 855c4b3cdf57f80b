// SPDX-License-Identifier: BSL-1.0
// See a.cpp.
#include <ksm/ksm.hpp>
