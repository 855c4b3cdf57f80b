// SPDX-License-Identifier: BSL-1.0
// Scattered zero pages, which are given back in one window.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "linux_support.hpp"
#include "linux_watching.hpp"

using namespace linux_test;
using detail::os::call;

namespace {

/// Pages that hold their number, but for those in `zeros`, which are zero.
void fill(linux_provider const& p, memory& m, std::uint64_t zeros) {
    for (std::size_t i = 0; i < m.size(); ++i) {
        m.fill(i, i);
        if ((zeros >> i & 1U) != 0) {
            std::memset(m.at(i), 0, p.page_size());
        }
    }
}

/// How the pages of a set that are zero are given back.
std::uint64_t zero_states(linux_provider& p, memory const& m) {
    std::uint64_t found = 0;
    for (std::size_t i = 0; i < m.size(); ++i) {
        found |= std::uint64_t{look(p, m.page(i)).state == page_state::zero} << i;
    }
    return found;
}

} // namespace

TEST_CASE("scattered zero pages are given back in one window, and those between stay", "[linux]") {
    linux_options const options = GENERATE(quiescent(), by_mprotect(), by_move(), by_wp());
    KSM_NEEDS_USERFAULTFD(options);
    KSM_NEEDS_LOOSE_COMMIT(options);
    linux_provider p{options};
    memory m{p, 64};
    std::uint64_t const every_third = 0x9249'2492'4924'9249;
    fill(p, m, every_third);
    m.at(60)[p.page_size() - 1] = std::byte{1};
    progress const done = p.merge_zero(p.space(), {m.page(0), every_third});
    CHECK(done.done == pages(20));
    CHECK(done.why == status::changed);
    CHECK(p.windows().opened == (options.quiescent ? 0 : 1));
    CHECK(zero_states(p, m) == (every_third & ~(std::uint64_t{0b1001} << 60U)));
    for (std::size_t i = 0; i < 60; ++i) {
        CAPTURE(i);
        CHECK((i % 3 == 0 ? m.zero(i) : m.holds(i, i)));
    }
    CHECK(m.at(60)[p.page_size() - 1] == std::byte{1});
    CHECK(m.zero(63));
    CHECK(mappings_in(m.at(0), m.size() * p.page_size()) == 1);
}

