// SPDX-License-Identifier: BSL-1.0
// The sentences of docs/page_provider.md, each as a test, over any number of providers.
//
// Define `using conformance_fixtures = std::tuple<...>;` and include this file once. A fixture has
//
//   explicit fixture(ksm::page_count n);           maps n mergeable pages of zeros, all present
//   provider_type& provider();
//   ksm::space_id space();
//   ksm::page_number first();                      of the n pages
//   void store(ksm::page_number, std::size_t offset, std::byte);  what the owner of the memory does
//   std::vector<std::byte> load(ksm::page_number);
//
// and, if pages can vanish, `void unmap(ksm::page_number)` and `void exit()` (of the space).
#ifndef KSM_TESTS_CONFORMANCE_PROVIDER_CONFORMANCE_HPP
#define KSM_TESTS_CONFORMANCE_PROVIDER_CONFORMANCE_HPP

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <ostream>
#include <span>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <ksm/page_provider.hpp>

#include "../support/catch.hpp"

namespace conformance {

using ksm::coverage;
using ksm::frame_id;
using ksm::page_count;
using ksm::page_number;
using ksm::page_range;
using ksm::page_run;
using ksm::page_set;
using ksm::page_state;
using ksm::progress;
using ksm::status;

/// What a page or frame holds, told in a failure by its ends.
struct content {
    std::vector<std::byte> bytes;

    friend bool operator==(content const&, content const&) = default;
    friend std::ostream& operator<<(std::ostream& out, content const& c) {
        if (c.bytes.empty()) {
            return out << "no page";
        }
        return out << std::to_integer<int>(c.bytes.front()) << " ... "
                   << std::to_integer<int>(c.bytes.back());
    }
};

template <class Fixture>
concept pages_can_vanish = requires(Fixture& f, page_number page) {
    f.unmap(page);
    f.exit();
};

/// A fixture, and the words in which the tests speak of it. Pages are named by their index.
template <class Fixture>
class subject {
  public:
    explicit subject(std::size_t pages) : fixture(page_count{pages}), pages_(pages) {}

    Fixture fixture;

    auto& provider() { return fixture.provider(); }
    ksm::space_id space() { return fixture.space(); }
    page_number page(std::size_t i) { return fixture.first() + page_count{i}; }
    std::size_t index(page_number p) { return (p - fixture.first()).value(); }
    std::size_t page_size() { return provider().page_size(); }

    /// Gives a page a content that is different for different values, up to its last byte.
    void fill(std::size_t i, int value) {
        fixture.store(page(i), 0, std::byte(value));
        fixture.store(page(i), page_size() - 1, std::byte(value));
    }
    content filled(int value) {
        std::vector<std::byte> bytes(page_size());
        bytes.front() = bytes.back() = std::byte(value);
        return {bytes};
    }
    content load(std::size_t i) { return {fixture.load(page(i))}; }
    std::vector<content> load_all() {
        std::vector<content> contents;
        for (std::size_t i = 0; i < pages_; ++i) {
            contents.push_back(load(i));
        }
        return contents;
    }
    static content copy(std::span<std::byte const> view) { return {{view.begin(), view.end()}}; }
    content view(std::size_t i) { return copy(provider().view(space(), page(i))); }
    content view(frame_id f) { return copy(provider().view(f)); }

