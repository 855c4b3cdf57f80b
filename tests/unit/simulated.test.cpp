// SPDX-License-Identifier: BSL-1.0
#include <array>
#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include <ksm/providers/simulated.hpp>

#include "../support/catch.hpp"

using namespace ksm;

namespace {

/// One space with four pages of different content at page 10.
struct machine {
    explicit machine(simulated_options const& options = {}) : memory(options) {
        memory.map(space, page(0), page_count{4});
        for (int i = 0; i < 4; ++i) {
            fill(i, i + 1);
        }
        settle();
    }
    ~machine() { CHECK(memory.verify() == ""); }

    simulated_provider memory;
    space_id space = memory.create_space();

    static page_number page(int i) { return page_number{10 + static_cast<std::uint64_t>(i)}; }
    static page_range only(int i) { return {page(i), page_count{1}}; }

    bool fill(space_id s, int i, int value) {
        return memory.write(s, page(i), 0, std::array{std::byte(value)});
    }
    bool fill(int i, int value) { return fill(space, i, value); }
    int first_byte(space_id s, int i) {
        auto const bytes = memory.read(s, page(i));
        return bytes.empty() ? -1 : std::to_integer<int>(bytes[0]);
    }
    int first_byte(int i) { return first_byte(space, i); }
    promotion promote(int i, std::size_t n = 1) {
        return memory.promote(space, page(i), page_count{n});
    }
    status merge(int i, frame_id f) { return memory.merge(space, page(i), page_count{1}, f).why; }

    /// Acts once, at the first visit of a seam.
    void once(seam where, std::function<void()> act) {
        memory.on_seam = [where, act, done = false](seam s, space_id, page_number) mutable {
            if (s == where && !done) {
                done = true;
                act();
            }
        };
    }
    std::vector<page_run> changes(space_id s) {
        std::vector<page_run> runs(16);
        auto const r = memory.survey(s, page_number{}, coverage::changes, runs);
        CHECK(r.end);
        runs.resize(r.runs);
        return runs;
    }
    std::vector<page_run> changes() { return changes(space); }
    void settle() { (void)changes(); }
};

} // namespace

// ---------------------------------------------------------------------- writers and windows

TEST_CASE("a write at any seam of a promotion survives, and the frame is what was protected") {
    auto const where = GENERATE(seam::promote_begin, seam::promote_protected, seam::promote_copied,
                                seam::promote_replaced, seam::promote_end);
    machine m;
    m.once(where, [&] { CHECK(m.fill(0, 99)); });
    auto const made = m.promote(0);
    REQUIRE(made.made.why == status::ok);
    CHECK(m.first_byte(0) == 99);
    bool const before = where == seam::promote_begin;
    CHECK(std::to_integer<int>(m.memory.view(made.first)[0]) == (before ? 99 : 1));
    CHECK(m.memory.is_stable(m.space, m.page(0)) == before);
    CHECK(m.changes().size() == (before ? 0 : 1));
}

TEST_CASE("a write at any seam of a merge survives") {
    auto const where = GENERATE(seam::merge_begin, seam::merge_protected, seam::merge_compared,
                                seam::merge_replaced, seam::merge_end);
    machine m;
    m.fill(1, 1);
    auto const f = m.promote(0).first;
    m.once(where, [&] { CHECK(m.fill(1, 99)); });
    auto const why = m.merge(1, f);
    CHECK(why == (where == seam::merge_begin ? status::changed : status::ok));
    CHECK(m.first_byte(0) == 1);
    CHECK(m.first_byte(1) == 99);
    CHECK(m.memory.is_private(m.space, m.page(1)));
    auto const listed = m.changes();
    REQUIRE(listed.size() == 1);
    CHECK(listed[0].first == m.page(1));
    CHECK(listed[0].state == page_state::written);
}

