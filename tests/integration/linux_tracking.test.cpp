// SPDX-License-Identifier: BSL-1.0
#include <map>
#include <string>
#include <vector>

#include <unistd.h>

#include <ksm/scanner.hpp>

#include "linux_support.hpp"

using namespace linux_test;

namespace {

/// What a walk of kind `changes` lists, by the place in the region.
std::map<std::size_t, page_state> changes(linux_provider& p, memory const& m,
                                          std::size_t room = 64) {
    std::map<std::size_t, page_state> listed;
    std::vector<page_run> out(room);
    page_number from;
    page_number last;
    for (bool end = false; !end;) {
        survey_result const r = p.survey(p.space(), from, coverage::changes, out);
        REQUIRE(r.given == coverage::changes);
        REQUIRE((r.end || r.next > from || r.runs != 0));
        for (std::size_t i = 0; i < r.runs; ++i) {
            REQUIRE(out[i].first >= last);
            for (std::size_t k = 0; k < out[i].pages.value(); ++k) {
                listed[(out[i].first + pages(k) - m.range.first).value()] = out[i].state;
            }
            last = out[i].first + out[i].pages;
        }
        from = r.next;
        end = r.end;
    }
    return listed;
}

/// Lists every page, and arms what is tracked.
void list_all(linux_provider& p) {
    std::vector<page_run> out(4096);
    REQUIRE(p.survey(p.space(), page_number{}, coverage::every_page, out).end);
}

} // namespace

TEST_CASE("an unchanged region is not listed", "[linux]") {
    linux_provider p{quiescent()};
    KSM_NEEDS_TRACKING(p);
    memory m{p, 64};
    for (std::size_t i = 0; i < 64; ++i) {
        m.fill(i, i);
    }
    list_all(p);
    CHECK(changes(p, m).empty());
    CHECK(changes(p, m).empty());
}

TEST_CASE("a page that was written, by a store or by a system call, is listed once", "[linux]") {
    linux_options const o = GENERATE(quiescent(), by_mprotect(), by_move());
    linux_provider p{o};
    KSM_NEEDS_TRACKING(p);
    memory m{p, 64};
    for (std::size_t i = 0; i < 32; ++i) {
        m.fill(i, i);
    }
    list_all(p);
    m.at(3)[0] = std::byte{1};
    m.at(4)[0] = std::byte{1};
    m.at(40)[0] = std::byte{1}; // appears
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    REQUIRE(::write(ends[1], "x", 1) == 1);
    REQUIRE(::read(ends[0], m.at(20), 1) == 1);
    ::close(ends[0]);
    ::close(ends[1]);
    std::size_t const room = GENERATE(1U, 2U, 3U, 64U);
    std::map<std::size_t, page_state> const written{{3, page_state::written},
                                                    {4, page_state::written},
                                                    {20, page_state::written},
                                                    {40, page_state::written}};
    CHECK(changes(p, m, room) == written);
    CHECK(changes(p, m, room).empty());
}

TEST_CASE("a merged page is listed when its copy-on-write is broken", "[linux]") {
    linux_options const o = GENERATE(quiescent(), by_mprotect(), by_move());
    linux_provider p{o};
    KSM_NEEDS_TRACKING(p);
    memory m{p, 16};
    for (std::size_t i = 0; i < 16; ++i) {
        m.fill(i, 1);
    }
    list_all(p);
    REQUIRE(p.promote(p.space(), m.page(4), pages(8)).made.done == pages(8));
    CHECK(changes(p, m).empty());
    m.at(5)[0] = std::byte{1};
    m.at(7)[0] = std::byte{1};
    m.at(14)[0] = std::byte{1};
    // Without the promise that nothing is pinned, a copy cannot be moved and stays what it is.
    page_state const broken =
        o.no_pinned_io || o.quiescent ? page_state::written : page_state::gone;
    std::map<std::size_t, page_state> const listed{
        {5, broken}, {7, broken}, {14, page_state::written}};
    std::size_t const room = GENERATE(1U, 2U, 64U);
    CHECK(changes(p, m, room) == listed);
}