    // An operation may stop early with `ok`: these ask again until it has stopped for a reason.
    template <class Call>
    progress until_done(std::size_t pages, Call call) {
        std::size_t done = 0;
        while (done < pages) {
            progress const p = call(done, page_count{pages - done});
            REQUIRE(p.done.value() <= pages - done);
            REQUIRE((p.why != status::ok || p.done.value() != 0));
            done += p.done.value();
            if (p.why != status::ok) {
                // Why it stopped is about a page that it was asked for.
                REQUIRE(done < pages);
                return {page_count{done}, p.why};
            }
        }
        return {page_count{done}, status::ok};
    }
    /// The frames of consecutive pages, as far as they could be promoted.
    std::vector<frame_id> promote(std::size_t i, std::size_t pages, status expected = status::ok) {
        std::vector<frame_id> frames;
        progress const p = until_done(pages, [&](std::size_t done, page_count n) {
            auto const made = provider().promote(space(), page(i + done), n);
            for (std::size_t k = 0; k < made.made.done.value(); ++k) {
                frames.push_back(made.first + page_count{k});
            }
            return made.made;
        });
        REQUIRE(p.why == expected);
        return frames;
    }
    frame_id promote(std::size_t i) { return promote(i, 1).front(); }
    progress merge(std::size_t i, std::size_t pages, frame_id f) {
        return until_done(pages, [&](std::size_t done, page_count n) {
            return provider().merge(space(), page(i + done), n, f + page_count{done});
        });
    }
    progress merge_zero(std::size_t i, std::size_t pages) {
        return until_done(pages, [&](std::size_t done, page_count n) {
            return provider().merge_zero(space(), page_set::run(page(i + done), n));
        });
    }
    progress unmerge(std::size_t i, std::size_t pages) {
        return until_done(pages, [&](std::size_t done, page_count n) {
            return provider().unmerge(space(), page(i + done), n);
        });
    }

    struct report {
        std::map<std::size_t, page_run> pages; ///< By index: runs of one page.
        coverage given = coverage::every_page;

        [[nodiscard]] std::optional<page_state> state(std::size_t i) const {
            auto const found = pages.find(i);
            return found == pages.end() ? std::nullopt : std::optional{found->second.state};
        }
        /// Listed as neither merged, zero nor gone.
        [[nodiscard]] bool shows_private(std::size_t i) const {
            return state(i) == page_state::written || state(i) == page_state::unknown;
        }
        [[nodiscard]] bool shows_merged(std::size_t i, frame_id f) const {
            return state(i) == page_state::merged && pages.at(i).frame == f;
        }
        /// Gone, or not there in a list of all that is there.
        [[nodiscard]] bool shows_gone(std::size_t i) const {
            return given == coverage::every_page ? !pages.contains(i)
                                                 : state(i) == page_state::gone;
        }
        /// A change, or a page of which nobody can tell: a reader must look at it again.
        [[nodiscard]] bool asks_for_a_visit(std::size_t i) const { return shows_private(i); }
    };

    /// A whole survey, by calls that take `room` runs each. `between` acts between calls.
    template <class Between>
    report survey(coverage wanted, std::size_t room, Between between) {
        report r;
        page_number from;
        std::vector<page_run> out(room);
        for (bool first_call = true;; first_call = false) {
            auto const result = provider().survey(space(), from, wanted, out);
            REQUIRE(result.runs <= out.size());
            REQUIRE((first_call || result.given == r.given));
            r.given = result.given;
            REQUIRE((wanted == coverage::changes || r.given == coverage::every_page));
            for (page_run const& run : std::span{out}.first(result.runs)) {
                REQUIRE(run.pages.value() != 0);
                REQUIRE(run.first >= from);
                from = run.first + run.pages;
                add(r, run);
            }
            if (result.end) {
                return r;
            }
            REQUIRE(result.next >= from);
            REQUIRE((result.runs != 0 || result.next > from));
            from = result.next;
            between(from);
        }
    }
    report survey(coverage wanted, std::size_t room = 16) {
        return survey(wanted, room, [](page_number) {});
    }
    /// Whatever changed before is no news any more.
    void settle() { (void)survey(coverage::changes); }

  private:
    void add(report& r, page_run const& run) {
        for (std::size_t k = 0; k < run.pages.value(); ++k) {
            page_run one = run;
            one.first = run.first + page_count{k};
            one.pages = page_count{1};
            one.frame = run.frame + page_count{k};
            REQUIRE(page_range{page(0), page_count{pages_}}.contains(one.first));
            REQUIRE(r.pages.try_emplace(index(one.first), one).second);
        }
    }

    std::size_t pages_;
};

} // namespace conformance

using conformance::subject;
using ksm::coverage;
using ksm::frame_id;
using ksm::page_count;
using ksm::page_number;
using ksm::page_state;
using ksm::status;

#define KSM_CONFORMANCE(sentence)                                                                  \
    TEMPLATE_LIST_TEST_CASE(sentence, "[conformance]", conformance_fixtures)