TEST_CASE("a write at any seam of a zero merge survives") {
    auto const where =
        GENERATE(seam::merge_zero_begin, seam::merge_zero_protected, seam::merge_zero_compared,
                 seam::merge_zero_replaced, seam::merge_zero_end);
    machine m;
    m.fill(1, 0);
    m.once(where, [&] { CHECK(m.fill(1, 99)); });
    auto const why = m.memory.merge_zero(m.space, page_set::run(m.page(1), page_count{1})).why;
    CHECK(why == (where == seam::merge_zero_begin ? status::changed : status::ok));
    CHECK(m.first_byte(1) == 99);
    CHECK(m.memory.is_private(m.space, m.page(1)));
}

TEST_CASE("a writer that waits does not change what the window compares") {
    machine m;
    m.fill(1, 1);
    auto const f = m.promote(0).first;
    int during = 0;
    m.memory.on_seam = [&](seam s, space_id, page_number page) {
        if (excludes_writers(s) && page == m.page(1)) {
            CHECK(m.fill(1, 50 + during));
            CHECK(m.first_byte(1) == 1);
            ++during;
        }
    };
    CHECK(m.merge(1, f) == status::ok);
    CHECK(during == 3);
    CHECK(m.first_byte(1) == 52); // the last of three
}

TEST_CASE("a writer that was let wait has its frame, however short frames are") {
    machine m;
    m.fill(1, 1);
    auto const f = m.promote(0).first;
    m.memory.set_frame_limit(m.memory.frames_in_use() + 1);
    std::vector<bool> accepted;
    m.once(seam::merge_compared, [&] {
        accepted.push_back(m.fill(1, 98));
        accepted.push_back(m.fill(1, 99)); // its frame would be one too many
    });
    CHECK(m.merge(1, f) == status::ok);
    CHECK(accepted == std::vector{true, false});
    CHECK(m.first_byte(1) == 98);
}

TEST_CASE("a write to another page does not wait") {
    machine m;
    m.once(seam::promote_protected, [&] {
        CHECK(m.fill(1, 77));
        CHECK(m.first_byte(1) == 77);
    });
    CHECK(m.promote(0).made.why == status::ok);
}

// ---------------------------------------------------------------------- pins and locks

TEST_CASE("a pin that comes before the replacement keeps the page from being merged (S20)") {
    auto const where = GENERATE(seam::merge_begin, seam::merge_protected, seam::merge_compared);
    machine m;
    m.fill(1, 1);
    auto const f = m.promote(0).first;
    m.once(where, [&] { CHECK(m.memory.pin(m.space, m.page(1))); });
    CHECK(m.merge(1, f) == status::busy);
    CHECK(m.memory.is_private(m.space, m.page(1)));
    m.memory.unpin(m.space, m.page(1));
    CHECK(m.merge(1, f) == status::ok);
}

TEST_CASE("a pin keeps the page from being promoted, and leaves no frame behind") {
    auto const where = GENERATE(seam::promote_begin, seam::promote_protected, seam::promote_copied);
    machine m;
    auto const frames = m.memory.frames_in_use();
    m.once(where, [&] { CHECK(m.memory.pin(m.space, m.page(0))); });
    auto const made = m.promote(0);
    CHECK(made.made.why == status::busy);
    CHECK(made.made.done == page_count{});
    CHECK(m.memory.frames_in_use() == frames);
    CHECK(m.memory.is_private(m.space, m.page(0)));
}

TEST_CASE("pinning a merged page gives it a private copy, which the next survey lists") {
    machine m;
    auto const f = m.promote(0).first;
    CHECK(m.memory.pin(m.space, m.page(0)));
    CHECK(m.memory.is_private(m.space, m.page(0)));
    CHECK(m.memory.references(f) == 0);
    auto const listed = m.changes();
    REQUIRE(listed.size() == 1);
    CHECK(listed[0].state == page_state::written);
}

TEST_CASE("a locked page is left for later (S8)") {
    machine m;
    m.fill(1, 1);
    auto const f = m.promote(0).first;
    m.memory.lock(m.space, m.page(1));
    CHECK(m.merge(1, f) == status::busy);
    CHECK(m.promote(1).made.why == status::busy);
    m.memory.unlock(m.space, m.page(1));
    CHECK(m.merge(1, f) == status::ok);
}

// ---------------------------------------------------------------------- vanishing pages

