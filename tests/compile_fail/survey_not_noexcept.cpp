// SPDX-License-Identifier: BSL-1.0
// expect: ksm: PageProvider needs `survey_result survey(space_id, page_number, coverage,
// std::span<page_run>) noexcept`
#include "complete_provider.hpp"

struct provider : complete_provider {
    ksm::survey_result survey(ksm::space_id, ksm::page_number, ksm::coverage,
                              std::span<ksm::page_run>) {
        return {};
    }
};
static_assert(ksm::check_page_provider<provider>());
