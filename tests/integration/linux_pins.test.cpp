// SPDX-License-Identifier: BSL-1.0
#include <cstddef>
#include <cstdint>
#include <utility>

#include <ksm/scanner.hpp>

#include "linux_support.hpp"

using namespace linux_test;

namespace {

/// The kernel's number of the memory behind a page; 0 without the privilege to see it.
std::uint64_t physical(page_number page) {
    detail::os::pagemap entries;
    return entries.read(page, 1)[0] & ((std::uint64_t{1} << 55) - 1);
}

linux_options any_strategy() { return GENERATE(quiescent(), by_mprotect(), by_wp(), by_move()); }

} // namespace

TEST_CASE("a pinned page is left alone until the pin ends", "[linux]") {
    linux_options const o = any_strategy();
    KSM_NEEDS_USERFAULTFD(o);
    linux_provider p{o};
    memory m{p, 3};
    for (std::size_t i = 0; i < 3; ++i) {
        m.fill(i, 7);
    }
    promotion const made = p.promote(p.space(), m.page(0), pages(1));
    REQUIRE(made.made.done == pages(1));
    {
        linux_pin const pin = p.pin({m.page(1), pages(1)});
        CHECK(pin.pages() == page_range{m.page(1), pages(1)});
        CHECK(p.merge(p.space(), m.page(1), pages(1), made.first).why == status::busy);
        CHECK(p.promote(p.space(), m.page(1), pages(1)).made.why == status::busy);
        CHECK(p.merge_zero(p.space(), page_set::run(m.page(1), pages(1))).why == status::busy);
        CHECK(p.merge(p.space(), m.page(2), pages(1), made.first).why == status::ok);
    }
    CHECK(p.merge(p.space(), m.page(1), pages(1), made.first).why == status::ok);
}

TEST_CASE("a run ends before a pinned page", "[linux]") {
    linux_provider p{quiescent()};
    memory m{p, 8};
    for (std::size_t i = 0; i < 8; ++i) {
        m.fill(i, i % 4);
    }
    linux_pin const pin = p.pin({m.page(6), pages(1)});
    promotion const made = p.promote(p.space(), m.page(0), pages(4));
    REQUIRE(made.made.done == pages(4));
    progress const merged = p.merge(p.space(), m.page(4), pages(4), made.first);
    CHECK(merged.done == pages(2));
    CHECK(merged.why == status::busy);
}

TEST_CASE("merged, zero and untouched pages have memory of their own when they are pinned, and "
          "keep it",
          "[linux]") {
    linux_options const o = any_strategy();
    KSM_NEEDS_USERFAULTFD(o);
    linux_provider p{o};
    memory m{p, 64};
    for (std::size_t i = 0; i < 48; ++i) {
        m.fill(i, i % 4);
    }
    for (std::size_t i = 48; i < 56; ++i) {
        m.fill(i, 1);
        std::memset(m.at(i), 0, p.page_size());
    }
    scanner<linux_provider> s{p};
    REQUIRE(s.tune("use_zero_pages", 1) == tunable_error::none);
    REQUIRE(s.enter(p.space()) == status::ok);
    for (int pass = 0; pass < 4; ++pass) {
        static_cast<void>(s.scan_pass());
    }
    REQUIRE(look(p, m.page(8)).state == page_state::merged);
    REQUIRE(look(p, m.page(50)).state == page_state::zero);
    {
        linux_pin const some[] = {p.pin({m.page(8), pages(3)}), p.pin({m.page(50), pages(1)}),
                                  p.pin({m.page(60), pages(1)})};
        std::uint64_t where[64];
        for (std::size_t i = 0; i < 64; ++i) {
            where[i] = physical(m.page(i));
        }
        for (int pass = 0; pass < 12; ++pass) {
            static_cast<void>(s.scan_pass());
        }
        for (std::size_t i : {8U, 9U, 10U, 50U, 60U}) {
            CAPTURE(i);
            CHECK(physical(m.page(i)) == where[i]);
            page_state const now = look(p, m.page(i)).state;
            CHECK(now != page_state::merged);
            CHECK(now != page_state::zero);
        }
        CHECK(m.holds(8, 0));
        CHECK(m.zero(50));
    }
    for (int pass = 0; pass < 12; ++pass) {
        static_cast<void>(s.scan_pass());
    }
    CHECK(look(p, m.page(50)).state == page_state::zero);
}

TEST_CASE("unmerging a page that was merged when it was pinned leaves it where it is", "[linux]") {
    linux_options const o = any_strategy();
    KSM_NEEDS_USERFAULTFD(o);
    linux_provider p{o};
    memory m{p, 3};
    m.fill(0, 1);
    m.fill(1, 1);
    m.fill(2, 2);
    promotion const made = p.promote(p.space(), m.page(0), pages(1));
    REQUIRE(p.merge(p.space(), m.page(1), pages(1), made.first).why == status::ok);
    linux_pin const pin = p.pin({m.page(1), pages(1)});
    std::uint64_t const where = physical(m.page(1));
    progress const all = p.unmerge(p.space(), m.page(0), pages(3));
    CHECK(all.done == pages(3));
    CHECK(all.why == status::ok);
    CHECK(physical(m.page(1)) == where);
    CHECK(m.holds(1, 1));
}

TEST_CASE("what is pinned cannot be released", "[linux]") {
    linux_provider p{quiescent()};
    memory m{p, 4};
    linux_pin pin = p.pin({m.page(2), pages(1)});
    CHECK(p.try_release({m.page(0), pages(4)}).what == region_fault::pinned);
    CHECK(p.usage().region_pages == 4);
    pin.reset();
    CHECK_FALSE(p.try_release({m.page(0), pages(4)}));
}

TEST_CASE("a page that is pinned twice is free when both pins have ended", "[linux]") {
    linux_provider p{quiescent()};
    memory m{p, 2};
    m.fill(0, 1);
    linux_pin first = p.pin({m.page(0), pages(2)});
    linux_pin second = p.pin({m.page(0), pages(2)});
    first.reset();
    CHECK(p.promote(p.space(), m.page(0), pages(1)).made.why == status::busy);
    linux_pin moved = std::move(second);
    CHECK(p.promote(p.space(), m.page(0), pages(1)).made.why == status::busy);
    moved = linux_pin{};
    CHECK(p.promote(p.space(), m.page(0), pages(1)).made.why == status::ok);
}

TEST_CASE("only pages of regions can be pinned", "[linux]") {
    linux_provider p{quiescent()};
    memory m{p, 2};
    linux_pin pin;
    CHECK(p.try_pin({m.page(0), pages(0)}, pin).what == region_fault::empty);
    CHECK(p.try_pin({m.page(0), pages(3)}, pin).what == region_fault::not_a_region);
    CHECK(pin.pages().count == pages(0));
    CHECK(in_child([&] {
              return p.try_pin({m.page(0), pages(1)}, pin).what == region_fault::forked ? 0 : 1;
          }) == 0);
}
