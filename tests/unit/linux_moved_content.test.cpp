// SPDX-License-Identifier: BSL-1.0
// Pages that were moved are read where they are, or copied by the kernel.
#include <cerrno>
#include <cstddef>
#include <cstring>

#include <ksm/providers/linux/moved_content.hpp>

#include "support/catch.hpp"

using namespace ksm::detail::os;

namespace {

std::byte* two_pages(scratch_memory& m, std::size_t page) {
    std::byte* const at = m.get(page);
    REQUIRE(at != nullptr);
    std::memset(at, 1, page);
    std::memset(at + page, 2, page);
    return at;
}

int refuse_to_copy(call c) noexcept { return c == call::process_vm_readv ? EPERM : 0; }

} // namespace

TEST_CASE("moved pages are read in place unless copies are preferred") {
    std::size_t const page = page_bytes();
    scratch_memory memory;
    std::byte* const at = two_pages(memory, page);
    moved_content content;
    CHECK(content.of(at, 2, page) == at);
    content.prefer_copies(true, page);
    std::byte const* const copy = content.of(at, 2, page);
    CHECK(copy != at);
    CHECK(std::memcmp(copy, at, 2 * page) == 0);
    content.rest();
    CHECK(std::memcmp(content.of(at + page, 1, page), at + page, page) == 0);
}

TEST_CASE("moved pages are read in place where the kernel refuses to copy them") {
    std::size_t const page = page_bytes();
    scratch_memory memory;
    std::byte* const at = two_pages(memory, page);
    moved_content content;
    content.prefer_copies(true, page);
    fault_hook.store(&refuse_to_copy);
    std::byte const* const where = content.of(at, 2, page);
    fault_hook.store(nullptr);
    CHECK(where == at);
}
