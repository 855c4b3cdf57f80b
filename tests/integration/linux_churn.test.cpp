// SPDX-License-Identifier: BSL-1.0
// What merging takes must not grow with time: 64 MiB are written and merged again and again.
// KSM_SOAK_SECONDS says for how long; from 600 on, 10,000 times however long that takes.
#include <algorithm>
#include <chrono>

#include <ksm/scanner.hpp>

#include "linux_support.hpp"
#include "torture/report.hpp"

using namespace linux_test;

namespace {

/// What a process pays for merging.
struct cost {
    std::size_t frames = 0;
    std::size_t frame_bytes = 0;
    std::size_t mappings = 0;        ///< By the provider's books.
    std::size_t mappings_of_all = 0; ///< By the kernel's.
    std::size_t metadata_bytes = 0;  ///< Of the provider.
    std::size_t engine_bytes = 0;    ///< Of the engine.

    static cost of(linux_provider const& p, scanner<linux_provider> const& engine) {
        linux_usage const u = p.usage();
        return {u.frames_live,    u.frame_bytes,
                u.mappings_used,  detail::os::count_mappings(),
                u.metadata_bytes, static_cast<std::size_t>(engine.statistics().metadata_bytes)};
    }
    void rise_to(cost const& c) {
        frames = std::max(frames, c.frames);
        frame_bytes = std::max(frame_bytes, c.frame_bytes);
        mappings = std::max(mappings, c.mappings);
        mappings_of_all = std::max(mappings_of_all, c.mappings_of_all);
        metadata_bytes = std::max(metadata_bytes, c.metadata_bytes);
        engine_bytes = std::max(engine_bytes, c.engine_bytes);
    }
};

} // namespace

TEST_CASE("what merging takes does not grow from one cycle of writing and merging to the next",
          "[linux][soak]") {
    linux_options options = GENERATE(quiescent(), by_move());
    options.no_pinned_io = true; // pages that were merged once may be merged again
    if (options.strategy == write_exclusion::move) {
        KSM_NEEDS_USERFAULTFD(options);
    }
    options.arena_pages = 1024; // a part of a cycle's frames: many arenas begin and end
    linux_provider p{options};
    constexpr std::size_t n = 64 * 256;
    constexpr std::size_t contents = 2048;
    memory m{p, n + 1}; // one to compare with
    scanner engine{p};
    REQUIRE(engine.enter(p.space()) == status::ok);
    // Most pages are merged as runs, an eighth of them each to a mapping of its own.
    auto const content = [](std::size_t i) { return (i < n / 8 ? 613 * i : i) % contents; };
    for (std::size_t i = 0; i < n; ++i) {
        m.fill(i, content(i));
    }
    constexpr std::uint64_t warm_up = 8;
    auto const end =
        std::chrono::steady_clock::now() + std::chrono::seconds{torture::soak_seconds()};
    auto const goes_on = [end](std::uint64_t cycle) {
        return cycle < 2 * warm_up || (cycle < 10'000 && (torture::soak_seconds() >= 600 ||
                                                          std::chrono::steady_clock::now() < end));
    };
    cost early; // the most that the first cycles needed
    cost late;  // the most that the others needed
    std::uint64_t cycle = 0;
    while (goes_on(cycle)) {
        ++cycle;
        for (std::size_t i = 0; i < n; ++i) {
            std::memcpy(m.at(i), &cycle, sizeof cycle);
        }
        REQUIRE(engine.merge_now(p.space(), {m.page(0), pages(n)}).why == status::ok);
        REQUIRE(engine.statistics().pages_sharing >= n - 2 * contents);
        cost const now = cost::of(p, engine);
        (cycle <= warm_up ? early : late).rise_to(now);
        // In time: what grows without bounds would take the machine's memory.
        REQUIRE(now.frame_bytes <= 8 * contents * p.page_size());
    }
    std::size_t lost = 0;
    for (std::size_t i = 0; i < n; ++i) {
        lost += std::memcmp(m.at(i), &cycle, sizeof cycle) != 0 ? 1U : 0U;
        m.fill(n, content(i)); // what page i held before the first cycle
        lost += std::memcmp(m.at(i) + sizeof cycle, m.at(n) + sizeof cycle,
                            p.page_size() - sizeof cycle) != 0
                    ? 1U
                    : 0U;
    }
    CHECK(lost == 0);
    torture::report("churn: " + std::to_string(cycle) + " cycles, at most " +
                    std::to_string(late.frames) + " frames, " + std::to_string(late.frame_bytes) +
                    " bytes of frames, " + std::to_string(late.mappings) + " mappings, " +
                    std::to_string(late.metadata_bytes) + " + " +
                    std::to_string(late.engine_bytes) + " bytes of metadata");
    CHECK(late.frames <= early.frames);
    CHECK(late.frame_bytes <= early.frame_bytes);
    CHECK(late.mappings <= early.mappings + early.mappings / 4);
    CHECK(late.mappings_of_all <= early.mappings_of_all + early.mappings_of_all / 4);
    CHECK(late.metadata_bytes <= early.metadata_bytes + early.metadata_bytes / 4);
    CHECK(late.engine_bytes <= early.engine_bytes + early.engine_bytes / 4);
}
