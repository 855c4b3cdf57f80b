// SPDX-License-Identifier: BSL-1.0
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <thread>

#include "linux_support.hpp"

using namespace linux_test;

namespace {

/// Merges by brute force, without the engine.
std::size_t merge_all(linux_provider& p, memory& m) {
    // The keys lie in the frames: no memory of the test's own disturbs what it measures.
    auto const text = [](std::byte const* at, std::size_t n) {
        return std::string_view{reinterpret_cast<char const*>(at), n};
    };
    std::map<std::string_view, frame_id> frames;
    std::size_t merged = 0;
    for (std::size_t i = 0; i < m.size(); ++i) {
        auto const known = frames.find(text(m.at(i), p.page_size()));
        if (known == frames.end()) {
            promotion const made = p.promote(p.space(), m.page(i), pages(1));
            REQUIRE(made.made.why == status::ok);
            frames.emplace(text(p.view(made.first).data(), p.page_size()), made.first);
        } else {
            progress const done = p.merge(p.space(), m.page(i), pages(1), known->second);
            REQUIRE(done.why == status::ok);
            ++merged;
        }
    }
    return merged;
}

} // namespace

TEST_CASE("merging keeps every byte and gives the memory of the duplicates back", "[linux]") {
    linux_options options = GENERATE(quiescent(), by_mprotect());
    linux_provider p{options};
    memory m{p, 4096};
    std::set<std::uint64_t> distinct;
    for (std::size_t i = 0; i < m.size(); ++i) {
        std::uint64_t const seed = i * 2654435761U % 97;
        distinct.insert(seed);
        m.fill(i, seed);
    }
    std::size_t const duplicates = m.size() - distinct.size();
    std::size_t const before = memory_use();
    CHECK(merge_all(p, m) == duplicates);
    bool equal = true;
    for (std::size_t i = 0; i < m.size(); ++i) {
        equal = equal && m.holds(i, i * 2654435761U % 97);
    }
    CHECK(equal);
    if (pss_is_ours) {
        std::size_t const after = memory_use();
        REQUIRE(before > after);
        CHECK(before - after >= duplicates * p.page_size() * 9 / 10);
    }
    CHECK(p.usage().frames_live == distinct.size());
}

TEST_CASE("a store to a merged page reaches that page and no other", "[linux]") {
    linux_options options = GENERATE(quiescent(), by_mprotect());
    linux_provider p{options};
    memory m{p, 4};
    for (std::size_t i = 0; i < 4; ++i) {
        m.fill(i, 7);
    }
    promotion const f = p.promote(p.space(), m.page(0), pages(1));
    REQUIRE(f.made.done == pages(1));
    REQUIRE(p.merge(p.space(), m.page(2), pages(1), f.first).why == status::ok);
    m.fill(2, 8);
    CHECK(m.holds(0, 7));
    CHECK(m.holds(2, 8));
    CHECK(std::memcmp(p.view(f.first).data(), m.at(0), p.page_size()) == 0);
    CHECK(look(p, m.page(0)).state == page_state::merged);
    CHECK(look(p, m.page(2)).state == page_state::written);
    CHECK(look(p, m.page(2)).state == page_state::unknown);
}

TEST_CASE("merging a run stops at the first difference and leaves the pages behind it", "[linux]") {
    linux_options options = GENERATE(quiescent(), by_mprotect());
    linux_provider p{options};
    memory m{p, 600};
    for (std::size_t i = 0; i < 300; ++i) {
        m.fill(i, i);
        m.fill(300 + i, i == 201 ? 999 : i);
    }
    promotion const f = p.promote(p.space(), m.page(0), pages(300));
    REQUIRE(f.made.done == pages(300));
    REQUIRE(f.made.why == status::ok);
    progress const done = p.merge(p.space(), m.page(300), pages(300), f.first);
    CHECK(done.done == pages(201));
    CHECK(done.why == status::changed);
    page_run const merged = look(p, m.page(300));
    CHECK(merged.state == page_state::merged);
    CHECK(merged.frame == f.first);
    CHECK(merged.pages == pages(201));
    CHECK(look(p, m.page(501)).state == page_state::unknown);
    CHECK(is_private(p, m.page(502)));
    CHECK(m.holds(501, 999));
}

TEST_CASE("a run of frames costs two mappings, whatever its length", "[linux]") {
    linux_provider p{quiescent()};
    memory m{p, 512};
    for (std::size_t i = 0; i < 512; ++i) {
        m.fill(i, i % 200);
    }
    REQUIRE(p.promote(p.space(), m.page(0), pages(200)).made.done == pages(200));
    std::size_t const used = p.usage().mappings_used;
    std::size_t const kernel = detail::os::count_mappings();
    REQUIRE(p.merge(p.space(), m.page(250), pages(150), frame_id{50}).done == pages(150));
    CHECK(p.usage().mappings_used == used + 2);
    CHECK(detail::os::count_mappings() == kernel + 2);
}