TEST_CASE("a page that vanishes before its replacement stops the merge") {
    auto const where = GENERATE(seam::merge_begin, seam::merge_protected, seam::merge_compared);
    auto const way = GENERATE(0, 1, 2);
    machine m;
    m.fill(1, 1);
    auto const f = m.promote(0).first;
    m.once(where, [&] {
        switch (way) {
        case 0: m.memory.unmap(m.space, m.only(1)); break;
        case 1: CHECK(m.memory.set_mergeable(m.space, m.only(1), false)); break;
        case 2: m.memory.exit(m.space); break;
        }
    });
    CHECK(m.merge(1, f) == status::gone);
    CHECK(m.memory.references(f) == (way == 2 ? 0 : 1));
}

TEST_CASE("a page that is mapped anew in the window is another page") {
    machine m;
    m.fill(1, 1);
    auto const f = m.promote(0).first;
    m.once(seam::merge_compared, [&] {
        CHECK(m.memory.map(m.space, m.page(1), page_count{1}));
        CHECK(m.fill(1, 99)); // waits, and falls upon the new page
    });
    CHECK(m.merge(1, f) == status::changed);
    CHECK(m.first_byte(1) == 99);
}

TEST_CASE("a store that waits for a page that is unmapped is dropped with it") {
    machine m;
    m.fill(1, 1);
    auto const f = m.promote(0).first;
    m.once(seam::merge_compared, [&] {
        CHECK(m.fill(1, 99));
        m.memory.unmap(m.space, m.only(1));
    });
    CHECK(m.merge(1, f) == status::gone);
    CHECK_FALSE(m.memory.is_mapped(m.space, m.page(1)));
}

TEST_CASE("a fork in any window keeps both spaces whole") {
    auto const where = GENERATE(seam::merge_protected, seam::merge_compared, seam::merge_replaced);
    machine m;
    m.fill(1, 1);
    auto const f = m.promote(0).first;
    space_id child{};
    m.once(where, [&] {
        child = m.memory.fork(m.space);
        CHECK(m.fill(m.space, 1, 98));
        CHECK(m.fill(child, 1, 99)); // its own page: nothing to wait for
    });
    CHECK(m.merge(1, f) == status::ok);
    CHECK(m.first_byte(m.space, 1) == 98);
    CHECK(m.first_byte(child, 1) == 99);
    CHECK(m.first_byte(child, 0) == 1);
}

// ---------------------------------------------------------------------- limits

TEST_CASE("a promotion needs a frame before it gives the old one back") {
    machine m;
    m.memory.set_frame_limit(m.memory.frames_in_use());
    auto const made = m.promote(0, 2);
    CHECK(made.made.why == status::out_of_frames);
    CHECK(made.made.done == page_count{});
    m.memory.set_frame_limit(m.memory.frames_in_use() + 1);
    CHECK(m.promote(0, 2).made.done == page_count{2});
}

TEST_CASE("without frames a write to a shared page fails, and stores nothing") {
    machine m;
    m.fill(1, 1);
    auto const f = m.promote(0).first;
    REQUIRE(m.merge(1, f) == status::ok);
    m.memory.set_frame_limit(m.memory.frames_in_use());
    CHECK_FALSE(m.fill(1, 99));
    CHECK(m.first_byte(1) == 1);
    CHECK(m.fill(2, 99)); // a private page needs none
    CHECK_FALSE(m.memory.map(m.space, page_number{100}, page_count{1}));
    CHECK_FALSE(m.memory.pin(m.space, m.page(1)));
    CHECK_FALSE(m.memory.set_mergeable(m.space, m.only(1), false));
    CHECK(m.memory.is_stable(m.space, m.page(1)));
    auto const p = m.memory.unmerge(m.space, m.page(1), page_count{1});
    CHECK(p.why == status::out_of_memory);
    CHECK(p.done == page_count{});
}