KSM_CONFORMANCE("the page size is a power of two and stays") {
    subject<TestType> s(2);
    auto const size = s.page_size();
    CHECK(std::has_single_bit(size));
    s.fill(0, 1);
    (void)s.promote(0);
    CHECK(s.page_size() == size);
}

// ---------------------------------------------------------------------- surveys

KSM_CONFORMANCE("the first survey lists every page once, as a private one") {
    subject<TestType> s(7);
    auto const wanted = GENERATE(coverage::changes, coverage::every_page);
    auto const r = s.survey(wanted);
    CHECK(r.pages.size() == 7);
    for (std::size_t i = 0; i < 7; ++i) {
        CHECK(r.shows_private(i));
    }
}

KSM_CONFORMANCE("a survey of every page lists pages that have not changed") {
    subject<TestType> s(4);
    s.settle();
    auto const r = s.survey(coverage::every_page);
    CHECK(r.given == coverage::every_page);
    CHECK(r.pages.size() == 4);
}

KSM_CONFORMANCE("a survey resumes where room ran out, and lists the same") {
    subject<TestType> s(9);
    for (std::size_t i : {1U, 4U, 7U}) {
        s.fill(i, 1);
    }
    auto const f = s.promote(1);
    CHECK(s.merge(7, 1, f).why == status::ok);
    auto const room = GENERATE(std::size_t{1}, std::size_t{2}, std::size_t{3});
    auto const r = s.survey(coverage::every_page, room);
    CHECK(r.pages.size() == 9);
    for (std::size_t i = 0; i < 9; ++i) {
        CHECK((i == 1 || i == 7 ? r.shows_merged(i, f) : r.shows_private(i)));
    }
}

KSM_CONFORMANCE("a survey begins where it is told to") {
    subject<TestType> s(6);
    std::array<ksm::page_run, 16> out;
    auto const r = s.provider().survey(s.space(), s.page(4), coverage::every_page, out);
    REQUIRE(r.runs != 0);
    CHECK(out[0].first == s.page(4));
}

KSM_CONFORMANCE("what was written is listed next, what was not is no change") {
    subject<TestType> s(4);
    s.settle();
    s.fill(2, 1);
    auto const r = s.survey(coverage::changes);
    CHECK(r.asks_for_a_visit(2));
    if (r.given == coverage::changes) {
        CHECK(r.state(2) == page_state::written);
        CHECK(r.pages.size() == 1);
        CHECK(s.survey(coverage::changes).pages.empty());
    }
}

KSM_CONFORMANCE("a survey of every page tells what was written, too") {
    subject<TestType> s(3);
    s.settle();
    s.fill(1, 1);
    CHECK(s.survey(coverage::every_page).asks_for_a_visit(1));
}

KSM_CONFORMANCE("a write in the middle of a survey is listed by this one or by the next") {
    subject<TestType> s(8);
    for (std::size_t i = 0; i < 8; i += 2) { // every second one merged: eight runs
        s.fill(i, 1);
        (void)s.promote(i);
    }
    s.settle();
    for (std::size_t i = 1; i < 8; i += 2) {
        s.fill(i, 2);
    }
    std::map<std::size_t, bool> seen;
    auto const note = [&](auto const& report) {
        for (std::size_t i = 1; i < 8; i += 2) {
            seen[i] = seen[i] || (report.asks_for_a_visit(i));
        }
    };
    bool written = false;
    auto const r = s.survey(coverage::changes, 2, [&](page_number) {
        if (!written) {
            written = true;
            s.fill(1, 3);
            s.fill(7, 3);
        }
    });
    note(r);
    CHECK(written);
    auto const next = s.survey(coverage::changes);
    CHECK(next.asks_for_a_visit(1)); // behind the cursor when it was written
    note(next);
    for (std::size_t i = 1; i < 8; i += 2) {
        CHECK(seen[i]);
    }
}

KSM_CONFORMANCE("merged pages are listed as merged, with their frames") {
    subject<TestType> s(3);
    s.fill(0, 1);
    s.fill(2, 1);
    auto const f = s.promote(0);
    REQUIRE(s.merge(2, 1, f).why == status::ok);
    auto const r = s.survey(coverage::every_page);
    CHECK(r.shows_merged(0, f));
    CHECK(r.shows_private(1));
    CHECK(r.shows_merged(2, f));
}

