// SPDX-License-Identifier: BSL-1.0
#include <limits>
#include <memory>
#include <string>
#include <sys/resource.h>
#include <thread>

#include <sys/syscall.h>

#include "linux_support.hpp"

using namespace linux_test;

namespace {

constexpr int rw = PROT_READ | PROT_WRITE;

std::byte* anonymous(std::size_t bytes, int protection = rw, int flags = MAP_PRIVATE) {
    void* const p = ::mmap(nullptr, bytes, protection, flags | MAP_ANONYMOUS, -1, 0);
    REQUIRE(p != MAP_FAILED);
    return static_cast<std::byte*>(p);
}

/// Refused for this reason, with nothing changed.
void refuses(linux_provider& p, void* at, std::size_t bytes, region_fault why) {
    page_range out{page_number{42}, page_count{43}};
    page_range const before = out;
    std::size_t const regions = p.usage().regions;
    region_error const e = p.try_adopt(at, bytes, out);
    CAPTURE(at, bytes);
    CHECK(message(e.what) == std::string{message(why)});
    CHECK(out == before);
    CHECK(p.usage().regions == regions);
    CHECK_THROWS_AS(static_cast<void>(p.adopt(at, bytes)), std::system_error);
}

} // namespace

TEST_CASE("memory that is not fit to be a region is refused with the reason", "[linux]") {
    linux_provider p{quiescent()};
    std::size_t const page = p.page_size();
    std::byte* const good = anonymous(8 * page);

    refuses(p, good, 0, region_fault::empty);
    refuses(p, good + 1, page, region_fault::unaligned);
    refuses(p, good, page + 1, region_fault::unaligned);
    refuses(p, reinterpret_cast<void*>(~std::uintptr_t{0} - page + 1), 2 * page,
            region_fault::unmapped);

    std::byte* const hole = anonymous(8 * page);
    ::munmap(hole + 3 * page, page);
    refuses(p, hole, 8 * page, region_fault::unmapped);
    refuses(p, hole + 3 * page, page, region_fault::unmapped);

    refuses(p, anonymous(page, PROT_READ), page, region_fault::not_read_write);
    refuses(p, anonymous(page, PROT_NONE), page, region_fault::not_read_write);
    refuses(p, anonymous(page, rw | PROT_EXEC), page, region_fault::not_read_write);
    refuses(p, anonymous(page, rw, MAP_SHARED), page, region_fault::shared);

    int const fd = ::memfd_create("test", MFD_CLOEXEC);
    REQUIRE(::ftruncate(fd, static_cast<off_t>(page)) == 0);
    refuses(p, ::mmap(nullptr, page, rw, MAP_PRIVATE, fd, 0), page, region_fault::file_backed);
    refuses(p, ::mmap(nullptr, page, rw, MAP_SHARED, fd, 0), page, region_fault::shared);
    ::close(fd);

    std::byte* const huge = anonymous(4 << 20);
    if (::madvise(huge, 4 << 20, MADV_HUGEPAGE) == 0) {
        refuses(p, huge, page, region_fault::huge);
    }
    std::byte* const locked = anonymous(page);
    // The sanitizers make mlock and mlockall do nothing.
    REQUIRE(::syscall(SYS_mlock, locked, page) == 0);
    refuses(p, locked, page, region_fault::locked);
    std::byte* const special = anonymous(page);
    REQUIRE(::madvise(special, page, MADV_DONTFORK) == 0);
    refuses(p, special, page, region_fault::special);

    std::byte* const mixed = anonymous(4 * page);
    REQUIRE(::mmap(mixed + page, page, rw, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
                   -1, 0) != MAP_FAILED);
    // Where overcommit is forbidden the kernel ignores MAP_NORESERVE.
    if (detail::os::number_in_file("/proc/sys/vm/overcommit_memory", 0) != 2) {
        refuses(p, mixed, 4 * page, region_fault::mixed);
    }

    // Not the address of a variable: a sanitizer keeps those elsewhere.
    auto const stack = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0)) / page * page;
    refuses(p, reinterpret_cast<void*>(stack), page, region_fault::stack);
    std::thread{[&] {
        auto const own = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0)) / page * page;
        refuses(p, reinterpret_cast<void*>(own - 15 * page), 16 * page, region_fault::stack);
    }}.join();

    page_range const range = p.adopt(good + page, 4 * page);
    CHECK(range == page_range{p.page_of(good + page), page_count{4}});
    refuses(p, good, 8 * page, region_fault::overlapping);
    refuses(p, good + 4 * page, page, region_fault::overlapping);
    CHECK_FALSE(p.try_release(range));
    CHECK(p.usage().regions == 0);
    CHECK(p.usage().region_pages == 0);
}

