// SPDX-License-Identifier: BSL-1.0
#include <atomic>
#include <chrono>
#include <thread>

#include <sys/resource.h>

#include "linux_support.hpp"

using namespace linux_test;

namespace {

/// Surveys everything, as an engine does once in a pass.
void walk(linux_provider& p) {
    page_run out[64];
    page_number from{0};
    for (;;) {
        survey_result const r = p.survey(p.space(), from, coverage::every_page, out);
        if (r.end) {
            return;
        }
        from = r.next;
    }
}
void walks(linux_provider& p, int times) {
    for (int i = 0; i < times; ++i) {
        walk(p);
    }
}

std::size_t mappings_of(linux_provider& p, memory const& m) {
    return mappings_in(m.at(0), m.size() * p.page_size());
}

/// Frames with the contents 0 to 15, of a region that is none any more.
frame_id sixteen_frames(linux_provider& p) {
    memory m{p, 16};
    for (std::size_t i = 0; i < 16; ++i) {
        m.fill(i, i);
    }
    promotion const made = p.promote(p.space(), m.page(0), pages(16));
    REQUIRE(made.made.done == pages(16));
    return made.first;
}

/// That may copy what may not be pinned.
linux_options move_without_pins() {
    linux_options o = by_move();
    o.no_pinned_io = true;
    return o;
}

std::byte* map_anonymous(std::size_t bytes, int protection) {
    void* const at = ::mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(at != MAP_FAILED);
    return static_cast<std::byte*>(at);
}

} // namespace

TEST_CASE("unmerged pages give their mappings back", "[linux]") {
    linux_options const options =
        GENERATE(quiescent(), by_mprotect(), by_wp(), move_without_pins());
    KSM_NEEDS_USERFAULTFD(options);
    linux_provider p{options};
    frame_id const f = sixteen_frames(p);
    memory m{p, 600};
    for (std::size_t i = 0; i < m.size(); ++i) {
        m.fill(i, i % 16);
    }
    std::size_t const used = p.usage().mappings_used;
    REQUIRE(mappings_of(p, m) == 1);
    SECTION("single pages") {
        for (std::size_t i = 1; i < m.size(); i += 3) {
            REQUIRE(p.merge(p.space(), m.page(i), pages(1), f + pages(i % 16)).why == status::ok);
        }
        CHECK(mappings_of(p, m) == 401);
    }
    SECTION("runs") {
        for (std::size_t i = 16; i + 16 <= m.size(); i += 48) {
            REQUIRE(p.merge(p.space(), m.page(i), pages(16), f).why == status::ok);
        }
        CHECK(mappings_of(p, m) == 25);
    }
    SECTION("all pages") {
        for (std::size_t i = 0; i < m.size(); ++i) {
            REQUIRE(p.merge(p.space(), m.page(i), pages(1), f + pages(i % 16)).why == status::ok);
        }
        CHECK(mappings_of(p, m) == 38);
    }
    CHECK(p.unmerge(p.space(), m.page(0), pages(600)).done == pages(600));
    CHECK(mappings_of(p, m) == 1);
    CHECK(p.usage().mappings_used == used);
    for (std::size_t i = 0; i < m.size(); ++i) {
        REQUIRE(m.holds(i, i % 16));
    }
    // They are the application's own memory again.
    p.release(m.range);
    REQUIRE(::madvise(m.at(0), m.size() * p.page_size(), MADV_DONTNEED) == 0);
    CHECK(m.zero(1));
    CHECK(m.zero(33));
    REQUIRE_FALSE(p.try_adopt(m.at(0), m.size() * p.page_size(), m.range));
}