KSM_CONFORMANCE("a merge that the engine asked for is no change") {
    subject<TestType> s(2);
    s.settle();
    (void)s.promote(0);
    auto const r = s.survey(coverage::changes);
    CHECK((r.given == coverage::every_page || r.pages.empty()));
}

KSM_CONFORMANCE("a merged page whose sharing was broken by a write is listed as private") {
    subject<TestType> s(2);
    auto const f = s.promote(0);
    REQUIRE(s.merge(1, 1, f).why == status::ok);
    s.settle();
    s.fill(1, 5);
    auto const r = s.survey(coverage::changes);
    CHECK(r.asks_for_a_visit(1));
    CHECK((r.given == coverage::changes ? !r.pages.contains(0) : r.shows_merged(0, f)));
}

// ---------------------------------------------------------------------- views

KSM_CONFORMANCE("a view shows what the page holds now") {
    subject<TestType> s(1);
    CHECK(s.view(0) == s.filled(0));
    s.fill(0, 3);
    CHECK(s.view(0) == s.filled(3));
}

KSM_CONFORMANCE("the views of two pages are valid together") {
    subject<TestType> s(3);
    for (std::size_t i = 0; i < 3; ++i) {
        s.fill(i, static_cast<int>(i) + 1);
    }
    auto const a = s.provider().view(s.space(), s.page(0));
    auto const b = s.provider().view(s.space(), s.page(1));
    CHECK(s.copy(a) == s.filled(1));
    auto const c = s.provider().view(s.space(), s.page(2));
    CHECK(s.copy(b) == s.filled(2));
    CHECK(s.copy(c) == s.filled(3));
}

KSM_CONFORMANCE("a frame shows the content that was promoted, whatever happens to the page") {
    subject<TestType> s(2);
    s.fill(0, 1);
    auto const f = s.promote(0);
    auto const view = s.provider().view(f);
    s.fill(0, 2);
    CHECK(s.copy(view) == s.filled(1));
    (void)s.unmerge(0, 1);
    s.fill(0, 3);
    CHECK(s.copy(view) == s.filled(1));
    CHECK(s.view(f) == s.filled(1));
}

// ---------------------------------------------------------------------- promotion

KSM_CONFORMANCE("promotion takes the content of now") {
    subject<TestType> s(1);
    s.fill(0, 1);
    s.settle();
    CHECK(s.view(0) == s.filled(1));
    s.fill(0, 2);
    auto const f = s.promote(0);
    CHECK(s.view(f) == s.filled(2));
    CHECK(s.load(0) == s.filled(2));
}

KSM_CONFORMANCE("frames that are promoted together are consecutive, in the order of the pages") {
    subject<TestType> s(5);
    for (std::size_t i = 0; i < 5; ++i) {
        s.fill(i, static_cast<int>(i) + 1);
    }
    auto const frames = s.promote(0, 5);
    auto const r = s.survey(coverage::every_page);
    for (std::size_t i = 0; i < 5; ++i) {
        CHECK(s.view(frames[i]) == s.filled(static_cast<int>(i) + 1));
        CHECK(r.shows_merged(i, frames[i]));
    }
}

KSM_CONFORMANCE("a promoted page reads as before, and writing to it leaves the frame alone") {
    subject<TestType> s(1);
    s.fill(0, 1);
    auto const f = s.promote(0);
    CHECK(s.load(0) == s.filled(1));
    CHECK(s.view(0) == s.filled(1));
    s.fill(0, 2);
    CHECK(s.load(0) == s.filled(2));
    CHECK(s.view(f) == s.filled(1));
}

// ---------------------------------------------------------------------- merging

KSM_CONFORMANCE("page first + i comes to map frame + i") {
    subject<TestType> s(6);
    for (std::size_t i = 0; i < 6; ++i) {
        s.fill(i, static_cast<int>(i % 3) + 1);
    }
    auto const made = s.provider().promote(s.space(), s.page(0), page_count{3});
    REQUIRE(made.made.why == status::ok);
    auto const n = made.made.done.value();
    auto const p = s.merge(3, n, made.first);
    CHECK(p.why == status::ok);
    auto const r = s.survey(coverage::every_page);
    for (std::size_t i = 0; i < n; ++i) {
        CHECK(r.shows_merged(3 + i, made.first + page_count{i}));
        CHECK(s.load(3 + i) == s.filled(static_cast<int>(i) + 1));
    }
}

