// SPDX-License-Identifier: BSL-1.0
// expect: ksm: the optional member for zero pages is spelt `merge_zero`
#include "complete_provider.hpp"

struct provider : complete_provider {
    ksm::progress merge_zeroes(ksm::space_id, ksm::page_set) noexcept { return {}; }
};
static_assert(ksm::check_page_provider<provider>());
