// SPDX-License-Identifier: BSL-1.0
#include <cstddef>

#include <ksm/providers/linux/window_size.hpp>

#include "../support/catch.hpp"

using ksm::detail::os::window_size;

TEST_CASE("a window begins with as many pages as the engine merges at once") {
    window_size const s;
    CHECK(s.compared() == 128);
    CHECK(s.copied() == 48);
    CHECK(s.pieces() == 32);
}

TEST_CASE("a window that somebody found too long halves the next ones, and others add a page") {
    window_size s;
    s.closed(128, true);
    CHECK(s.compared() == 64);
    s.closed(64, true);
    CHECK(s.compared() == 32);
    CHECK(s.copied() == 12);
    CHECK(s.pieces() == 8);
    s.closed(1, false);
    CHECK(s.compared() == 33);
    for (int i = 0; i < 1000; ++i) {
        s.closed(1, false);
    }
    CHECK(s.compared() == 128);
}

TEST_CASE("a window that was too long though it was small does not make others smaller") {
    window_size s;
    s.closed(31, true);
    CHECK(s.compared() == 128);
}

TEST_CASE("there is always a page, a copy and a piece in a window") {
    window_size s;
    for (int i = 0; i < 20; ++i) {
        s.closed(128, true);
    }
    CHECK(s.compared() == 1);
    CHECK(s.copied() == 1);
    CHECK(s.pieces() == 1);
}