TEST_CASE("a run of consecutive frames costs two mappings, whatever its length") {
    machine m;
    CHECK(m.promote(0, 3).made.why == status::ok);
    CHECK(m.memory.mappings_in_use() == 2);
    m.fill(1, 99); // two runs now
    CHECK(m.memory.mappings_in_use() == 4);
    CHECK(m.memory.unmerge(m.space, m.page(0), page_count{1}).why == status::ok);
    CHECK(m.memory.mappings_in_use() == 2);
    m.memory.unmap(m.space, m.only(2));
    CHECK(m.memory.mappings_in_use() == 0);
}

TEST_CASE("beyond the limit of mappings nothing merges, but a run can grow") {
    machine m{{.mapping_limit = 2}};
    for (int i = 0; i < 4; ++i) {
        m.fill(i, i % 2);
    }
    auto const made = m.promote(0, 2);
    REQUIRE(made.made.done == page_count{2});
    CHECK(m.promote(3).made.why == status::out_of_mappings);
    CHECK(m.merge(2, made.first) == status::out_of_mappings);
    CHECK(m.memory.is_private(m.space, m.page(2)));
    CHECK(m.first_byte(2) == 0);
    CHECK(m.memory.merge_zero(m.space, page_set::run(m.page(2), page_count{1})).why == status::ok);
    m.memory.set_mapping_limit(0); // below what is in use: what takes no more still goes on
    m.fill(3, 0);
    CHECK(m.memory.merge_zero(m.space, page_set::run(m.page(3), page_count{1})).why == status::ok);
    CHECK(m.merge(0, made.first) == status::ok);
    m.memory.set_mapping_limit(4);
    m.fill(3, 1);
    CHECK(m.promote(3).made.why == status::ok);
}

// ---------------------------------------------------------------------- fork, exit, surveys

TEST_CASE("a fork shares ordinary frames until either side writes") {
    machine m;
    auto const frames = m.memory.frames_in_use();
    auto const child = m.memory.fork(m.space);
    CHECK(m.memory.frames_in_use() == frames);
    m.fill(m.space, 0, 50);
    m.fill(child, 1, 60);
    CHECK(m.memory.frames_in_use() == frames + 2);
    CHECK(m.first_byte(child, 0) == 1);
    CHECK(m.first_byte(m.space, 1) == 2);
    m.memory.exit(child);
    CHECK(m.memory.frames_in_use() == frames);
    CHECK_FALSE(m.memory.is_mapped(child, m.page(0)));
}

TEST_CASE("the first survey of a forked space lists merged, zero and private pages") {
    auto const tracking = GENERATE(true, false);
    machine m{{.change_tracking = tracking}};
    m.fill(3, 0);
    auto const made = m.promote(0, 2);
    REQUIRE(m.memory.merge_zero(m.space, page_set::run(m.page(3), page_count{1})).why ==
            status::ok);
    auto const child = m.memory.fork(m.space);
    CHECK(m.memory.references(made.first) == 2);
    auto const listed = m.changes(child);
    REQUIRE(listed.size() == 3);
    CHECK(listed[0].state == page_state::merged);
    CHECK(listed[0].frame == made.first);
    CHECK(listed[0].pages == page_count{2});
    CHECK(listed[1].state == (tracking ? page_state::written : page_state::unknown));
    CHECK(listed[2].state == page_state::zero);
    CHECK(m.changes(child).size() == (tracking ? 0 : 3));
}

TEST_CASE("without tracking only broken sharing is known to be written") {
    machine m{{.change_tracking = false}};
    CHECK(m.promote(0, 2).made.why == status::ok);
    m.settle();
    m.fill(0, 50);
    m.fill(3, 60);
    auto const listed = m.changes();
    REQUIRE(listed.size() == 3);
    CHECK(listed[0].state == page_state::written);
    CHECK(listed[1].state == page_state::merged);
    CHECK(listed[2].state == page_state::unknown);
    CHECK(m.changes()[0].state == page_state::unknown);
}

TEST_CASE("a survey of every page tells written pages from untouched ones") {
    machine m;
    m.fill(2, 50);
    std::array<page_run, 8> runs;
    auto const r = m.memory.survey(m.space, page_number{}, coverage::every_page, runs);
    REQUIRE(r.runs == 3);
    CHECK(runs[0].state == page_state::unknown);
    CHECK(runs[1].state == page_state::written);
    CHECK(runs[1].first == m.page(2));
    CHECK(runs[2].state == page_state::unknown);
    CHECK(m.changes().empty());
}