TEST_CASE("a page may be merged again from every state", "[linux]") {
    linux_options options = GENERATE(quiescent(), by_mprotect());
    KSM_NEEDS_LOOSE_COMMIT(options);
    linux_provider p{options};
    memory m{p, 16};
    m.fill(0, 1);
    m.fill(1, 2);
    REQUIRE(p.promote(p.space(), m.page(0), pages(2)).made.done == pages(2));
    frame_id const one{0};
    frame_id const two{1};
    auto const merges = [&](std::uint64_t seed, frame_id f) {
        m.fill(8, seed);
        REQUIRE(p.merge(p.space(), m.page(8), pages(1), f).why == status::ok);
        CHECK(m.holds(8, seed));
        CHECK(look(p, m.page(8)).frame == f);
        CHECK_FALSE(is_private(p, m.page(8)));
    };
    merges(1, one);
    SECTION("merged with the same frame") {
        CHECK(p.merge(p.space(), m.page(8), pages(1), one).why == status::ok);
        CHECK(p.merge(p.space(), m.page(8), pages(1), two).why == status::changed);
        CHECK(look(p, m.page(8)).state == page_state::merged);
    }
    SECTION("broken, whether the survey has seen it or not") {
        m.fill(8, 5);
        CHECK(p.merge(p.space(), m.page(8), pages(1), one).why == status::changed);
        CHECK(m.holds(8, 5));
        CHECK(look(p, m.page(8)).state == page_state::written);
        merges(2, two);
        merges(1, one);
    }
    SECTION("displaced") {
        REQUIRE(p.unmerge(p.space(), m.page(8), pages(1)).why == status::ok);
        CHECK(look(p, m.page(8)).state == page_state::unknown);
        merges(2, two);
    }
    SECTION("zero") {
        std::memset(m.at(8), 0, p.page_size());
        REQUIRE(p.merge_zero(p.space(), page_set::run(m.page(8), pages(1))).why == status::ok);
        merges(2, two);
    }
    SECTION("promoted anew") {
        m.fill(8, 9);
        promotion const f = p.promote(p.space(), m.page(8), pages(1));
        REQUIRE(f.made.why == status::ok);
        CHECK(m.holds(8, 9));
        CHECK(look(p, m.page(8)).frame == f.first);
    }
}

TEST_CASE("zero pages are given back, and a later store to one is seen", "[linux]") {
    linux_options options = GENERATE(quiescent(), by_mprotect());
    linux_provider p{options};
    memory m{p, 2048};
    for (std::size_t i = 0; i < 2048; ++i) {
        m.fill(i, 1);
        std::memset(m.at(i), 0, p.page_size());
    }
    m.at(2000)[p.page_size() - 1] = std::byte{1};
    std::size_t const before = memory_use();
    progress done;
    for (std::size_t i = 0; i < 2048; i += page_set::most) {
        progress const some =
            p.merge_zero(p.space(), page_set::run(m.page(i), pages(page_set::most)));
        done = {done.done + some.done, some.why};
    }
    CHECK(done.done == pages(2000));
    CHECK(done.why == status::changed);
    if (pss_is_ours) {
        // The rest of the process is in this figure, too: nine tenths are proof enough.
        CHECK(before - memory_use() >= 1800 * p.page_size());
    }
    CHECK(mappings_in(m.at(0), m.size() * p.page_size()) == 1);
    page_run const zeros = look(p, m.page(0));
    CHECK(zeros.state == page_state::zero);
    CHECK(zeros.pages == pages(2000));
    CHECK(m.zero(10));
    m.fill(10, 3);
    std::memset(m.at(11), 0, p.page_size());
    page_run const written = look(p, m.page(10));
    CHECK(written.state == page_state::written);
    CHECK(written.pages == pages(2));
    CHECK(look(p, m.page(10)).state == page_state::unknown);
    CHECK(m.holds(10, 3));
}

