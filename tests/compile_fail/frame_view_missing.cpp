// SPDX-License-Identifier: BSL-1.0
// expect: ksm: PageProvider needs `std::span<std::byte const> view(frame_id) noexcept`
#include "complete_provider.hpp"

struct provider : complete_provider {
    std::span<std::byte const> view(ksm::space_id, ksm::page_number) noexcept { return {}; }
};
static_assert(ksm::check_page_provider<provider>());