TEST_CASE("what is written while a survey ends belongs to the next") {
    machine m;
    m.once(seam::survey_end, [&] { m.fill(1, 50); });
    CHECK(m.changes().empty());
    auto const listed = m.changes();
    REQUIRE(listed.size() == 1);
    CHECK(listed[0].first == m.page(1));
}

TEST_CASE("runs end where the domain, the node or the order of frames does") {
    machine m;
    CHECK(m.memory.set_domain(m.space, {m.page(0), page_count{4}}, 5));
    CHECK(m.memory.set_domain(m.space, m.only(1), 7));
    CHECK(m.memory.set_node(m.space, m.only(3), 3));
    std::array<page_run, 8> runs;
    auto r = m.memory.survey(m.space, page_number{}, coverage::every_page, runs);
    REQUIRE(r.runs == 4);
    CHECK(runs[1].domain == 7);
    CHECK(runs[2].domain == 5);
    CHECK(runs[2].node == 0);
    CHECK(runs[3].node == 3);

    machine n;
    auto const second = n.promote(1).first;
    auto const first = n.promote(0).first;
    CHECK(second < first);
    r = n.memory.survey(n.space, page_number{}, coverage::every_page, runs);
    REQUIRE(r.runs == 3);
    CHECK(runs[0].frame == first);
    CHECK(runs[1].frame == second);
}

TEST_CASE(
    "a page that has moved to another domain does not merge, whatever the engine knows (I2)") {
    auto const where = GENERATE(seam::merge_begin, seam::merge_protected, seam::merge_compared);
    machine m;
    m.fill(1, 1);
    auto const f = m.promote(0).first;
    m.once(where, [&] { CHECK(m.memory.set_domain(m.space, m.only(1), 7)); });
    CHECK(m.merge(1, f) == status::changed);
    CHECK(m.memory.is_private(m.space, m.page(1)));
    CHECK(m.merge(1, f) == status::changed);
    CHECK(m.memory.set_domain(m.space, m.only(1), 0));
    CHECK(m.merge(1, f) == status::ok);
}

TEST_CASE("a page that has moved is listed, even if the engine merges it first") {
    machine m;
    CHECK(m.memory.set_node(m.space, m.only(1), 3));
    auto const f = m.promote(1).first;
    auto const listed = m.changes();
    REQUIRE(listed.size() == 1);
    CHECK(listed[0].state == page_state::merged);
    CHECK(listed[0].frame == f);
    CHECK(listed[0].node == 3);
    CHECK(m.changes().empty());
}

TEST_CASE("what becomes unmergeable is gone, and what becomes mergeable appears (S1)") {
    machine m;
    CHECK(m.promote(0).made.why == status::ok);
    CHECK(m.memory.set_mergeable(m.space, {m.page(0), page_count{2}}, false));
    CHECK(m.memory.is_private(m.space, m.page(0)));
    CHECK(m.memory.view(m.space, m.page(0)).empty());
    auto listed = m.changes();
    REQUIRE(listed.size() == 1);
    CHECK(listed[0].state == page_state::gone);
    CHECK(listed[0].pages == page_count{2});
    m.fill(0, 50);
    CHECK(m.changes().empty());
    CHECK(m.memory.set_mergeable(m.space, m.only(0), true));
    listed = m.changes();
    REQUIRE(listed.size() == 1);
    CHECK(listed[0].state == page_state::written);
}

// ---------------------------------------------------------------------- frames and views