TEST_CASE("zeroing a page that maps a frame shows zero, not the frame", "[linux]") {
    linux_options options = GENERATE(quiescent(), by_mprotect());
    KSM_NEEDS_LOOSE_COMMIT(options);
    linux_provider p{options};
    memory m{p, 8};
    m.fill(1, 1);
    m.fill(2, 2);
    REQUIRE(p.promote(p.space(), m.page(1), pages(2)).made.done == pages(2));
    std::memset(m.at(1), 0, p.page_size());
    CHECK(p.merge_zero(p.space(), page_set::run(m.page(1), pages(2))).done == pages(1));
    CHECK(look(p, m.page(1)).state == page_state::zero);
    CHECK(m.zero(1));
    CHECK(m.holds(2, 2));
    CHECK(look(p, m.page(2)).state == page_state::merged);
}

TEST_CASE("unmerging gives private anonymous copies", "[linux]") {
    linux_options options = GENERATE(quiescent(), by_mprotect());
    linux_provider p{options};
    memory m{p, 400};
    for (std::size_t i = 0; i < 400; ++i) {
        m.fill(i, i);
    }
    REQUIRE(p.promote(p.space(), m.page(50), pages(300)).made.done == pages(300));
    REQUIRE(p.unmerge(p.space(), m.page(0), pages(400)).done == pages(400));
    for (std::size_t i = 0; i < 400; ++i) {
        REQUIRE(m.holds(i, i));
        REQUIRE(is_private(p, m.page(i)));
    }
    CHECK(look(p, m.page(0)).pages == pages(400));
    ::madvise(m.at(100), p.page_size(), MADV_DONTNEED);
    CHECK(m.zero(100));
}

TEST_CASE("zero pages come back as private pages", "[linux]") {
    linux_provider p{quiescent()};
    memory m{p, 8};
    std::memset(m.at(0), 1, 8 * p.page_size());
    std::memset(m.at(0), 0, 8 * p.page_size());
    REQUIRE(p.merge_zero(p.space(), page_set::run(m.page(0), pages(8))).done == pages(8));
    REQUIRE(p.unmerge(p.space(), m.page(0), pages(8)).done == pages(8));
    CHECK(look(p, m.page(0)).state == page_state::unknown);
    CHECK(look(p, m.page(0)).pages == pages(8));
}

TEST_CASE("pages of a released frame are like private ones, and keep their content", "[linux]") {
    linux_provider p{quiescent()};
    memory m{p, 4};
    m.fill(0, 1);
    promotion const f = p.promote(p.space(), m.page(0), pages(1));
    p.release(f.first, pages(1));
    CHECK(look(p, m.page(0)).state == page_state::unknown);
    CHECK(m.holds(0, 1));
    CHECK(p.usage().frames_live == 1); // the page needs it
    promotion const again = p.promote(p.space(), m.page(0), pages(1));
    REQUIRE(again.made.why == status::ok);
    CHECK(p.usage().frames_live == 1);
    CHECK(p.usage().frames_dead == 1);
    CHECK(look(p, m.page(0)).frame == again.first);
    CHECK(m.holds(0, 1));
}

TEST_CASE("a survey resumes where it stopped", "[linux]") {
    linux_provider p{quiescent()};
    memory a{p, 40};
    memory b{p, 40};
    for (std::size_t i = 0; i < 40; i += 2) {
        a.fill(i, i);
        b.fill(i, i);
    }
    std::set<std::uint64_t> seen;
    page_number from{0};
    for (bool end = false; !end;) {
        page_run out[3];
        survey_result const r = p.survey(p.space(), from, coverage::every_page, out);
        CHECK(r.given == coverage::every_page);
        for (std::size_t i = 0; i < r.runs; ++i) {
            CHECK(out[i].pages == pages(1));
            CHECK(seen.insert(out[i].first.value()).second);
        }
        from = r.next;
        end = r.end;
    }
    CHECK(seen.size() == 40);
    CHECK(p.survey(space_id{7}, page_number{0}, coverage::every_page, {}).end);
}

TEST_CASE("a page that was only read is not listed where it takes no memory", "[linux]") {
    linux_provider p{quiescent()};
    memory m{p, 2};
    m.fill(1, 1);
    CHECK(m.zero(0));
    // A kernel that runs without a zero page has given it a page of its own.
    bool const own = kernel_entry(p, m.page(0)).exclusive();
    CHECK(look(p, m.page(0)).state == (own ? page_state::unknown : page_state::gone));
    CHECK(look(p, m.page(1)).state == page_state::unknown);
}