KSM_CONFORMANCE("a merge ends at the first page that differs, even in its last byte") {
    subject<TestType> s(8);
    auto const frames = s.promote(0, 4);
    s.fixture.store(s.page(6), s.page_size() - 1, std::byte{1});
    auto const before = s.load_all();
    std::size_t done = 0;
    status why = status::ok;
    // Frame by frame: not every provider's frames are consecutive over several calls.
    for (; done < 4 && why == status::ok; done += why == status::ok ? 1U : 0U) {
        why = s.merge(4 + done, 1, frames[done]).why;
    }
    CHECK(done == 2);
    CHECK(why == status::changed);
    CHECK(s.load_all() == before);
    auto const r = s.survey(coverage::every_page);
    CHECK(r.shows_merged(5, frames[1]));
    CHECK(r.shows_private(6));
    CHECK(r.shows_private(7));
}

KSM_CONFORMANCE("a merge of a run reports how many pages are before the first that differs") {
    subject<TestType> s(8);
    auto const made = s.provider().promote(s.space(), s.page(0), page_count{4});
    if (made.made.done.value() == 4) { // else the provider does fewer pages a call
        s.fixture.store(s.page(6), 0, std::byte{1});
        auto const before = s.load_all();
        auto const p = s.merge(4, 4, made.first);
        CHECK(p.done == page_count{2});
        CHECK(p.why == status::changed);
        CHECK(s.load_all() == before);
        auto const r = s.survey(coverage::every_page);
        CHECK(r.shows_merged(5, made.first + page_count{1}));
        CHECK(r.shows_private(6));
        CHECK(r.shows_private(7));
    }
}

KSM_CONFORMANCE("a page that maps the frame already merges") {
    subject<TestType> s(2);
    auto const f = s.promote(0);
    REQUIRE(s.merge(1, 1, f).why == status::ok);
    auto const again = s.merge(0, 1, f);
    CHECK(again.why == status::ok);
    CHECK(again.done == page_count{1});
    CHECK(s.merge(1, 1, f).why == status::ok);
    s.fill(0, 1);
    CHECK(s.load(1) == s.filled(0));
}

KSM_CONFORMANCE("a write to a merged page is seen by its page alone") {
    subject<TestType> s(3);
    auto const f = s.promote(0);
    REQUIRE(s.merge(1, 1, f).why == status::ok);
    REQUIRE(s.merge(2, 1, f).why == status::ok);
    s.fill(1, 9);
    CHECK(s.load(0) == s.filled(0));
    CHECK(s.load(1) == s.filled(9));
    CHECK(s.load(2) == s.filled(0));
    CHECK(s.view(f) == s.filled(0));
    auto const r = s.survey(coverage::every_page);
    CHECK(r.shows_merged(0, f));
    CHECK(r.shows_private(1));
    CHECK(r.shows_merged(2, f));
}

KSM_CONFORMANCE("a page that was written can merge again") {
    subject<TestType> s(2);
    auto const f = s.promote(0);
    REQUIRE(s.merge(1, 1, f).why == status::ok);
    s.fill(1, 1);
    CHECK(s.merge(1, 1, f).why == status::changed);
    s.fill(1, 0);
    CHECK(s.merge(1, 1, f).why == status::ok);
    CHECK(s.survey(coverage::every_page).shows_merged(1, f));
}

// ---------------------------------------------------------------------- unmerging, release

KSM_CONFORMANCE("unmerging gives private copies of the same content") {
    subject<TestType> s(4);
    s.fill(0, 1);
    s.fill(2, 1);
    s.fill(3, 2);
    auto const f = s.promote(0);
    REQUIRE(s.merge(2, 1, f).why == status::ok);
    auto const before = s.load_all();
    auto const p = s.unmerge(0, 4);
    CHECK(p.why == status::ok);
    CHECK(p.done == page_count{4});
    CHECK(s.load_all() == before);
    auto const r = s.survey(coverage::every_page);
    for (std::size_t i = 0; i < 4; ++i) {
        CHECK(r.shows_private(i));
    }
    s.fill(0, 7);
    CHECK(s.load(2) == s.filled(1));
    CHECK(s.view(f) == s.filled(1));
}

