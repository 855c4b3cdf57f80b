// SPDX-License-Identifier: BSL-1.0
// expect: nothing
#include "complete_provider.hpp"

using provider = complete_provider;
static_assert(ksm::check_page_provider<provider>());