TEST_CASE("written pages heal when they have rested for two walks", "[linux]") {
    linux_options const options =
        GENERATE(quiescent(), by_mprotect(), by_wp(), move_without_pins());
    KSM_NEEDS_USERFAULTFD(options);
    linux_provider p{options};
    frame_id const f = sixteen_frames(p);
    memory m{p, 300};
    for (std::size_t i = 0; i < m.size(); ++i) {
        m.fill(i, i % 16);
    }
    for (std::size_t i = 1; i < m.size(); i += 3) {
        REQUIRE(p.merge(p.space(), m.page(i), pages(1), f + pages(i % 16)).why == status::ok);
        m.fill(i, 1000 + i);
    }
    CHECK(mappings_of(p, m) == 201);
    walk(p);
    CHECK(p.usage().pages_healed == 0);
    // The engine has found an equal page meanwhile.
    m.fill(151, 5);
    REQUIRE(p.merge(p.space(), m.page(151), pages(1), f + pages(5)).why == status::ok);
    walk(p);
    CHECK(p.usage().pages_healed == 0);
    walk(p);
    CHECK(p.usage().pages_healed == 99);
    CHECK(mappings_of(p, m) == 3);
    for (std::size_t i = 0; i < m.size(); ++i) {
        REQUIRE(m.holds(i, i == 151 ? 5 : i % 3 == 1 ? 1000 + i : i % 16));
    }
    CHECK(look(p, m.page(151)).state == page_state::merged);
    CHECK(look(p, m.page(4)).state == page_state::unknown);
    REQUIRE(::madvise(m.at(4), p.page_size(), MADV_DONTNEED) == 0);
    CHECK(m.zero(4));
}

TEST_CASE("a written page amid merged ones is healed only with the whole run", "[linux]") {
    linux_provider p{quiescent()};
    frame_id const f = sixteen_frames(p);
    memory m{p, 48};
    for (std::size_t i = 0; i < m.size(); ++i) {
        m.fill(i, i % 16);
    }
    REQUIRE(p.merge(p.space(), m.page(16), pages(16), f).why == status::ok);
    m.fill(20, 99);
    walks(p, 5);
    CHECK(mappings_of(p, m) == 3);
    CHECK(p.usage().pages_healed == 0);
    for (std::size_t i = 16; i < 32; ++i) {
        m.fill(i, 99 + i);
    }
    walks(p, 5);
    CHECK(mappings_of(p, m) == 1);
    CHECK(p.usage().pages_healed == 16);
}

TEST_CASE("more written pages than a batch heal batch after batch", "[linux]") {
    linux_provider p{quiescent()};
    frame_id const f = sixteen_frames(p);
    std::size_t const batch = detail::os::healer::batch_pages;
    memory m{p, 6 * batch};
    for (std::size_t i = 1; i < m.size(); i += 2) {
        m.fill(i, 3);
        REQUIRE(p.merge(p.space(), m.page(i), pages(1), f + pages(3)).why == status::ok);
        m.fill(i, 1000 + i);
    }
    walks(p, 3);
    CHECK(p.usage().pages_healed == batch);
    walks(p, 8);
    CHECK(p.usage().pages_healed == 3 * batch);
    CHECK(mappings_of(p, m) == 1);
}

TEST_CASE("a hundred rounds of merging leave no mapping behind", "[linux]") {
    linux_options options = GENERATE(quiescent(), by_mprotect());
    options.stable_mappings = true; // nothing is mapped to read it, which might lie below it
    linux_provider p{options};
    frame_id const f = sixteen_frames(p);
    memory m{p, 200};
    std::size_t baseline = 0;
    for (std::size_t round = 0; round < 100; ++round) {
        for (std::size_t i = 0; i < m.size(); ++i) {
            m.fill(i, (i + round) % 16);
        }
        for (std::size_t i = round % 2; i < m.size(); i += 2) {
            REQUIRE(p.merge(p.space(), m.page(i), pages(1), f + pages((i + round) % 16)).why ==
                    status::ok);
        }
        CAPTURE(round);
        REQUIRE(mappings_of(p, m) >= 200);
        for (std::size_t i = 0; i < m.size(); ++i) {
            m.fill(i, round * 1000 + i);
        }
        if (round % 3 == 0) {
            p.release(m.range);
            REQUIRE_FALSE(p.try_adopt(m.at(0), m.size() * p.page_size(), m.range));
        } else {
            walks(p, 4);
        }
        REQUIRE(mappings_of(p, m) == 1);
        std::size_t const now = detail::os::count_mappings();
        // The provider's own memory has grown as far as it must by the third round.
        baseline = round < 3 ? now : baseline;
        REQUIRE(now <= baseline);
        for (std::size_t i = 0; i < m.size(); ++i) {
            REQUIRE(m.holds(i, round * 1000 + i));
        }
    }
}