KSM_CONFORMANCE("unmerging private pages succeeds and changes nothing") {
    subject<TestType> s(2);
    s.fill(0, 1);
    (void)s.promote(0);
    REQUIRE(s.unmerge(0, 2).why == status::ok);
    CHECK(s.unmerge(0, 2).done == page_count{2});
    CHECK(s.load(0) == s.filled(1));
}

KSM_CONFORMANCE("a page may map a released frame; it is listed as a private one") {
    subject<TestType> s(3);
    s.fill(0, 1);
    s.fill(1, 1);
    auto const f = s.promote(0);
    REQUIRE(s.merge(1, 1, f).why == status::ok);
    s.provider().release(f, page_count{1});
    // More frames, which must not come to lie upon it (I11).
    s.fill(2, 2);
    (void)s.promote(2);
    CHECK(s.load(0) == s.filled(1));
    CHECK(s.load(1) == s.filled(1));
    auto const r = s.survey(coverage::every_page);
    CHECK(r.shows_private(0));
    CHECK(r.shows_private(1));
    s.fill(0, 3);
    CHECK(s.load(0) == s.filled(3));
    CHECK(s.load(1) == s.filled(1));
    CHECK(s.unmerge(1, 1).why == status::ok);
    CHECK(s.load(1) == s.filled(1));
}

KSM_CONFORMANCE("a page that maps a released frame can be promoted and merged") {
    subject<TestType> s(3);
    auto const old = s.promote(0);
    REQUIRE(s.merge(1, 1, old).why == status::ok);
    s.provider().release(old, page_count{1});
    auto const f = s.promote(0);
    CHECK(s.view(f) == s.filled(0));
    CHECK(s.merge(1, 1, f).why == status::ok);
    CHECK(s.merge(2, 1, f).why == status::ok);
    s.fill(0, 1);
    CHECK(s.load(1) == s.filled(0));
    CHECK(s.load(2) == s.filled(0));
}

KSM_CONFORMANCE("several frames are released at once") {
    subject<TestType> s(3);
    auto const made = s.provider().promote(s.space(), s.page(0), page_count{3});
    REQUIRE(s.unmerge(0, 3).why == status::ok);
    s.provider().release(made.first, made.made.done);
    CHECK(s.load(2) == s.filled(0));
    auto const frames = s.promote(0, 3);
    CHECK(s.view(frames[2]) == s.filled(0));
}

// ---------------------------------------------------------------------- vanished pages

KSM_CONFORMANCE("a page that has vanished is listed as gone, and has no view") {
    if constexpr (conformance::pages_can_vanish<TestType>) {
        subject<TestType> s(3);
        (void)s.promote(0);
        s.settle();
        s.fixture.unmap(s.page(0));
        s.fixture.unmap(s.page(1));
        CHECK(s.view(0).bytes.empty());
        CHECK(s.view(1).bytes.empty());
        CHECK(s.view(2) == s.filled(0));
        auto const r = s.survey(coverage::changes);
        CHECK(r.shows_gone(0));
        CHECK(r.shows_gone(1));
        CHECK_FALSE(r.shows_gone(2));
        CHECK_FALSE(s.survey(coverage::every_page).pages.contains(0));
    }
}

KSM_CONFORMANCE("operations stop at a page that has vanished") {
    if constexpr (conformance::pages_can_vanish<TestType>) {
        subject<TestType> s(6);
        auto const f = s.promote(5);
        s.fixture.unmap(s.page(2));
        CHECK(s.promote(1, 3, status::gone).size() == 1);
        CHECK(s.survey(coverage::every_page).shows_private(3));
        CHECK(s.merge(2, 1, f).why == status::gone);
        auto const p = s.unmerge(1, 3);
        CHECK(p.done == page_count{1});
        CHECK(p.why == status::gone);
    }
}

