// SPDX-License-Identifier: BSL-1.0
#include <array>
#include <string>
#include <vector>

#include <ksm/providers/simulated.hpp>
#include <ksm/providers/tracing.hpp>

#include "../support/catch.hpp"

using namespace ksm;

TEST_CASE("every call is on record, in order, in one line each") {
    simulated_provider memory;
    auto const space = memory.create_space();
    memory.map(space, page_number{10}, page_count{4});
    tracing_provider traced{memory};

    std::array<page_run, 4> runs;
    (void)traced.survey(space, page_number{}, coverage::changes, runs);
    (void)traced.view(space, page_number{10});
    (void)traced.view(space, page_number{99});
    auto const made = traced.promote(space, page_number{10}, page_count{2});
    (void)traced.view(made.first);
    std::byte const one{1};
    memory.write(space, page_number{13}, 0, {&one, 1});
    (void)traced.merge(space, page_number{12}, page_count{2}, made.first);
    (void)traced.unmerge(space, page_number{10}, page_count{3});
    (void)traced.merge_zero(space, page_set::run(page_number{10}, page_count{1}));
    (void)traced.merge_zero(space, {page_number{10}, 0b1011});
    traced.release(made.first, page_count{2});
    (void)traced.promote(space, page_number{20}, page_count{1});

    std::vector<std::string> lines;
    for (auto const& call : traced.calls) {
        lines.push_back(to_string(call));
    }
    auto const f = made.first.value();
    auto const frame = std::to_string(f);
    auto const frames = frame + ".." + std::to_string(f + 1);
    CHECK(lines == std::vector<std::string>{
                       "survey space 0 from 0: 4 pages, changes, end",
                       "view_page space 0 pages 10: ok",
                       "view_page space 0 pages 99: gone",
                       "promote space 0 pages 10..11: 2 done, ok, frames " + frames,
                       "view_frame frames " + frame,
                       "merge space 0 pages 12..13 frames " + frames + ": 1 done, changed",
                       "unmerge space 0 pages 10..12: 3 done, ok",
                       "merge_zero space 0 pages 10: 1 done, ok",
                       "merge_zero space 0 pages 10..11 13: 2 done, changed",
                       "release frames " + frames,
                       "promote space 0 pages 20: 0 done, gone",
                   });
}

TEST_CASE("a survey that stops for want of room is on record as such") {
    simulated_provider memory{{.change_tracking = false}};
    auto const space = memory.create_space();
    memory.map(space, page_number{}, page_count{1});
    memory.map(space, page_number{5}, page_count{2});
    tracing_provider traced{memory};
    std::array<page_run, 1> runs;
    auto const r = traced.survey(space, page_number{}, coverage::changes, runs);
    CHECK_FALSE(r.end);
    REQUIRE(traced.calls.size() == 1);
    CHECK(to_string(traced.calls[0]) == "survey space 0 from 0: 1 pages, every page");
}

TEST_CASE("tracing changes no answer") {
    simulated_provider memory;
    auto const space = memory.create_space();
    memory.map(space, page_number{}, page_count{2});
    tracing_provider traced{memory};
    CHECK(traced.page_size() == memory.page_size());
    CHECK(&traced.base() == &memory);
    auto const made = traced.promote(space, page_number{}, page_count{2});
    CHECK(made.made.done == page_count{2});
    CHECK(memory.frame_of(space, page_number{1}) == made.first + page_count{1});
    memory.set_frame_limit(0);
    auto const p = traced.unmerge(space, page_number{}, page_count{2});
    CHECK(p.why == status::out_of_memory);
    CHECK(traced.calls.back().why == status::out_of_memory);
    CHECK(traced.calls.back().done == page_count{});
}