TEST_CASE("without process_madvise each piece is given back by itself", "[linux]") {
    watching const now{call::process_madvise, ENOSYS};
    linux_provider p{quiescent()};
    memory m{p, 8};
    fill(p, m, 0b1101'0011);
    CHECK(p.merge_zero(p.space(), {m.page(0), 0b1101'0011}).done == pages(5));
    CHECK(watched.seen == 1); // at the start
    CHECK(zero_states(p, m) == 0b1101'0011);
}

TEST_CASE("no page is given back twice in a window: it may have been written since", "[linux]") {
    linux_options const options = GENERATE(quiescent(), by_mprotect(), by_wp());
    KSM_NEEDS_USERFAULTFD(options);
    KSM_NEEDS_LOOSE_COMMIT(options);
    linux_provider p{options};
    memory m{p, 8};
    fill(p, m, 0b1'1011);
    // The sanitizers make mlock do nothing.
    REQUIRE(::syscall(SYS_mlock, m.at(4), p.page_size()) == 0);
    progress done;
    {
        watching const now{call::madvise};
        done = p.merge_zero(p.space(), {m.page(0), 0b1'1011});
    }
    CHECK(done.done == pages(2));
    CHECK(done.why == status::refused);
    constexpr std::size_t block = detail::os::page_table::block_pages;
    int const splits = m.page(0).value() / block == m.page(4).value() / block ? 1 : 2;
    // Where all are given back by one call, another tells why the rest was not.
    bool const at_once =
        options.strategy != write_exclusion::wp && detail::os::can_discard_at_once(p.page_size());
    CHECK(watched.seen - splits == (at_once ? 1 : 2));
    CHECK(zero_states(p, m) == 0b11);
    ::syscall(SYS_munlock, m.at(4), p.page_size());
}

TEST_CASE("a provider between the pieces does not write into its own window", "[linux]") {
    KSM_NEEDS_LOOSE_COMMIT(by_mprotect());
    int const error = GENERATE(0, EBADF);
    CHECK(in_child([error] {
              std::size_t const page = detail::os::page_bytes();
              std::size_t const between = (sizeof(linux_provider) + page - 1) / page;
              auto* const at = static_cast<std::byte*>(::mmap(nullptr, (between + 2) * page,
                                                              PROT_READ | PROT_WRITE,
                                                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
              std::memset(at, 1, (between + 2) * page);
              std::memset(at, 0, (between + 2) * page);
              watching const failing{call::process_madvise, error};
              auto* const p = ::new (at + page) linux_provider{by_mprotect()};
              page_range range;
              if (p->try_adopt(at, (between + 2) * page, range)) {
                  return 1;
              }
              watching const now{call::mprotect};
              progress const done =
                  p->merge_zero(p->space(), {range.first, 1U | std::uint64_t{1} << (between + 1)});
              // A third would be that of the handler of SIGSEGV.
              return done.done == pages(2) && watched.seen == 2 ? 0 : 2;
          }) == 0);
}

TEST_CASE("what is in the way between zero pages does not keep them", "[linux]") {
    KSM_NEEDS_USERFAULTFD(by_move());
    bool const ends_before_a_frame = GENERATE(false, true);
    linux_options options = by_move();
    options.track_changes = false;
    linux_provider p{options};
    memory m{p, 16};
    fill(p, m, 1U | 1U << 10U);
    if (ends_before_a_frame) {
        REQUIRE(p.promote(p.space(), m.page(5), pages(1)).made.done == pages(1));
    }
    // Page 2 belongs to another userfaultfd.
    auto const fd = static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
    struct {
        std::uint64_t api, features, ioctls;
    } version{0xAA, 0, 0};
    REQUIRE(::ioctl(fd, _IOWR(0xAA, 0x3F, decltype(version)), &version) == 0);
    struct {
        std::uint64_t start, bytes, mode, ioctls;
    } range{reinterpret_cast<std::uintptr_t>(m.at(2)), p.page_size(), 1, 0};
    REQUIRE(::ioctl(fd, _IOWR(0xAA, 0x00, decltype(range)), &range) == 0);
    CHECK(p.merge_zero(p.space(), {m.page(0), 1U | 1U << 10U}).done == pages(2));
    ::close(fd);
    CHECK(zero_states(p, m) == (1U | 1U << 10U));
}

TEST_CASE("a window ends with the last zero page in it", "[linux]") {
    KSM_NEEDS_USERFAULTFD(by_move());
    linux_provider p{by_move()};
    KSM_NEEDS_TRACKING(p);
    memory m{p, 16};
    fill(p, m, 1U | 1U << 10U);
    REQUIRE(p.promote(p.space(), m.page(9), pages(1)).made.done == pages(1));
    std::array<page_run, 16> runs;
    REQUIRE(p.survey(p.space(), page_number{0}, coverage::every_page, runs).end);
    CHECK(p.merge_zero(p.space(), {m.page(0), 1U | 1U << 10U}).done == pages(2));
    // Those behind page 0 were in no window: they are not taken for written.
    survey_result const r = p.survey(p.space(), page_number{0}, coverage::changes, runs);
    CHECK(r.given == coverage::changes);
    CHECK(r.runs == 0);
}

TEST_CASE("a set that begins before its first page is that page's", "[linux]") {
    linux_options const options = GENERATE(quiescent(), by_move());
    KSM_NEEDS_USERFAULTFD(options);
    linux_provider p{options};
    memory m{p, 4};
    fill(p, m, 0b100);
    linux_pin pin;
    REQUIRE(!p.try_pin({m.page(1), pages(1)}, pin));
    CHECK(p.merge_zero(p.space(), {m.page(0), 0b100}).done == pages(1));
    CHECK(in_child([] { return 0; }) == 0); // fork does not wait for ever
}