TEST_CASE("a page given back as zero is listed when it is written", "[linux]") {
    linux_options const o = GENERATE(quiescent(), by_mprotect(), by_move());
    linux_provider p{o};
    KSM_NEEDS_TRACKING(p);
    memory m{p, 8};
    for (std::size_t i = 0; i < 8; ++i) {
        m.fill(i, i);
    }
    std::memset(m.at(2), 0, 4 * p.page_size());
    list_all(p);
    REQUIRE(p.merge_zero(p.space(), page_set::run(m.page(2), pages(4))).done == pages(4));
    CHECK(changes(p, m).empty());
    m.at(4)[0] = std::byte{1};
    CHECK(changes(p, m) == std::map<std::size_t, page_state>{{4, page_state::written}});
    CHECK(m.zero(3));
}

TEST_CASE("pages that were unmerged are tracked again", "[linux]") {
    linux_options const o = GENERATE(quiescent(), by_mprotect(), by_move());
    linux_provider p{o};
    KSM_NEEDS_TRACKING(p);
    memory m{p, 8};
    for (std::size_t i = 0; i < 8; ++i) {
        m.fill(i, 1);
    }
    list_all(p);
    REQUIRE(p.promote(p.space(), m.page(2), pages(4)).made.done == pages(4));
    REQUIRE(p.unmerge(p.space(), m.page(2), pages(4)).done == pages(4));
    static_cast<void>(changes(p, m));
    CHECK(changes(p, m).empty());
    m.at(3)[0] = std::byte{1};
    CHECK(changes(p, m) == std::map<std::size_t, page_state>{{3, page_state::written}});
}

TEST_CASE("a page that is written in every walk costs its writer ever fewer faults", "[linux]") {
    linux_provider p{quiescent()};
    KSM_NEEDS_TRACKING(p);
    memory m{p, 64};
    for (std::size_t i = 0; i < 64; ++i) {
        m.fill(i, i);
    }
    list_all(p);
    detail::os::pagemap kernel;
    std::size_t armed = 0;
    for (int walk = 0; walk < 64; ++walk) {
        m.at(20)[0] = std::byte{1};
        auto const listed = changes(p, m);
        CHECK(listed.size() == 1);
        CHECK(listed.count(20) == 1);
        auto const bits = kernel.read(m.page(20), 1);
        armed += detail::os::pagemap_entry{bits[0]}.write_protected();
    }
    CHECK(armed >= 3);
    CHECK(armed <= 8);
    // Quiet again: the page settles after a while.
    int walks = 0;
    while (!changes(p, m).empty() && walks < 64) {
        ++walks;
    }
    CHECK(walks < 40);
    // A neighbour of a hot page is not taken for written.
    CHECK(changes(p, m).empty());
}

TEST_CASE("a program that closes all descriptors ends tracking, and nothing else", "[linux]") {
    CHECK(in_child([] {
              linux_provider p{quiescent()};
              memory m{p, 32};
              for (std::size_t i = 0; i < 32; ++i) {
                  m.fill(i, i % 4);
              }
              scanner<linux_provider> s{p};
              static_cast<void>(s.enter(p.space()));
              static_cast<void>(s.scan_pass());
              for (int fd = 3; fd < 200; ++fd) {
                  ::close(fd);
              }
              for (int pass = 0; pass < 4; ++pass) {
                  static_cast<void>(s.scan_pass());
              }
              for (std::size_t i = 0; i < 32; ++i) {
                  if (!m.holds(i, i % 4)) {
                      return 1;
                  }
              }
              return p.capabilities().tracks_changes ? 2 : 0;
          }) == 0);
}

TEST_CASE("a scanner forgets the pages of a released region, and their frames go", "[linux]") {
    linux_provider p{quiescent()};
    KSM_NEEDS_TRACKING(p);
    memory stays{p, 2};
    stays.fill(0, 1);
    stays.fill(1, 2);
    scanner s{p};
    REQUIRE(s.enter(p.space()) == status::ok);
    {
        memory m{p, 64};
        for (std::size_t i = 0; i < m.size(); ++i) {
            m.fill(i, 10 + i / 2);
        }
        for (int i = 0; i < 3; ++i) {
            static_cast<void>(s.scan_pass());
        }
        REQUIRE(s.statistics().pages_sharing == 32);
    }
    static_cast<void>(s.scan_pass());
    CHECK(s.statistics().rmap_items == 2);
    CHECK(s.statistics().pages_sharing == 0);
    CHECK(p.usage().frames_live == 0);
}