TEST_CASE("a forked child keeps its pages and cannot merge", "[linux]") {
    linux_options options = GENERATE(quiescent(), by_mprotect());
    linux_provider p{options};
    memory m{p, 8};
    for (std::size_t i = 0; i < 8; ++i) {
        m.fill(i, 1);
    }
    promotion const f = p.promote(p.space(), m.page(0), pages(1));
    REQUIRE(p.merge(p.space(), m.page(2), pages(1), f.first).why == status::ok);
    int go[2];
    REQUIRE(::pipe(go) == 0);
    ::fflush(nullptr);
    pid_t const child = ::fork();
    if (child == 0) {
        char c;
        int wrong = ::read(go[0], &c, 1) != 1; // the parent has unmerged and merged other content
        wrong |= !m.holds(0, 1) || !m.holds(2, 1);
        wrong |= p.merge(p.space(), m.page(4), pages(1), f.first).why != status::refused;
        wrong |= p.promote(p.space(), m.page(4), pages(1)).made.why != status::refused;
        wrong |= p.capabilities().strategy != write_exclusion::off;
        page_run out[4];
        wrong |= p.survey(p.space(), page_number{0}, coverage::every_page, out).runs != 0;
        m.fill(2, 3);
        wrong |= p.unmerge(p.space(), m.page(0), pages(8)).done != pages(8);
        wrong |= !m.holds(0, 1) || !m.holds(2, 3);
        ::_exit(wrong);
    }
    REQUIRE(p.unmerge(p.space(), m.page(0), pages(8)).done == pages(8));
    p.release(f.first, pages(1));
    for (std::size_t i = 0; i < 8; ++i) {
        m.fill(i, 9);
    }
    REQUIRE(p.promote(p.space(), m.page(0), pages(8)).made.done == pages(8));
    REQUIRE(::write(go[1], "x", 1) == 1);
    int state = 0;
    ::waitpid(child, &state, 0);
    CHECK(state == 0);
    CHECK(m.holds(2, 9));
}

TEST_CASE("without a promise pages are moved", "[linux]") {
    KSM_NEEDS_USERFAULTFD(by_move());
    CHECK(linux_provider{}.capabilities().strategy == write_exclusion::move);
}

TEST_CASE("write protection is chosen where moving is forbidden and nothing is pinned", "[linux]") {
    KSM_NEEDS_USERFAULTFD(by_wp());
    linux_options o;
    o.allow.move = false;
    CHECK(linux_provider{o}.capabilities().strategy != write_exclusion::wp);
    o.no_pinned_io = true;
    CHECK(linux_provider{o}.capabilities().strategy == write_exclusion::wp);
}

TEST_CASE("without userfaultfd and promises a second thread ends merging, and the reason says what "
          "to promise",
          "[linux]") {
    linux_options o;
    o.allow.move = false;
    o.allow.wp = false;
    o.no_pinned_io = true;
    linux_provider p{o};
    memory m{p, 4};
    m.fill(0, 1);
    m.fill(2, 1);
    CHECK(p.capabilities().strategy == write_exclusion::quiescent);
    promotion const f = p.promote(p.space(), m.page(0), pages(1));
    REQUIRE(f.made.why == status::ok);
    std::thread second{[&] {
        CHECK(p.merge(p.space(), m.page(2), pages(1), f.first).why == status::refused);
        CHECK(p.promote(p.space(), m.page(2), pages(1)).made.why == status::refused);
        CHECK(p.merge_zero(p.space(), page_set::run(m.page(2), pages(1))).why == status::refused);
        CHECK(is_private(p, m.page(2)));
        CHECK(p.capabilities().strategy == write_exclusion::off);
        CHECK(std::string{p.capabilities().reason}.find("no_syscall_io") != std::string::npos);
        CHECK(p.unmerge(p.space(), m.page(0), pages(1)).why == status::ok);
        CHECK(is_private(p, m.page(0)));
    }};
    second.join();
    while (p.capabilities().strategy == write_exclusion::off) { // the kernel still has it listed
        std::this_thread::yield();
    }
    CHECK(m.holds(0, 1));
    CHECK(p.merge(p.space(), m.page(2), pages(1), f.first).why == status::ok);
}

TEST_CASE("a process with one thread must promise that no page is pinned", "[linux]") {
    CHECK(in_child([] {
              linux_options o;
              o.allow.move = false;
              linux_provider const without{o};
              linux_capabilities const is = without.capabilities();
              o.no_pinned_io = true;
              o.allow.wp = false;
              linux_provider const with{o};
              return is.strategy == write_exclusion::off &&
                             std::string{is.reason}.find("no_pinned_io") != std::string::npos &&
                             with.capabilities().strategy == write_exclusion::quiescent
                         ? 0
                         : 1;
          }) == 0);
}

