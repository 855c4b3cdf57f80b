// SPDX-License-Identifier: BSL-1.0
#include <cstddef>
#include <cstring>
#include <iostream>

#include <ksm/providers/linux.hpp>
#include <ksm/scanner.hpp>

int main() {
    ksm::linux_options options;
    options.no_pinned_io = true; // a promise: no io_uring, O_DIRECT or RDMA here
    ksm::linux_provider memory{options};
    ksm::page_range const region = memory.map(ksm::page_count{1024});
    for (std::size_t i = 0; i < region.count.value(); ++i) {
        std::byte* const page = memory.address(region.first + ksm::page_count{i});
        std::memset(page, 'A' + static_cast<int>(i % 4), memory.page_size());
    }

    ksm::scanner scanner{memory};
    bool merging = scanner.enter(memory.space()) == ksm::status::ok;
    for (int pass = 0; merging && pass < 2; ++pass) { // a page must rest for a pass
        merging = scanner.scan_pass().why == ksm::status::ok;
    }

    auto const s = scanner.statistics();
    std::cout << s.pages_shared << " frames stand for " << s.pages_shared + s.pages_sharing
              << " pages: " << s.pages_sharing * memory.page_size() << " bytes saved with "
              << s.metadata_bytes + memory.usage().metadata_bytes << " bytes of metadata\n";
    return merging ? 0 : 1;
}