TEST_CASE("a released frame is reclaimed with its last page, an unreleased one is not (I11)") {
    machine m;
    m.fill(1, 1);
    auto const f = m.promote(0).first;
    REQUIRE(m.merge(1, f) == status::ok);
    CHECK(m.memory.references(f) == 2);
    m.fill(0, 50);
    m.fill(1, 50);
    auto const frames = m.memory.frames_in_use();
    CHECK(m.memory.is_live(f));
    m.memory.release(f, page_count{1});
    CHECK(m.memory.frames_in_use() == frames - 1);

    auto const g = m.promote(2).first;
    m.memory.release(g, page_count{1});
    CHECK(m.memory.frame_of(m.space, m.page(2)) == g);
    CHECK_FALSE(m.memory.is_live(g));
    m.memory.unmap(m.space, m.only(2));
    CHECK(m.memory.references(g) == 0);
    CHECK(m.memory.frames_in_use() == frames - 2);
}

TEST_CASE("a view of a page lives until the second next one, and no longer") {
    machine m;
    auto const a = m.memory.view(m.space, m.page(0));
    (void)m.memory.view(m.space, m.page(1));
    CHECK(std::to_integer<int>(a[0]) == 1);
    (void)m.memory.view(m.space, m.page(2));
    CHECK(std::to_integer<int>(a[0]) == 3);
}

TEST_CASE("the seed moves the numbers of frames, and nothing else") {
    machine a;
    machine b{{.seed = 1000}};
    auto const fa = a.promote(0).first;
    auto const fb = b.promote(0).first;
    CHECK(fb.value() == fa.value() + 1000);
}

// ---------------------------------------------------------------------- seams

TEST_CASE("every step of every operation passes its seam, in order") {
    machine m;
    std::string seen;
    m.memory.on_seam = [&](seam s, space_id, page_number) { (seen += name(s)) += ' '; };
    m.fill(1, 1);
    m.fill(2, 0);
    auto const f = m.promote(0).first;
    CHECK(seen == "promote_begin promote_protected promote_copied promote_replaced promote_end ");
    seen.clear();
    CHECK(m.merge(1, f) == status::ok);
    CHECK(seen == "merge_begin merge_protected merge_compared merge_replaced merge_end ");
    seen.clear();
    CHECK(m.merge(3, f) == status::changed);
    CHECK(seen == "merge_begin merge_protected merge_compared merge_end ");
    seen.clear();
    CHECK(m.merge(1, f) == status::ok); // it is there already
    CHECK(seen == "merge_begin merge_end ");
    seen.clear();
    (void)m.memory.merge_zero(m.space, page_set::run(m.page(2), page_count{1}));
    CHECK(seen == "merge_zero_begin merge_zero_protected merge_zero_compared "
                  "merge_zero_replaced merge_zero_end ");
    seen.clear();
    (void)m.memory.unmerge(m.space, m.page(0), page_count{2});
    m.memory.release(f, page_count{1});
    (void)m.memory.view(m.space, m.page(0));
    CHECK(seen == "unmerge_begin unmerge_end unmerge_begin unmerge_end release_begin release_end "
                  "view_page ");
    seen.clear();
    m.settle();
    CHECK(seen == "survey_begin survey_end ");
}

TEST_CASE("the hook is not called from within itself") {
    machine m;
    int calls = 0;
    m.memory.on_seam = [&](seam, space_id, page_number) {
        ++calls;
        (void)m.memory.view(m.space, m.page(0));
    };
    (void)m.memory.view(m.space, m.page(1));
    CHECK(calls == 1);
}

TEST_CASE("verification sees a stable frame that changes (I3), and a changed zero page") {
    simulated_provider memory{{.page_size = 64}};
    auto const space = memory.create_space();
    memory.map(space, page_number{}, page_count{2});
    auto const f = memory.promote(space, page_number{}, page_count{1}).first;
    CHECK(memory.verify() == "");
    auto& byte = const_cast<std::byte&>(memory.view(f)[3]);
    byte = std::byte{1};
    CHECK(memory.verify() == "a stable frame changed (I3)");
    byte = std::byte{};
    CHECK(memory.verify() == "");
    REQUIRE(memory.merge_zero(space, page_set::run(page_number{1}, page_count{1})).why ==
            status::ok);
    const_cast<std::byte&>(memory.read(space, page_number{1})[5]) = std::byte{1};
    CHECK(memory.verify() == "the zero page changed (I3)");
}
