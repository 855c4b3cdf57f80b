// SPDX-License-Identifier: BSL-1.0
// The program of every consumer: it includes the library and merges two equal pages.
#include <ksm/ksm.hpp>

int main() {
    ksm::simulated_provider memory;
    auto const space = memory.create_space();
    memory.map(space, ksm::page_number{16}, ksm::page_count{2});

    ksm::scanner scanner{memory};
    if (scanner.enter(space) != ksm::status::ok) {
        return 1;
    }
    while (scanner.statistics().full_scans < 2) {
        if (scanner.scan_pass().why != ksm::status::ok) {
            return 1;
        }
    }
    return scanner.statistics().pages_sharing == 1 ? 0 : 1;
}