KSM_CONFORMANCE("a space that has exited has no pages") {
    if constexpr (conformance::pages_can_vanish<TestType>) {
        subject<TestType> s(2);
        auto const f = s.promote(0);
        s.fixture.exit();
        auto const r = s.survey(coverage::changes);
        CHECK(r.given == coverage::every_page);
        CHECK(r.pages.empty());
        CHECK(s.view(0).bytes.empty());
        CHECK(s.promote(1, 1, status::gone).empty());
        CHECK(s.merge(1, 1, f).why == status::gone);
        CHECK(s.unmerge(0, 1).why == status::gone);
        CHECK(s.view(f) == s.filled(0));
        s.provider().release(f, page_count{1});
    }
}

// ---------------------------------------------------------------------- zero pages

template <class Fixture>
inline constexpr bool merges_zero_pages =
    ksm::has_zero_merging<std::remove_reference_t<decltype(std::declval<Fixture&>().provider())>>;

KSM_CONFORMANCE("zero pages merge without a frame, and are listed as such") {
    if constexpr (merges_zero_pages<TestType>) {
        subject<TestType> s(3);
        s.fill(1, 1);
        s.fill(1, 0);
        s.settle();
        auto const p = s.merge_zero(0, 2);
        CHECK(p.why == status::ok);
        CHECK(p.done == page_count{2});
        // Before any of them is read, which may give it memory of its own again.
        auto const r = s.survey(coverage::every_page);
        CHECK(r.state(0) == page_state::zero);
        CHECK(r.state(1) == page_state::zero);
        CHECK(r.shows_private(2));
        CHECK(s.load(0) == s.filled(0));
        CHECK(s.view(1) == s.filled(0));
        CHECK(s.merge_zero(0, 1).why == status::ok);
    }
}

KSM_CONFORMANCE("a page with a single byte set is no zero page") {
    if constexpr (merges_zero_pages<TestType>) {
        subject<TestType> s(3);
        s.fixture.store(s.page(1), s.page_size() - 1, std::byte{1});
        auto const before = s.load_all();
        auto const p = s.merge_zero(0, 3);
        CHECK(p.done == page_count{1});
        CHECK(p.why == status::changed);
        CHECK(s.load_all() == before);
        auto const r = s.survey(coverage::every_page);
        CHECK(r.shows_private(1));
        CHECK(r.shows_private(2));
    }
}

KSM_CONFORMANCE("of a set of zero pages those between are left alone") {
    if constexpr (merges_zero_pages<TestType>) {
        subject<TestType> s(5);
        s.settle();
        s.fill(1, 3);
        s.fill(4, 5);
        auto const before = s.load_all();
        // Pages 0, 2 and 4: page 3 is zero, too, but not in the set, and page 4 is not zero.
        page_set left{s.page(0), 0b10101};
        progress p;
        while (!left.empty() && p.why == status::ok) {
            p = s.provider().merge_zero(s.space(), left);
            left = left.without(p.done);
        }
        CHECK(p.why == status::changed);
        CHECK(left == page_set{s.page(4), 1});
        auto const r = s.survey(coverage::every_page);
        CHECK(r.state(0) == page_state::zero);
        CHECK(r.shows_private(1));
        CHECK(r.state(2) == page_state::zero);
        CHECK(r.shows_private(3));
        CHECK(r.shows_private(4));
        CHECK(s.load_all() == before);
    }
}

KSM_CONFORMANCE("a zero page is private again after a write, and after unmerging") {
    if constexpr (merges_zero_pages<TestType>) {
        subject<TestType> s(3);
        REQUIRE(s.merge_zero(0, 3).why == status::ok);
        s.settle();
        s.fill(0, 4);
        CHECK(s.load(0) == s.filled(4));
        CHECK(s.load(1) == s.filled(0));
        CHECK(s.survey(coverage::changes).asks_for_a_visit(0));
        CHECK(s.unmerge(1, 1).why == status::ok);
        auto const r = s.survey(coverage::every_page);
        CHECK(r.shows_private(0));
        CHECK(r.shows_private(1));
        CHECK(r.state(2) == page_state::zero);
        CHECK(s.load(1) == s.filled(0));
    }
}

#undef KSM_CONFORMANCE

#endif
