// SPDX-License-Identifier: BSL-1.0
// The application breaks its promise and changes memory of a region without telling us. Each way of
// doing so, in each state of the page, is followed by each operation: nothing crashes, what the
// application made of its memory stays, and the usage counts what was lost.
#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "linux_support.hpp"

using namespace linux_test;

namespace {

constexpr int rw = PROT_READ | PROT_WRITE;

enum class violation { munmap, mremap, read_only, no_access, dontneed, private_file, shared };
enum class state { home, merged, broken, zero, displaced };
enum class operation { survey, view, promote, merge, merge_zero, unmerge, release };

constexpr std::array violations{"munmap",   "mremap",         "mprotect(PROT_READ)", "PROT_NONE",
                                "DONTNEED", "a private file", "shared memory"};
constexpr std::array states{"home", "merged", "broken", "zero", "displaced"};
constexpr std::array operations{"survey",     "view",    "promote", "merge",
                                "merge_zero", "unmerge", "release"};

/// Eight adopted pages, the fourth of which is the victim. Its content is the seventh's frame.
struct scene {
    static constexpr std::size_t victim = 3;
    static constexpr std::size_t count = 8;

    scene(linux_options const& o, state s, bool zero_content) : p(o), page(p.page_size()) {
        at = static_cast<std::byte*>(
            ::mmap(nullptr, (count + 2) * page, rw, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        at += page;
        ::mprotect(at - page, page, PROT_NONE);
        ::mprotect(at + count * page, page, PROT_NONE);
        content.resize(page, zero_content ? 0 : 7);
        for (std::size_t i = 0; i < count; ++i) {
            std::memset(at + i * page, static_cast<int>(i + 1), page);
        }
        std::memcpy(at + victim * page, content.data(), page);
        std::memcpy(at + 6 * page, content.data(), page);
        if (p.try_adopt(at, count * page, range)) {
            ::_exit(40);
        }
        frame = promoted(6);
        switch (s) {
        case state::home: break;
        case state::merged: promoted(victim); break;
        case state::broken:
            promoted(victim);
            std::memcpy(at + victim * page, content.data(), page);
            static_cast<void>(look(p, number(victim)));
            break;
        case state::zero:
            std::memset(at + victim * page, 0, page);
            if (p.merge_zero(p.space(), page_set::run(number(victim), pages(1))).why !=
                status::ok) {
                ::_exit(41);
            }
            static_cast<void>(*static_cast<std::byte volatile*>(at + victim * page));
            break;
        case state::displaced:
            promoted(victim);
            if (p.unmerge(p.space(), number(victim), pages(1)).why != status::ok) {
                ::_exit(42);
            }
        }
    }
    page_number number(std::size_t i) const { return range.first + pages(i); }
    frame_id promoted(std::size_t i) {
        promotion const made = p.promote(p.space(), number(i), pages(1));
        if (made.made.why != status::ok) {
            ::_exit(43);
        }
        return made.first;
    }

    void violate(violation v) {
        std::byte* const a = at + victim * page;
        switch (v) {
        case violation::munmap: ::munmap(a, page); break;
        case violation::mremap:
            elsewhere = static_cast<std::byte*>(
                ::mmap(nullptr, page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
            std::memcpy(expected.data(), a, 1);
            if (::mremap(a, page, page, MREMAP_MAYMOVE | MREMAP_FIXED, elsewhere) == MAP_FAILED) {
                ::_exit(44);
            }
            break;
        case violation::read_only: ::mprotect(a, page, PROT_READ); break;
        case violation::no_access: ::mprotect(a, page, PROT_NONE); break;
        case violation::dontneed: ::madvise(a, page, MADV_DONTNEED); break;
        case violation::private_file: {
            int const fd = ::memfd_create("foreign", MFD_CLOEXEC);
            if (::pwrite(fd, content.data(), page, 0) != static_cast<ssize_t>(page)) {
                ::_exit(45);
            }
            ::mmap(a, page, rw, MAP_PRIVATE | MAP_FIXED, fd, 0);
            static_cast<void>(*static_cast<std::byte volatile*>(a)); // it has a page now
            break;
        }
        case violation::shared:
            ::mmap(a, page, rw, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
            std::memcpy(a, content.data(), page);
        }
    }
    /// What the application has made of its memory is as it was.
    bool untouched(violation v, detail::os::mapping const& before) const {
        std::byte* const a = at + victim * page;
        detail::os::mapping const now = kernel_mapping(a);
        switch (v) {
        case violation::munmap: return !now.there;
        case violation::mremap: return !now.there && *elsewhere == expected[0];
        case violation::read_only:
        case violation::no_access:
            return now.there && !now.private_read_write && now.begin <= before.begin &&
                   now.inode == before.inode;
        case violation::dontneed: return now.there && now.private_read_write;
        case violation::private_file:
        case violation::shared:
            return now.inode == before.inode &&
                   now.private_read_write == before.private_read_write &&
                   std::memcmp(a, content.data(), page) == 0;
        }
        return false;
    }
    bool neighbours_hold() const {
        for (std::size_t i = 0; i < count; ++i) {
            std::vector<std::byte> want(page, std::byte(static_cast<unsigned char>(i + 1)));
            void const* const w = i == 6 ? static_cast<void const*>(content.data()) : want.data();
            if (i != victim && std::memcmp(at + i * page, w, page) != 0) {
                return false;
            }
        }
        return true;
    }

    linux_provider p;
    std::size_t page;
    std::byte* at = nullptr;
    std::byte* elsewhere = nullptr;
    page_range range;
    frame_id frame;
    std::vector<unsigned char> content;
    std::array<std::byte, 1> expected{};
};

/// How many pages from the victim on were done; a survey and a release tell nothing.
std::size_t act(scene& s, operation op) {
    page_number const victim = s.number(scene::victim);
    space_id const space = s.p.space();
    switch (op) {
    case operation::survey: {
        std::array<page_run, 16> out;
        survey_result const r = s.p.survey(space, page_number{0}, coverage::every_page, out);
        return r.end ? 0 : 9;
    }
    case operation::view:
        // In ascending order, so that the victim is read ahead with its neighbours.
        for (std::size_t i = 0; i < scene::count; ++i) {
            auto const bytes = s.p.view(space, s.number(i));
            if (i == scene::victim && !bytes.empty()) {
                static_cast<void>(*static_cast<std::byte const volatile*>(bytes.data()));
            }
            if (i != scene::victim &&
                (bytes.empty() || std::memcmp(bytes.data(), s.at + i * s.page, s.page) != 0)) {
                return 9;
            }
        }
        return 0;
    case operation::promote: return s.p.promote(space, victim, pages(2)).made.done.value();
    case operation::merge: return s.p.merge(space, victim, pages(1), s.frame).done.value();
    case operation::merge_zero:
        return s.p.merge_zero(space, page_set::run(victim, pages(1))).done.value();
    case operation::unmerge: return s.p.unmerge(space, victim, pages(2)).done.value();
    case operation::release: return s.p.try_release(s.range) ? 9 : 0;
    }
    return 9;
}

int survives(linux_options const& options, violation v, state st, operation op) {
    scene s{options, st, op == operation::merge_zero};
    // The provider maps now what it needs for itself: a hole would be a place for that, too.
    static_cast<void>(act(s, operation::survey));
    s.violate(v);
    detail::os::mapping const before = kernel_mapping(s.at + scene::victim * s.page);
    bool const lost = v != violation::dontneed;
    std::size_t const done = act(s, op);
    if (done > (lost ? 0U : 2U)) {
        return 1;
    }
    if (!s.untouched(v, before)) {
        return 2;
    }
    if (!s.neighbours_hold()) {
        return 3;
    }
    // A change is noticed by the next step there that depends on it.
    bool const depends = op != operation::survey && op != operation::view;
    if (depends && s.p.usage().pages_lost != (lost ? 1U : 0U)) {
        return 4;
    }
    static_cast<void>(s.p.unmerge(s.p.space(), s.number(scene::victim), pages(1)));
    if (op != operation::release) {
        if (s.p.usage().pages_lost != (lost ? 1U : 0U) ||
            s.p.usage().region_pages != scene::count - (lost ? 1 : 0)) {
            return 5;
        }
        if (lost && look(s.p, s.number(scene::victim)).state != page_state::gone) {
            return 6;
        }
        if (s.p.try_release(s.range)) {
            return 7;
        }
    }
    if (s.p.usage().region_pages != 0 || s.p.usage().regions != 0) {
        return 8;
    }
    return s.untouched(v, before) && s.neighbours_hold() ? 0 : 9;
}

} // namespace

TEST_CASE("memory that the application changes behind our back is left alone", "[linux]") {
    if (!kernel_tells_of_mappings()) {
        KSM_SKIP("PROCMAP_QUERY needs Linux 6.11");
    }
    auto const op =
        GENERATE(operation::survey, operation::view, operation::promote, operation::merge,
                 operation::merge_zero, operation::unmerge, operation::release);
    for (std::size_t v = 0; v < violations.size(); ++v) {
        for (std::size_t st = 0; st < states.size(); ++st) {
            for (bool const by_handler : {false, true}) {
                int const code = in_child([&] {
                    return survives(by_handler ? by_mprotect() : quiescent(),
                                    static_cast<violation>(v), static_cast<state>(st), op);
                });
                CAPTURE(violations[v], states[st], by_handler,
                        operations[static_cast<std::size_t>(op)]);
                CHECK(code == 0);
            }
        }
    }
}

TEST_CASE("a merged page that another one was moved to is not taken for the old one", "[linux]") {
    if (!kernel_tells_of_mappings()) {
        KSM_SKIP("PROCMAP_QUERY needs Linux 6.11");
    }
    scene s{quiescent(), state::merged, false};
    std::byte* const moved = s.at + 6 * s.page;
    REQUIRE(::mremap(moved, s.page, s.page, MREMAP_MAYMOVE | MREMAP_FIXED,
                     s.at + scene::victim * s.page) != MAP_FAILED);
    CHECK(s.p.unmerge(s.p.space(), s.number(scene::victim), pages(1)).why == status::gone);
    CHECK(s.p.usage().pages_lost == 1);
    CHECK(s.p.unmerge(s.p.space(), s.number(6), pages(1)).why == status::gone);
    CHECK(s.p.usage().pages_lost == 2);
    CHECK(s.at[scene::victim * s.page] == std::byte{7});
}

TEST_CASE("a lost range can be adopted again", "[linux]") {
    scene s{quiescent(), state::merged, false};
    s.violate(violation::munmap);
    std::byte* const a = s.at + scene::victim * s.page;
    CHECK(s.p.merge(s.p.space(), s.number(scene::victim), pages(1), s.frame).why == status::gone);
    REQUIRE(::mmap(a, s.page, rw, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == a);
    page_range again;
    CHECK_FALSE(s.p.try_adopt(a, s.page, again));
    CHECK(s.p.usage().region_pages == scene::count);
    CHECK(s.p.usage().ranges_lost == 1);
    CHECK_FALSE(s.p.try_release(s.range));
    CHECK(s.p.usage().regions == 0);
}

TEST_CASE("with stable mappings promised adopted memory is read in place", "[linux]") {
    linux_options o = quiescent();
    o.stable_mappings = GENERATE(true, false);
    scene s{o, state::home, false};
    CHECK((s.p.view(s.p.space(), s.number(0)).data() == s.at) == o.stable_mappings);
}

TEST_CASE("the two latest views of adopted pages are valid, in any order", "[linux]") {
    linux_provider p{quiescent()};
    std::size_t const page = p.page_size();
    constexpr std::size_t count = 150;
    auto* const at = static_cast<std::byte*>(
        ::mmap(nullptr, count * page, rw, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    for (std::size_t i = 0; i < count; ++i) {
        std::memset(at + i * page, static_cast<int>(i + 1), page);
    }
    page_range const range = p.adopt(at, count * page);
    auto const shows = [](std::span<std::byte const> view, std::size_t i) {
        auto const value = std::byte(static_cast<unsigned char>(i + 1));
        return !view.empty() && view.front() == value && view.back() == value;
    };
    std::uint64_t x = 1;
    std::size_t sequences[2]{0, count / 2};
    std::size_t last = 0;
    auto seen = p.view(p.space(), range.first);
    for (int n = 0; n < 20000; ++n) {
        x = x * 6364136223846793005U + 1442695040888963407U;
        std::uint64_t const dice = x >> 60;
        std::size_t const i = (dice < 14 ? ++sequences[dice % 2] : x >> 32) % count;
        auto const bytes = p.view(p.space(), range.first + pages(i));
        CAPTURE(n, i, last);
        bool const both = shows(bytes, i) && shows(seen, last);
        REQUIRE(both);
        last = i;
        seen = bytes;
    }
    CHECK_FALSE(p.try_release(range));
    ::munmap(at, count * page);
}

TEST_CASE("a view taken after a survey is not older than the survey", "[linux]") {
    scene s{quiescent(), state::home, false};
    for (std::size_t i = 0; i < 4; ++i) { // pages behind are read ahead
        static_cast<void>(s.p.view(s.p.space(), s.number(i)));
    }
    std::memset(s.at + 4 * s.page, 99, s.page);
    static_cast<void>(look(s.p, s.number(0)));
    CHECK(s.p.view(s.p.space(), s.number(4)).front() == std::byte{99});
}

TEST_CASE("reading does not copy what is shared with a forked child", "[linux]") {
    scene s{quiescent(), state::home, false};
    int wait[2];
    REQUIRE(::pipe(wait) == 0);
    pid_t const child = ::fork();
    if (child == 0) {
        char c;
        ::close(wait[1]);
        ::_exit(::read(wait[0], &c, 1) < 0 ? 1 : 0);
    }
    for (std::size_t i = 0; i < scene::count; ++i) {
        static_cast<void>(s.p.view(s.p.space(), s.number(i)));
    }
    CHECK_FALSE(kernel_entry(s.p, s.number(scene::victim)).exclusive());
    ::close(wait[1]);
    ::waitpid(child, nullptr, 0);
}

TEST_CASE("the application closes all descriptors: reading goes on", "[linux]") {
    CHECK(in_child([] {
              scene s{quiescent(), state::home, false};
              ::close_range(3, ~0U, 0);
              int const foreign = ::memfd_create("foreign", 0);
              for (int i = 0; i < 8; ++i) {
                  static_cast<void>(::dup(foreign));
              }
              static_cast<void>(s.p.view(s.p.space(), s.number(0)));
              auto const bytes = s.p.view(s.p.space(), s.number(1));
              struct stat st;
              ::fstat(foreign, &st);
              if (st.st_size != 0) {
                  return 1;
              }
              return !bytes.empty() && bytes.front() == std::byte{2} ? 0 : 2;
          }) == 0);
}

TEST_CASE("the application closes the list of mappings: it is opened anew", "[linux]") {
    if (!kernel_tells_of_mappings()) {
        KSM_SKIP("the kernel does not tell of single mappings (PROCMAP_QUERY, Linux 6.11)");
    }
    bool const number_is_used_again = GENERATE(false, true);
    CHECK(in_child([&] {
              ::close_range(3, ~0U, 0);
              detail::os::mapping_list list;
              ::close_range(3, ~0U, 0);
              if (number_is_used_again) {
                  static_cast<void>(::memfd_create("foreign", 0));
              }
              void* const page = ::mmap(nullptr, 1, rw, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
              detail::os::mapping found;
              bool const told = list.find(reinterpret_cast<std::uintptr_t>(page), found);
              return told && found.there && found.private_read_write ? 0 : 1;
          }) == 0);
}
