// SPDX-License-Identifier: BSL-1.0
// With b.cpp in every test program: two translation units that include the whole library, so that
// a definition which forgot its `inline` does not link.
#include <ksm/ksm.hpp>
