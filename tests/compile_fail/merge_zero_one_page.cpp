// SPDX-License-Identifier: BSL-1.0
// expect: ksm: merge_zero is optional, but when present it must be `progress merge_zero(space_id,
// page_set) noexcept`
#include "complete_provider.hpp"

struct provider : complete_provider {
    ksm::progress merge_zero(ksm::space_id, ksm::page_number) noexcept { return {}; }
};
static_assert(ksm::check_page_provider<provider>());
