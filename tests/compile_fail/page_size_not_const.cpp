// SPDX-License-Identifier: BSL-1.0
// expect: ksm: PageProvider needs `std::size_t page_size() const noexcept`
#include "complete_provider.hpp"

struct provider : complete_provider {
    std::size_t page_size() noexcept { return 4096; }
};
static_assert(ksm::check_page_provider<provider>());
