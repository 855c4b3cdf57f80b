// SPDX-License-Identifier: BSL-1.0
#include <cstddef>
#include <cstdint>
#include <tuple>
#include <utility>
#include <vector>

#include <ksm/providers/linux/piece_list.hpp>

#include "../support/catch.hpp"

using ksm::detail::os::piece_list;

namespace {

std::vector<std::pair<std::size_t, std::size_t>> pieces(piece_list const& l) {
    std::vector<std::pair<std::size_t, std::size_t>> all;
    for (auto const& p : l) {
        all.emplace_back(p.first, p.pages);
    }
    return all;
}
using list = std::vector<std::pair<std::size_t, std::size_t>>;

} // namespace

TEST_CASE("each run of ones in a mask is a piece") {
    auto const l = piece_list::of(0b1'1100'1011, 64);
    CHECK(pieces(l) == list{{0, 2}, {3, 1}, {6, 3}});
    CHECK(l.pages() == 6);
    CHECK(pieces(piece_list::of(~std::uint64_t{0}, 64)) == list{{0, 64}});
    CHECK(pieces(piece_list::of(std::uint64_t{1} << 63U | 1U, 64)) == list{{0, 1}, {63, 1}});
    CHECK(pieces(piece_list::of(0x5555'5555'5555'5555, 64)).size() == piece_list::most);
}

TEST_CASE("pages of a mask that lie behind the end of a place are in no piece") {
    CHECK(pieces(piece_list::of(0b1'1100'1011, 7)) == list{{0, 2}, {3, 1}, {6, 1}});
    CHECK(pieces(piece_list::of(0b1'1100'1011, 128)) == list{{0, 2}, {3, 1}, {6, 3}});
}

TEST_CASE("the first pieces are a list, too") {
    auto const l = piece_list::of(0b1'1100'1011, 64);
    CHECK(pieces(l.front(2)) == list{{0, 2}, {3, 1}});
    CHECK(l.front(2).pages() == 3);
    CHECK(pieces(l.front(9)) == pieces(l));
}

TEST_CASE("pages are counted over all pieces") {
    auto const l = piece_list::of(0b1'1100'1011, 64);
    for (auto const& [i, first, left] : {std::tuple{0U, 0U, 2U}, std::tuple{1U, 1U, 1U},
                                         std::tuple{2U, 3U, 1U}, std::tuple{4U, 7U, 2U}}) {
        CHECK(l.from(i).first == first);
        CHECK(l.from(i).pages == left);
    }
    CHECK(pieces(l.lowest(4)) == list{{0, 2}, {3, 1}, {6, 1}});
    CHECK(l.lowest(4).pages() == 4);
    CHECK(pieces(l.lowest(0)).empty());
    CHECK(pieces(l.lowest(6)) == pieces(l));
}
