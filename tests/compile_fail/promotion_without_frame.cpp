// SPDX-License-Identifier: BSL-1.0
// expect: ksm: PageProvider needs `promotion promote(space_id, page_number, page_count) noexcept`
#include "complete_provider.hpp"

struct provider : complete_provider {
    ksm::progress promote(ksm::space_id, ksm::page_number, ksm::page_count) noexcept { return {}; }
};
static_assert(ksm::check_page_provider<provider>());
