// SPDX-License-Identifier: BSL-1.0
// Built without exceptions and RTTI: every header of the library compiles, and a scan merges.
#include <cstddef>
#include <cstdio>
#include <span>

#include <ksm/daemon.hpp>
#include <ksm/detail/invariants.hpp>
#include <ksm/ksm.hpp>
#include <ksm/memory_resource.hpp>
#include <ksm/providers/faulty.hpp>
#include <ksm/providers/tracing.hpp>
#ifdef __linux__
#include <ksm/providers/linux.hpp>
#endif

namespace {

int failures = 0;

void check(bool condition, char const* what) {
    if (!condition) {
        std::fprintf(stderr, "failed: %s\n", what);
        ++failures;
    }
}

template <class Policy>
void scan_three_pages() {
    ksm::simulated_provider memory;
    ksm::memory_resource metadata;
    auto const space = memory.create_space();
    ksm::page_number const first{16};
    memory.map(space, first, ksm::page_count{3});
    auto const write = [&](std::size_t page, std::byte value) {
        return memory.write(space, first + ksm::page_count{page}, 0, std::span{&value, 1});
    };
    check(write(0, std::byte{1}) && write(1, std::byte{1}) && write(2, std::byte{2}),
          "three pages are written, two of them alike");

    ksm::scanner<ksm::simulated_provider, Policy> scanner{memory, &metadata};
    check(scanner.enter(space) == ksm::status::ok, "the space enters");
    for (int pass = 0; pass < 3; ++pass) {
        check(scanner.scan_pass().why == ksm::status::ok, "a pass finds what it needs");
    }
    check(scanner.statistics().pages_shared == 1, "one frame is shared");
    check(scanner.statistics().pages_sharing == 1, "by one further page");
    check(memory.frame_of(space, first) == memory.frame_of(space, first + ksm::page_count{1}),
          "the equal pages map one frame");
    check(memory.is_private(space, first + ksm::page_count{2}), "the other page stays private");

    check(write(1, std::byte{3}), "a merged page is written");
    check(memory.read(space, first)[0] == std::byte{1}, "its sharer does not see that");
    check(memory.verify().empty(), "the simulated machine is in order");
}

} // namespace

int main() {
    scan_three_pages<ksm::standard_policy>();
    scan_three_pages<ksm::classic_policy>();
    return failures == 0 ? 0 : 1;
}
