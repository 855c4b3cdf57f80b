// SPDX-License-Identifier: BSL-1.0
// expect: ksm: PageProvider needs `void release(frame_id, page_count) noexcept`
#include "complete_provider.hpp"

struct provider : complete_provider {
    ksm::status release(ksm::frame_id, ksm::page_count) noexcept { return ksm::status::ok; }
};
static_assert(ksm::check_page_provider<provider>());
