// SPDX-License-Identifier: BSL-1.0
#include <array>
#include <cstddef>

#include <ksm/providers/faulty.hpp>
#include <ksm/providers/simulated.hpp>

#include "../support/catch.hpp"

using namespace ksm;

namespace {

struct setup {
    simulated_provider memory;
    space_id space = memory.create_space();
    faulty_provider<simulated_provider> faulty{memory};

    setup() { memory.map(space, page_number{}, page_count{8}); }

    progress unmerge(std::size_t pages) {
        return faulty.unmerge(space, page_number{}, page_count{pages});
    }
};

fault once(operation where, std::size_t call, status why, std::size_t done = 0) {
    return {where, call, 1, why, page_count{done}};
}

} // namespace

TEST_CASE("without faults every call goes through") {
    setup s;
    auto const made = s.faulty.promote(s.space, page_number{}, page_count{2});
    CHECK(made.made.done == page_count{2});
    CHECK(s.faulty.merge(s.space, page_number{2}, page_count{2}, made.first).why == status::ok);
    CHECK(s.faulty.merge_zero(s.space, page_set::run(page_number{4}, page_count{1})).why ==
          status::ok);
    CHECK_FALSE(s.faulty.view(s.space, page_number{}).empty());
    CHECK_FALSE(s.faulty.view(made.first).empty());
    CHECK(s.unmerge(4).why == status::ok);
    s.faulty.release(made.first, page_count{2});
    CHECK_FALSE(s.memory.is_live(made.first));
    CHECK(s.faulty.failures() == 0);
    CHECK(s.faulty.calls(operation::promote) == 1);
    CHECK(s.faulty.calls(operation::release) == 1);
    CHECK(s.faulty.calls(operation::survey) == 0);
}

TEST_CASE("the call that the schedule names fails, its neighbours do not") {
    setup s;
    s.faulty.add(once(operation::unmerge, 1, status::out_of_memory));
    CHECK(s.unmerge(1).why == status::ok);
    auto const failed = s.unmerge(1);
    CHECK(failed.why == status::out_of_memory);
    CHECK(failed.done == page_count{});
    CHECK(s.unmerge(1).why == status::ok);
    CHECK(s.faulty.failures() == 1);
}

TEST_CASE("a fault is of one operation") {
    setup s;
    s.faulty.add(once(operation::unmerge, 0, status::out_of_memory));
    CHECK(s.faulty.promote(s.space, page_number{}, page_count{1}).made.why == status::ok);
    CHECK(s.unmerge(1).why == status::out_of_memory);
}

TEST_CASE("a persistent fault stays until the schedule is cleared") {
    setup s;
    s.faulty.add({operation::unmerge, 1, fault::forever, status::busy, {}});
    CHECK(s.unmerge(1).why == status::ok);
    for (int i = 0; i < 5; ++i) {
        CHECK(s.unmerge(1).why == status::busy);
    }
    s.faulty.clear();
    CHECK(s.unmerge(1).why == status::ok);
}

TEST_CASE("the pages before the failure are done, those behind it are not") {
    setup s;
    s.faulty.add(once(operation::promote, 0, status::out_of_frames, 3));
    auto const made = s.faulty.promote(s.space, page_number{}, page_count{5});
    CHECK(made.made.why == status::out_of_frames);
    CHECK(made.made.done == page_count{3});
    CHECK(s.memory.frame_of(s.space, page_number{2}) == made.first + page_count{2});
    CHECK(s.memory.is_private(s.space, page_number{3}));

    s.faulty.add(once(operation::merge, 0, status::out_of_mappings, 1));
    auto const merged = s.faulty.merge(s.space, page_number{5}, page_count{3}, made.first);
    CHECK(merged.why == status::out_of_mappings);
    CHECK(merged.done == page_count{1});
    CHECK(s.memory.is_stable(s.space, page_number{5}));
    CHECK(s.memory.is_private(s.space, page_number{6}));

    s.faulty.add(once(operation::merge_zero, 0, status::refused, 1));
    auto const zeroed = s.faulty.merge_zero(s.space, page_set::run(page_number{6}, page_count{2}));
    CHECK(zeroed.done == page_count{1});
    CHECK(zeroed.why == status::refused);
    CHECK(s.memory.is_zero(s.space, page_number{6}));
    CHECK(s.memory.is_private(s.space, page_number{7}));
}

TEST_CASE("a call that asks for no more than is granted succeeds") {
    setup s;
    s.faulty.add(once(operation::unmerge, 0, status::busy, 2));
    auto const p = s.unmerge(2);
    CHECK(p.why == status::ok);
    CHECK(p.done == page_count{2});
    CHECK(s.faulty.failures() == 0);
}

TEST_CASE("`ok` makes an operation stop early") {
    setup s;
    s.faulty.add(once(operation::promote, 0, status::ok, 2));
    auto const made = s.faulty.promote(s.space, page_number{}, page_count{4});
    CHECK(made.made.why == status::ok);
    CHECK(made.made.done == page_count{2});
    CHECK(s.memory.is_private(s.space, page_number{2}));
}

TEST_CASE("what stops the base before the fault does is what is answered") {
    setup s;
    s.memory.pin(s.space, page_number{1});
    s.faulty.add(once(operation::promote, 0, status::out_of_frames, 3));
    auto const made = s.faulty.promote(s.space, page_number{}, page_count{5});
    CHECK(made.made.done == page_count{1});
    CHECK(made.made.why == status::busy);
}

TEST_CASE("a view can claim that the page is gone") {
    setup s;
    s.faulty.add(once(operation::view_page, 1, status::gone));
    CHECK_FALSE(s.faulty.view(s.space, page_number{}).empty());
    CHECK(s.faulty.view(s.space, page_number{}).empty());
    CHECK_FALSE(s.faulty.view(s.space, page_number{}).empty());
}

TEST_CASE("a survey can be short of room") {
    setup s;
    s.memory.map(s.space, page_number{20}, page_count{1});
    s.memory.map(s.space, page_number{30}, page_count{1});
    s.faulty.add({operation::survey, 0, fault::forever, status::ok, page_count{1}});
    std::array<page_run, 8> runs;
    std::size_t calls = 0;
    std::size_t listed = 0;
    page_number from;
    for (bool end = false; !end; ++calls) {
        auto const r = s.faulty.survey(s.space, from, coverage::every_page, runs);
        CHECK(r.runs <= 1);
        listed += r.runs;
        from = r.next;
        end = r.end;
    }
    CHECK(calls == 3);
    CHECK(listed == 3);
}

TEST_CASE("a function may decide where the schedule is silent") {
    setup s;
    fault const every_third{operation::unmerge, 0, 0, status::busy, {}};
    s.faulty.decide = [&](operation o, std::size_t call) {
        return o == operation::unmerge && call % 3 == 2 ? &every_third : nullptr;
    };
    s.faulty.add(once(operation::unmerge, 2, status::out_of_memory));
    std::array<status, 6> answers{};
    for (auto& answer : answers) {
        answer = s.unmerge(1).why;
    }
    CHECK(answers == std::array{status::ok, status::ok, status::out_of_memory, status::ok,
                                status::ok, status::busy});
    CHECK(s.faulty.calls(operation::unmerge) == 6);
}