TEST_CASE("the hooks run once in a call, and a freeze that fails makes it busy", "[linux]") {
    struct counts {
        int frozen = 0, thawed = 0;
        bool works = true;
    } c;
    linux_options o;
    o.strategy = write_exclusion::quiescent;
    o.freeze_context = &c;
    o.freeze = [](void* x) noexcept {
        ++static_cast<counts*>(x)->frozen;
        return static_cast<counts*>(x)->works;
    };
    o.thaw = [](void* x) noexcept { ++static_cast<counts*>(x)->thawed; };
    linux_provider p{o};
    memory m{p, 600};
    for (std::size_t i = 0; i < 600; ++i) {
        m.fill(i, i);
    }
    CHECK(p.promote(p.space(), m.page(0), pages(600)).made.done == pages(600));
    CHECK(c.frozen == 1);
    CHECK(c.thawed == 1);
    c.works = false;
    CHECK(p.merge(p.space(), m.page(0), pages(600), frame_id{0}).why == status::busy);
    CHECK(c.thawed == c.frozen);
    c.works = true;
}

TEST_CASE("frames go on in the next arena, and a run is merged across the border", "[linux]") {
    linux_options o = quiescent();
    o.arena_pages = 64;
    linux_provider p{o};
    memory m{p, 400};
    for (std::size_t i = 0; i < 200; ++i) {
        m.fill(i, i);
        m.fill(200 + i, i);
    }
    std::size_t done = 0;
    while (done < 200) {
        promotion const f = p.promote(p.space(), m.page(done), pages(200 - done));
        REQUIRE(f.made.why == status::ok);
        CHECK(f.first == frame_id{done});
        done += f.made.done.value();
    }
    CHECK(p.merge(p.space(), m.page(200), pages(200), frame_id{0}).done == pages(200));
    CHECK(look(p, m.page(200)).pages == pages(200));
    CHECK(m.holds(399, 199));
}

TEST_CASE("RLIMIT_FSIZE makes frames scarce and raises no signal", "[linux]") {
    CHECK(in_child([] {
              linux_provider p{quiescent()};
              memory m{p, 32};
              for (std::size_t i = 0; i < 32; ++i) {
                  m.fill(i, i);
              }
              rlimit const small{16 * p.page_size(), RLIM_INFINITY};
              ::setrlimit(RLIMIT_FSIZE, &small);
              if (p.promote(p.space(), m.page(0), pages(16)).made.done != pages(16)) {
                  return 1;
              }
              rlimit const none{0, RLIM_INFINITY};
              ::setrlimit(RLIMIT_FSIZE, &none);
              promotion const f = p.promote(p.space(), m.page(16), pages(1));
              return f.made.why == status::out_of_frames && m.holds(16, 16) ? 0 : 2;
          }) == 0);
    CHECK(in_child([] {
              linux_provider p{quiescent()};
              memory m{p, 2};
              m.fill(0, 0);
              m.fill(1, 1);
              if (p.promote(p.space(), m.page(0), pages(1)).made.why != status::ok) {
                  return 1;
              }
              rlimit const none{0, RLIM_INFINITY};
              ::setrlimit(RLIMIT_FSIZE, &none); // below an arena that exists
              promotion const f = p.promote(p.space(), m.page(1), pages(1));
              return f.made.why == status::out_of_frames && m.holds(1, 1) ? 0 : 2;
          }) == 0);
}

TEST_CASE("an application that closes all descriptors ends merging, not its data", "[linux]") {
    CHECK(in_child([] {
              linux_provider p{quiescent()};
              memory m{p, 4};
              m.fill(0, 1);
              m.fill(2, 1);
              promotion const f = p.promote(p.space(), m.page(0), pages(1));
              for (int fd = 3; fd < 100; ++fd) {
                  ::close(fd);
              }
              char path[] = "/tmp/ksm-test-XXXXXX";
              int const foreign = ::mkstemp(path); // takes a number of ours
              ::unlink(path);
              if (foreign < 0 || ::ftruncate(foreign, 1 << 20) != 0) {
                  return 1;
              }
              for (int fd = foreign + 1; fd < 100; ++fd) {
                  ::dup2(foreign, fd);
              }
              progress const done = p.merge(p.space(), m.page(2), pages(1), f.first);
              promotion const made = p.promote(p.space(), m.page(2), pages(1));
              page_run out[4];
              survey_result const s =
                  p.survey(p.space(), page_number{0}, coverage::every_page, out);
              char byte = 0;
              bool const untouched = ::pread(foreign, &byte, 1, 0) == 1 && byte == 0;
              return done.why == status::refused && made.made.done == pages(0) && s.runs != 0 &&
                             out[0].state == page_state::merged && untouched && m.holds(0, 1) &&
                             m.holds(2, 1)
                         ? 0
                         : 2;
          }) == 0);
}