TEST_CASE("nothing of a mirror is left when its region is released", "[linux]") {
    linux_provider p{quiescent()};
    frame_id const f = sixteen_frames(p);
    { // the provider's own memory grows once
        memory m{p, 64};
        m.fill(10, 3);
        REQUIRE(p.merge(p.space(), m.page(10), pages(1), f + pages(3)).why == status::ok);
    }
    std::size_t const before = detail::os::count_mappings();
    {
        memory m{p, 64};
        m.fill(10, 3);
        REQUIRE(p.merge(p.space(), m.page(10), pages(1), f + pages(3)).why == status::ok);
        p.release(page_range{m.page(20), pages(10)}); // both pieces need the mirror
        REQUIRE(p.unmerge(p.space(), m.page(10), pages(1)).why == status::ok);
        m.fill(40, 3);
        REQUIRE(p.merge(p.space(), m.page(40), pages(1), f + pages(3)).why == status::ok);
        REQUIRE(p.unmerge(p.space(), m.page(40), pages(1)).why == status::ok);
        // What is no region is not tracked.
        CHECK(mappings_of(p, m) == (p.capabilities().tracks_changes ? 3 : 1));
        p.release(page_range{m.page(0), pages(20)});
        p.release(page_range{m.page(30), pages(34)});
    }
    CHECK(detail::os::count_mappings() == before);
}

TEST_CASE("adopted memory gets its mappings back, too", "[linux]") {
    linux_options options = quiescent();
    options.stable_mappings = true; // nothing is mapped to read it, which might lie below it
    linux_provider p{options};
    frame_id const f = sixteen_frames(p);
    std::size_t const page = p.page_size();
    std::byte* const all = map_anonymous(66 * page, PROT_NONE);
    std::byte* const at = all + page;
    REQUIRE(::mmap(at, 64 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
                   -1, 0) == at);
    std::memset(at, 1, 64 * page);
    bool const free_below = GENERATE(true, false);
    if (free_below) {
        ::munmap(all, page);
    }
    page_range const range = p.adopt(at + 8 * page, 48 * page);
    // What is tracked is a mapping of its own, as long as it is a region.
    std::size_t const borders = p.capabilities().tracks_changes ? 2 : 0;
    CHECK(mappings_in(at - page, 66 * page) == (free_below ? 2 : 3) + borders); // the guards
    memory staged{p, 1};
    staged.fill(0, 3);
    for (std::size_t i = 10; i < 40; i += 2) {
        std::memcpy(at + i * page, staged.at(0), page);
        REQUIRE(p.merge(p.space(), p.page_of(at + i * page), pages(1), f + pages(3)).why ==
                status::ok);
    }
    REQUIRE(p.unmerge(p.space(), range.first, range.count).why == status::ok);
    // Where something lies below, the pages fit nowhere, and the provider does not claim it.
    CHECK(mappings_in(at, 64 * page) == (free_below ? 1 : 31) + borders);
    CHECK(p.usage().mappings_used == (free_below ? 2 : 32));
    CHECK(std::memcmp(at + 12 * page, staged.at(0), page) == 0);
    p.release(range);
    CHECK(mappings_in(at, 64 * page) == (free_below ? 1 : 31));
    REQUIRE(::madvise(at, 64 * page, MADV_DONTNEED) == 0);
    CHECK(at[12 * page] == std::byte{0});
    ::munmap(all, 66 * page);
}

TEST_CASE("a page that was never touched can be the seed of a mirror", "[linux]") {
    linux_options const options = GENERATE(quiescent(), by_mprotect());
    linux_provider p{options};
    frame_id const f = sixteen_frames(p);
    std::size_t const page = p.page_size();
    std::byte* const all = map_anonymous(66 * page, PROT_NONE);
    std::byte* const at = all + page;
    REQUIRE(::mmap(at, 64 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
                   -1, 0) == at);
    std::memset(at, 1, 5 * page);
    std::memset(at + 6 * page, 1, 58 * page);
    page_range const range = p.adopt(at, 64 * page);
    memory staged{p, 1};
    staged.fill(0, 3);
    auto const merge_one = [&](std::size_t i) {
        std::memcpy(at + i * page, staged.at(0), page);
        REQUIRE(p.merge(p.space(), p.page_of(at + i * page), pages(1), f + pages(3)).why ==
                status::ok);
    };
    merge_one(20);
    walk(p);
    CHECK(mappings_in(at, 64 * page) == 3);
    CHECK(at[5 * page] == std::byte{0});
    at[5 * page] = std::byte{9};
    merge_one(40);
    REQUIRE(p.unmerge(p.space(), range.first, range.count).why == status::ok);
    CHECK(mappings_in(at, 64 * page) == 1);
    CHECK(at[5 * page] == std::byte{9});
    CHECK(std::memcmp(at + 20 * page, staged.at(0), page) == 0);
    merge_one(2); // below the seed there is no mirror
    REQUIRE(p.unmerge(p.space(), range.first, range.count).why == status::ok);
    CHECK(mappings_in(at, 64 * page) == 3);
    CHECK(p.usage().mappings_used == 4);
    p.release(range);
    ::munmap(all, 66 * page);
}

