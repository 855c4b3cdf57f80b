// SPDX-License-Identifier: BSL-1.0
// Programs that failed once, as model.test.cpp printed them, and the printer itself.
#include <string>
#include <utility>
#include <variant>

#include "model.hpp"
#include "support/catch.hpp"

namespace model { // exit, fork, write ... are global names, too
namespace {

void check_passes(setup const& s, program const& p) {
    auto const failure = run(s, p);
    INFO((failure ? failure->what : ""));
    CHECK_FALSE(failure.has_value());
}

} // namespace

TEST_CASE("A program is printed as C++ that makes it") {
    setup const s{
        .page_size = 256, .pages = 8, .policy = policy::weak_classic, .change_tracking = false};
    program const p{
        write{.space = 1, .page = 2, .offset = 3, .bytes = 4, .content = 5},
        at_seam{.seam = ksm::seam::merge_protected,
                .skip = 1,
                .here = true,
                .program = {lock{.space = 0, .page = 0, .on = true}, lift_limits{}}},
        fail_provider{
            .where = ksm::operation::merge, .after = 0, .done = 1, .why = ksm::status::busy},
        scan_pass{},
    };
    CHECK(print_test_case(s, p, "S8: an example") == R"(TEST_CASE("S8: an example") {
    setup const s{.page_size = 256, .pages = 8, .policy = policy::weak_classic, )"
                                                     R"(.change_tracking = false, .batches = false};
    check_passes(s, {
        write{.space = 1, .page = 2, .offset = 3, .bytes = 4, .content = 5},
        at_seam{.seam = ksm::seam::merge_protected, .skip = 1, .here = true, .program = {
            lock{.space = 0, .page = 0, .on = true},
            lift_limits{},
        }},
        fail_provider{.where = ksm::operation::merge, .after = 0, .done = 1, )"
                                                     R"(.why = ksm::status::busy},
        scan_pass{},
    });
}
)");
}

TEST_CASE("A failing program is reduced to what it needs, also at seams") {
    program const needed{
        fill{.space = 0, .first = 0, .count = 1, .content = 2, .step = 0},
        at_seam{.seam = ksm::seam::view_page, .skip = 0, .here = false, .program = {exit{1}}},
    };
    random_source numbers{1};
    setup const s;
    program p = draw(numbers, s, 40);
    p.insert(p.begin() + 7, needed[0]);
    p.insert(p.begin() + 31, at_seam{.seam = ksm::seam::view_page,
                                     .skip = 0,
                                     .here = false,
                                     .program = {pin{0, 1}, exit{1}, lift_limits{}}});
    auto const has = [](std::string const& text, std::string const& part) {
        return text.find(part) != std::string::npos;
    };
    auto const least = minimise(p, [&](program const& tried) {
        auto const text = print(tried);
        return has(text, ".count = 1, .content = 2, .step = 0") &&
               has(text, "seam::view_page, .skip = 0, .here = false") &&
               has(text, "exit{.space = 1}");
    });
    CHECK(print(least) == print(needed));
}

TEST_CASE("Every operation can be drawn, and the same numbers draw the same program") {
    setup const s;
    random_source numbers{7};
    random_source again{7};
    auto const text = print(draw(numbers, s, 5000));
    CHECK(text == print(draw(again, s, 5000)));
    [&]<std::size_t... I>(std::index_sequence<I...>) {
        for (std::string const name : {std::variant_alternative_t<I, any_operation>::name...}) {
            CAPTURE(name);
            CHECK(text.find(name + "{") != std::string::npos);
        }
    }(std::make_index_sequence<std::variant_size_v<any_operation>>{});
}

TEST_CASE("Pages that were first reported unknown are looked at again (S5)") {
    setup const s{
        .page_size = 64, .pages = 80, .policy = policy::standard, .change_tracking = true};
    check_passes(s, {
                        fail_metadata{.after = 2, .count = 5},
                        scan_pass{},
                        settle{},
                    });
}

TEST_CASE("A page that moves to another domain while it is merged shares nothing there (I2)") {
    setup const s{
        .page_size = 4096, .pages = 8, .policy = policy::standard, .change_tracking = true};
    check_passes(
        s, {
               at_seam{.seam = ksm::seam::view_page,
                       .skip = 2,
                       .here = true,
                       .program =
                           {
                               map{.space = 2, .first = 0, .count = 7, .domain = 1, .node = 0},
                           }},
               merge_now{.space = 0, .first = 2, .count = 13},
           });
}