TEST_CASE("mlockall(MCL_FUTURE) is noticed before memory is taken", "[linux]") {
    CHECK(in_child([] {
              linux_provider p{quiescent()};
              std::byte* const at = static_cast<std::byte*>(
                  ::mmap(nullptr, p.page_size(), rw, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
              if (::syscall(SYS_mlockall, MCL_FUTURE) != 0) {
                  return 77;
              }
              page_range out;
              return p.try_adopt(at, p.page_size(), out).what == region_fault::locked ? 0 : 1;
          }) % 77 ==
          0);
}

TEST_CASE("the operations answer gone outside of the regions", "[linux]") {
    linux_provider p{quiescent()};
    memory m{p, 4};
    m.fill(3, 1);
    CHECK(p.view(p.space(), m.page(4)).empty());
    CHECK(p.view(space_id{9}, m.page(0)).empty());
    CHECK(p.promote(p.space(), m.page(4), pages(1)).made.why == status::gone);
    promotion const f = p.promote(p.space(), m.page(3), pages(2));
    CHECK(f.made.done == pages(1));
    CHECK(f.made.why == status::gone);
    CHECK(p.merge(p.space(), m.page(4), pages(1), f.first).why == status::gone);
    CHECK(p.merge_zero(p.space(), page_set::run(m.page(4), pages(1))).why == status::gone);
    CHECK(p.unmerge(p.space(), m.page(4), pages(1)).why == status::gone);
    CHECK(p.merge(space_id{9}, m.page(3), pages(1), f.first).why == status::gone);
}

TEST_CASE("a part of a region can be released, private and whole", "[linux]") {
    linux_options options = GENERATE(quiescent(), by_mprotect());
    linux_provider p{options};
    memory m{p, 64};
    for (std::size_t i = 0; i < 64; ++i) {
        m.fill(i, i);
    }
    REQUIRE(p.promote(p.space(), m.page(0), pages(64)).made.done == pages(64));
    m.at(20)[0] = std::byte{99}; // broken
    CHECK(look(p, m.page(20)).state == page_state::written);
    p.release(page_range{m.page(10), pages(20)});
    CHECK(p.usage().regions == 2);
    CHECK(p.usage().region_pages == 44);
    CHECK(p.view(p.space(), m.page(10)).empty());
    CHECK(look(p, m.page(9)).state == page_state::merged);
    CHECK(look(p, m.page(30)).state == page_state::merged);
    for (std::size_t i = 10; i < 30; ++i) {
        CHECK(is_private(p, m.page(i)));
        CHECK((i == 20 || m.holds(i, i)));
    }
    CHECK(m.at(20)[0] == std::byte{99});
    ::madvise(m.at(10), 20 * p.page_size(), MADV_DONTNEED);
    CHECK(m.zero(20));
    CHECK(m.zero(15));
    CHECK(p.try_release(page_range{m.page(5), pages(10)}).what == region_fault::not_a_region);
    CHECK(p.usage().region_pages == 44);
    CHECK_FALSE(p.try_release(page_range{m.page(0), pages(10)}));
    CHECK_FALSE(p.try_release(page_range{m.page(30), pages(34)}));
    CHECK(p.usage().regions == 0);
    CHECK(p.usage().mappings_used == 2); // the arena and the canary
}

TEST_CASE("what a provider leaves merged outlives it", "[linux]") {
    page_range range;
    auto p = std::make_unique<linux_provider>(quiescent());
    std::size_t const page = p->page_size();
    std::byte* const at = anonymous(4 * page);
    std::memset(at, 5, 4 * page);
    range = p->adopt(at, 4 * page);
    REQUIRE(p->promote(p->space(), range.first, pages(1)).made.why == status::ok);
    REQUIRE(p->merge(p->space(), range.first + pages(2), pages(1), frame_id{0}).why == status::ok);
    p.reset();
    CHECK(at[2 * page] == std::byte{5});
    at[2 * page] = std::byte{6};
    CHECK(at[0] == std::byte{5});
    CHECK(at[2 * page] == std::byte{6});
    ::munmap(at, 4 * page);
}

TEST_CASE("a region in which nothing is merged costs almost nothing", "[linux]") {
    linux_provider p{quiescent()};
    std::size_t const before = p.usage().metadata_bytes;
    memory m{p, std::size_t{1} << 20}; // 4 GiB of addresses
    m.fill(12345, 1);
    CHECK(look(p, m.page(12345)).state == page_state::unknown);
    CHECK(p.usage().metadata_bytes - before <= 3 * p.page_size());
    REQUIRE(p.promote(p.space(), m.page(12345), pages(1)).made.why == status::ok);
    CHECK(p.usage().metadata_bytes - before <= 7 * p.page_size());
}

TEST_CASE("a limit on the size of files is met without a signal", "[linux]") {
    CHECK(in_child([] {
              rlimit const none{0, 0};
              if (::setrlimit(RLIMIT_FSIZE, &none) != 0) {
                  return 77;
              }
              linux_provider p{quiescent()};
              page_range range;
              if (p.try_map(pages(4), range)) {
                  return 1;
              }
              return p.promote(p.space(), range.first, pages(1)).made.why == status::out_of_frames
                         ? 0
                         : 2;
          }) == 0);
}

TEST_CASE("a range that goes on behind the last page is no region", "[linux]") {
    linux_provider p{quiescent()};
    memory m{p, 4};
    page_count const endless{std::numeric_limits<std::size_t>::max()};
    CHECK(p.try_release({m.page(0), endless}).what == region_fault::not_a_region);
}

TEST_CASE("release makes the pages behind a hole private, too", "[linux]") {
    linux_provider p{by_mprotect()};
    page_range const range = p.map(pages(300));
    std::memset(p.address(range.first), 7, 300 * p.page_size());
    REQUIRE(p.promote(p.space(), range.first, pages(300)).made.done == pages(300));
    REQUIRE(::munmap(p.address(range.first + pages(10)), p.page_size()) == 0);
    CHECK_FALSE(p.try_release(range));
    std::byte* const later = p.address(range.first + pages(200));
    CHECK(later[0] == std::byte{7});
    REQUIRE(::madvise(later, p.page_size(), MADV_DONTNEED) == 0);
    CHECK(later[0] == std::byte{0});
    ::munmap(p.address(range.first), 300 * p.page_size());
}