TEST_CASE("no store is lost in a page while it becomes a seed", "[linux]") {
    detail::os::machinery m{by_mprotect()};
    detail::os::mirror_store mirrors{m.page};
    std::byte* const at = map_anonymous(3 * m.page, PROT_READ | PROT_WRITE) + m.page;
    m.writers.watch(at, m.page);
    std::atomic<bool> stop{false};
    std::uint64_t lost = 0;
    std::thread writer{[&] {
        auto volatile* const word = reinterpret_cast<std::uint64_t volatile*>(at);
        // Zero every other time.
        for (std::uint64_t mine = 0; !stop.load(std::memory_order_relaxed);) {
            lost += *word != mine;
            mine ^= 1;
            *word = mine;
        }
    }};
    REQUIRE(m.writers.enter() == status::ok);
    std::size_t planted = 0, refused = 0;
    for (int i = 0; i < 20000; ++i) {
        std::uint32_t const id = mirrors.plant_amid(
            m, {page_number{reinterpret_cast<std::uintptr_t>(at) / m.page}, at, 1, 0});
        (id == detail::os::no_mirror ? refused : planted) += 1;
        mirrors.uproot([](std::uint32_t) { return false; });
    }
    m.writers.leave();
    stop = true;
    writer.join();
    CHECK(lost == 0);
    CHECK(planted > 100);
    CHECK(refused > 100);
    ::munmap(at - m.page, 3 * m.page);
}

TEST_CASE("adopted memory of several mappings becomes several regions", "[linux]") {
    linux_provider p{quiescent()};
    std::size_t const page = p.page_size();
    std::byte* const at = map_anonymous(32 * page, PROT_READ | PROT_WRITE);
    at[0] = std::byte{1};
    // Memory that was written elsewhere keeps its offset.
    std::byte* const foreign = map_anonymous(16 * page, PROT_READ | PROT_WRITE);
    foreign[0] = std::byte{2};
    REQUIRE(::mremap(foreign, 16 * page, 16 * page, MREMAP_MAYMOVE | MREMAP_FIXED,
                     at + 16 * page) == at + 16 * page);
    page_range const range = p.adopt(at, 32 * page);
    CHECK(range == page_range{p.page_of(at), pages(32)});
    CHECK(p.usage().regions == 2);
    CHECK(p.usage().region_pages == 32);
    promotion const made = p.promote(p.space(), range.first, range.count);
    CHECK(made.made.done == pages(32));
    CHECK(p.unmerge(p.space(), range.first, range.count).done == pages(32));
    CHECK(at[0] == std::byte{1});
    CHECK(at[16 * page] == std::byte{2});
    p.release(range);
    CHECK(p.usage().regions == 0);
    ::munmap(at, 32 * page);
}

TEST_CASE("without addresses for a copy a page becomes private where it is", "[linux]") {
    CHECK(in_child([] {
              linux_provider p{quiescent()};
              memory m{p, 64};
              m.fill(10, 1);
              if (p.promote(p.space(), m.page(10), pages(1)).made.why != status::ok) {
                  return 1;
              }
              rlimit before;
              ::getrlimit(RLIMIT_AS, &before);
              rlimit const none{1 << 20, before.rlim_max};
              ::setrlimit(RLIMIT_AS, &none);
              progress const back = p.unmerge(p.space(), m.page(10), pages(1));
              ::setrlimit(RLIMIT_AS, &before);
              if (back.why != status::ok || !is_private(p, m.page(10)) || !m.holds(10, 1)) {
                  return 2;
              }
              walks(p, 4);
              return mappings_of(p, m) == 1 && m.holds(10, 1) ? 0 : 3;
          }) == 0);
}