TEST_CASE("A move that no survey has told yet is told after a promotion, too (I2)") {
    setup const s{
        .page_size = 256, .pages = 80, .policy = policy::standard, .change_tracking = true};
    check_passes(
        s, {
               at_seam{.seam = ksm::seam::promote_copied,
                       .skip = 0,
                       .here = true,
                       .program =
                           {
                               map{.space = 0, .first = 31, .count = 3, .domain = 1, .node = 1},
                           }},
               scan{.budget = 14},
               scan_pass{},
               settle{},
           });
}

TEST_CASE("unmerge_all that fails in the middle of a pass ends the pass (S12)") {
    setup const s{
        .page_size = 64, .pages = 20, .policy = policy::weak_classic, .change_tracking = true};
    check_passes(
        s,
        {
            scan{.budget = 4},
            fail_provider{
                .where = ksm::operation::unmerge, .after = 2, .done = 0, .why = ksm::status::busy},
            set_mergeable{.space = 0, .first = 2, .count = 6, .on = false},
            unmerge_all{},
            settle{},
        });
}

TEST_CASE("Pages made private before a range fails to become unmergeable are reported (S1)") {
    setup const s{
        .page_size = 64, .pages = 10, .policy = policy::standard, .change_tracking = true};
    check_passes(s, {
                        settle{},
                        limit_frames{.spare = 2},
                        set_mergeable{.space = 1, .first = 2, .count = 6, .on = false},
                        scan{.budget = 16},
                    });
}

TEST_CASE("Unmerging reaches pages that map a released frame and are not tracked (I8)") {
    setup const s{
        .page_size = 64, .pages = 11, .policy = policy::weak_standard, .change_tracking = true};
    check_passes(s, {
                        scan_pass{},
                        scan{.budget = 16},
                        fork{.parent = 0, .child = 3},
                        fail_metadata{.after = 2, .count = 2},
                        create{.space = 3},
                        create{.space = 2},
                        unmerge_all{},
                    });
}

TEST_CASE("A page that waits for a partner finds it in an adopted frame (S6)") {
    setup const s{.page_size = 64, .pages = 5, .policy = policy::standard, .change_tracking = true};
    check_passes(s, {
                        restart{},
                        enter{.space = 1},
                        limit_mappings{.spare = 6},
                        scan{.budget = 9},
                        scan_pass{},
                        restart{},
                        enter{.space = 0},
                        scan_pass{},
                        scan_pass{},
                        settle{},
                    });
}

TEST_CASE("Of equal pages that wait none is left behind when another merges (S9)") {
    setup const s{
        .page_size = 64, .pages = 18, .policy = policy::weak_standard, .change_tracking = true};
    check_passes(
        s, {
               restart{},
               fill{.space = 1, .first = 16, .count = 2, .content = 3, .step = 0},
               at_seam{.seam = ksm::seam::merge_compared,
                       .skip = 3,
                       .here = false,
                       .program =
                           {
                               fill{.space = 1, .first = 11, .count = 7, .content = 2, .step = 2},
                           }},
               use_zero_pages{.on = true},
               enter{.space = 1},
               limit_mappings{.spare = 0},
               scan_pass{},
               at_seam{.seam = ksm::seam::survey_begin,
                       .skip = 2,
                       .here = true,
                       .program =
                           {
                               fork{.parent = 0, .child = 3},
                           }},
               fill{.space = 1, .first = 7, .count = 8, .content = 2, .step = 1},
               scan{.budget = 14},
               write{.space = 1, .page = 12, .offset = 19, .bytes = 2, .content = 3},
               scan{.budget = 7},
               scan_pass{},
               enter{.space = 3},
               lift_limits{},
               at_seam{.seam = ksm::seam::unmerge_end,
                       .skip = 2,
                       .here = true,
                       .program =
                           {
                               fill{.space = 0, .first = 11, .count = 7, .content = 0, .step = 2},
                           }},
               unmerge{.space = 1, .first = 15, .count = 10},
               scan_pass{},
               scan_pass{},
               settle{},
           });
}

TEST_CASE("S9: a page that is promoted in vain behind its neighbour is merged in the end") {
    setup const s{.page_size = 64,
                  .pages = 256,
                  .policy = policy::weak_standard,
                  .change_tracking = false,
                  .batches = false};
    check_passes(s, {
                        scan_pass{},
                        scan_pass{},
                        fill{.space = 0, .first = 10, .count = 8, .content = 1, .step = 3},
                        restart{},
                        fill{.space = 0, .first = 26, .count = 7, .content = 2, .step = 1},
                        fail_provider{.where = ksm::operation::promote,
                                      .after = 1,
                                      .done = 0,
                                      .why = ksm::status::refused},
                        fill{.space = 0, .first = 101, .count = 5, .content = 2, .step = 3},
                        settle{},
                    });
}

} // namespace model
