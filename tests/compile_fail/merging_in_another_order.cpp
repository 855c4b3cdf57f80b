// SPDX-License-Identifier: BSL-1.0
// expect: ksm: PageProvider needs `progress merge(space_id, page_number, page_count, frame_id)
// noexcept`
#include "complete_provider.hpp"

struct provider : complete_provider {
    ksm::progress merge(ksm::space_id, ksm::page_number, ksm::frame_id, ksm::page_count) noexcept {
        return {};
    }
};
static_assert(ksm::check_page_provider<provider>());