TEST_CASE("what could not be given back at the kernel's limit heals later", "[linux]") {
    CHECK(in_child([] {
              linux_provider p{quiescent()};
              std::size_t const most = p.capabilities().max_map_count;
              if (most > 200000) {
                  return 0; // it would take too long to use them up
              }
              memory m{p, 64};
              m.fill(10, 1);
              if (p.promote(p.space(), m.page(10), pages(1)).made.why != status::ok) {
                  return 1;
              }
              std::size_t const page = p.page_size();
              std::byte* const taken = map_anonymous(2 * (most + 64) * page, PROT_NONE);
              for (std::size_t k = 1; ::mprotect(taken + k * page, page, PROT_READ) == 0; k += 2) {
              }
              if (p.unmerge(p.space(), m.page(10), pages(1)).why != status::ok ||
                  !is_private(p, m.page(10)) || mappings_of(p, m) != 3) {
                  return 2;
              }
              walks(p, 4); // changes nothing
              if (!m.holds(10, 1) || mappings_of(p, m) != 3) {
                  return 3;
              }
              ::munmap(taken, 2 * (most + 64) * page);
              walks(p, 4);
              return mappings_of(p, m) == 1 && m.holds(10, 1) ? 0 : 4;
          }) == 0);
}

TEST_CASE("no store is lost, and no reader goes back, while pages are merged and healed",
          "[linux]") {
    linux_options const options = GENERATE(by_mprotect(), by_wp(), move_without_pins());
    KSM_NEEDS_USERFAULTFD(options);
    linux_provider p{options};
    constexpr std::size_t n = 64;
    memory m{p, n};
    std::memset(m.at(0), 0, n * p.page_size());
    std::atomic<bool> stop{false};
    auto const counter = [&](std::size_t i) {
        return reinterpret_cast<std::uint64_t volatile*>(m.at(i) + 128);
    };
    std::vector<std::uint64_t> mine(n, 0);
    std::uint64_t lost = 0, backwards = 0, reads = 0, writes = 0;
    std::thread writer{[&] {
        std::uint64_t x = 1;
        while (!stop.load(std::memory_order_relaxed)) {
            x = x * 6364136223846793005U + 1442695040888963407U;
            std::size_t const i = (x >> 33) % n;
            lost += *counter(i) != mine[i];
            *counter(i) = ++mine[i];
            if (++writes % 16 == 0) {
                ::usleep(1);
            }
        }
    }};
    std::thread reader{[&] {
        std::vector<std::uint64_t> seen(n, 0);
        for (; !stop.load(std::memory_order_relaxed); ++reads) {
            std::size_t const i = reads % n;
            std::uint64_t const v = *counter(i);
            backwards += v < seen[i];
            seen[i] = v;
        }
    }};
    std::size_t merged = 0, unmerged = 0;
    std::uint64_t x = 9;
    auto const began = std::chrono::steady_clock::now();
    auto const elapsed = [&] { return std::chrono::steady_clock::now() - began; };
    auto const enough = [&] { return merged > 500 && p.usage().pages_healed > 50; };
    std::chrono::seconds const at_least{2};
    for (int round = 0; elapsed() < at_least || (!enough() && elapsed() < 20 * at_least); ++round) {
        x = x * 6364136223846793005U + 1442695040888963407U;
        std::size_t const i = (x >> 33) % n;
        std::size_t const k = 1 + (x >> 50) % std::min<std::size_t>(8, n - i);
        promotion const made = p.promote(p.space(), m.page(i), pages(k));
        merged += made.made.done.value();
        if (made.made.done.value() != 0) {
            p.release(made.first, made.made.done);
        }
        if (round % 3 == 0) {
            unmerged += p.unmerge(p.space(), m.page(0), pages(n)).done.value();
        }
        walk(p);
    }
    stop = true;
    writer.join();
    reader.join();
    for (std::size_t i = 0; i < n; ++i) {
        lost += *counter(i) != mine[i];
    }
    INFO("merged " << merged << ", unmerged " << unmerged << ", healed " << p.usage().pages_healed
                   << ", writes " << writes << ", reads " << reads);
    CHECK(lost == 0);
    CHECK(backwards == 0);
    CHECK(merged > 500);
    CHECK(p.usage().pages_healed > 50);
    CHECK(writes > 1000);
    REQUIRE(p.unmerge(p.space(), m.page(0), pages(n)).why == status::ok);
    walks(p, 6);
    CHECK(mappings_of(p, m) == 1);
}
