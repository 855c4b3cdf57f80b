// SPDX-License-Identifier: BSL-1.0
// Each system call of each operation fails with each errno, once. The table says what becomes of
// it; whatever it is, every page keeps its content and its state, is writable, and the operation
// succeeds when it is asked again, unless the table says that the provider has stopped merging.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "linux_errno_table.hpp"
#include "linux_support.hpp"

using namespace linux_test;
using detail::os::call;

namespace {

constexpr int rw = PROT_READ | PROT_WRITE;

struct named_error {
    int value;
    char const* name;
};
constexpr std::array errors{
    named_error{EPERM, "EPERM"},   named_error{EACCES, "EACCES"}, named_error{EAGAIN, "EAGAIN"},
    named_error{EBADF, "EBADF"},   named_error{EBUSY, "EBUSY"},   named_error{EFAULT, "EFAULT"},
    named_error{EINTR, "EINTR"},   named_error{EINVAL, "EINVAL"}, named_error{EIO, "EIO"},
    named_error{EMFILE, "EMFILE"}, named_error{ENOMEM, "ENOMEM"}, named_error{ENOSPC, "ENOSPC"},
    named_error{ENOSYS, "ENOSYS"},
};

constexpr std::array calls{"open",
                           "close",
                           "read",
                           "pread",
                           "pwrite",
                           "fstat",
                           "fcntl",
                           "ftruncate",
                           "fallocate",
                           "memfd_create",
                           "mmap",
                           "munmap",
                           "mprotect",
                           "madvise",
                           "process_madvise",
                           "mremap",
                           "mincore",
                           "process_vm_readv",
                           "getrlimit",
                           "sigaction",
                           "procmap_query",
                           "pagemap_scan",
                           "userfaultfd",
                           "uffd_api",
                           "uffd_register",
                           "uffd_unregister",
                           "uffd_wake",
                           "uffd_write_protect",
                           "uffd_move",
                           "uffd_copy"};

enum class operation {
    construct,
    try_map,
    try_adopt,
    survey,
    view,
    promote,
    promote_again,
    merge,
    merge_batch,
    merge_zero,
    merge_zero_in_pieces,
    merge_zero_of_merged,
    unmerge,
    unmerge_of_zero,
    release,
};
constexpr std::array operations{"construct",
                                "try_map",
                                "try_adopt",
                                "survey",
                                "view",
                                "promote",
                                "promote again",
                                "merge",
                                "merge_batch",
                                "merge_zero",
                                "merge_zero in pieces",
                                "merge_zero of merged",
                                "unmerge",
                                "unmerge of zero",
                                "release"};

// ---------------------------------------------------------------------------------- the hook

struct {
    bool counting = false;
    std::array<unsigned, calls.size()> seen{};
    call which{};
    unsigned nth = 0; ///< From 1; 0: none fails.
    int error = 0;
} injection;

int inject(call c) noexcept {
    if (!injection.counting) {
        return 0;
    }
    unsigned const n = ++injection.seen[static_cast<std::size_t>(c)];
    return c == injection.which && n == injection.nth ? injection.error : 0;
}

/// Calls are counted, and one of them fails, while this lives.
class injecting {
  public:
    injecting() noexcept {
        injection.seen = {};
        injection.counting = true;
        detail::os::fault_hook.store(&inject);
    }
    ~injecting() {
        detail::os::fault_hook.store(nullptr);
        injection.counting = false;
    }
    injecting(injecting const&) = delete;
    injecting& operator=(injecting const&) = delete;
};

/// Simulates a kernel that is out of memory after it has unmapped what it was to replace.
struct {
    std::byte* at = nullptr;
    std::size_t bytes = 0;
    call which{};
} hole;

int take_away(call c) noexcept {
    if (c != hole.which || hole.at == nullptr) {
        return 0;
    }
    ::munmap(hole.at, hole.bytes);
    hole.at = nullptr;
    return ENOMEM;
}

// ---------------------------------------------------------------------------------- the scene

constexpr std::size_t count = 8;
constexpr std::size_t first = 2; ///< The operations' two pages, 2 and 3; 6 and 7 are their twins.

std::string describe(region_error e) {
    return e ? std::string{message(e.what)} + (e.os ? std::string{" ("} + e.os.call + ")" : "")
             : "ok";
}
std::string describe(progress p) { return name(p.why); }

struct scene {
    explicit scene(linux_options const& o, operation op) : page(detail::os::page_bytes()) {
        // The page below is free for a mirror's seed, or taken, and all are in one block of huge
        // pages: otherwise the calls depend on luck.
        constexpr std::size_t room = 3 * count;
        auto* const mapped = static_cast<std::byte*>(
            ::mmap(nullptr, room * page, rw, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        at = mapped + page;
        at += -reinterpret_cast<std::uintptr_t>(at) % (count * page);
        auto* const below = at - page;
        auto const unused = static_cast<std::size_t>(below - mapped);
        check(unused == 0 || ::munmap(mapped, unused) == 0);
        check(::munmap(at + count * page, (room - count - 1) * page - unused) == 0);
        zero = (op >= operation::merge_zero && op <= operation::merge_zero_of_merged) ||
               op == operation::unmerge_of_zero;
        for (std::size_t i = 0; i < count; ++i) {
            std::memset(at + i * page, value(i), page);
        }
        if (op == operation::construct) {
            return;
        }
        p = new linux_provider{o};
        if (op == operation::try_adopt || op == operation::try_map) {
            return;
        }
        ::munmap(below, page);
        check(!p->try_adopt(at, count * page, range));
        if (op == operation::promote || op == operation::survey || op == operation::view ||
            op == operation::merge_zero || op == operation::merge_zero_in_pieces) {
            return;
        }
        promotion const made = p->promote(p->space(), number(6), pages(2));
        check(made.made.why == status::ok);
        frame = made.first;
        if (op == operation::unmerge || op == operation::release ||
            op == operation::merge_zero_of_merged) {
            check(p->merge(p->space(), number(first), pages(2), frame).why == status::ok);
        } else if (op == operation::unmerge_of_zero) {
            check(p->merge_zero(p->space(), page_set::run(number(first), pages(2))).why ==
                  status::ok);
        }
    }

    static void check(bool good) {
        if (!good) {
            ::_exit(50);
        }
    }
    int value(std::size_t i) const {
        bool const pair = i == first || i == first + 1 || i >= 6;
        return !pair ? static_cast<int>(i + 1) : zero ? 0 : static_cast<int>(10 + i % 2);
    }
    page_number number(std::size_t i) const { return range.first + pages(i); }

    std::string run(linux_options const& o, operation op) {
        space_id const space{0};
        switch (op) {
        case operation::construct: p = new linux_provider{o}; return "ok";
        case operation::try_map: {
            page_range out;
            region_error const e = p->try_map(pages(4), out);
            if (!e) {
                static_cast<void>(p->try_release(out));
            }
            return describe(e);
        }
        case operation::try_adopt: return describe(p->try_adopt(at, count * page, range));
        case operation::survey: {
            std::array<page_run, count> out;
            survey_result const r = p->survey(space, page_number{0}, coverage::every_page, out);
            std::size_t listed = 0;
            for (std::size_t i = 0; i < r.runs; ++i) {
                listed += out[i].pages.value();
            }
            return listed == count ? "ok" : "pages are missing";
        }
        case operation::view: {
            for (std::size_t i = 0; i < count; ++i) {
                auto const bytes = p->view(space, number(i));
                if (bytes.empty()) {
                    return "gone";
                }
                check(std::memcmp(bytes.data(), at + i * page, page) == 0);
            }
            return "ok";
        }
        case operation::promote:
        case operation::promote_again:
            return describe(p->promote(space, number(first), pages(2)).made);
        case operation::merge: return describe(p->merge(space, number(first), pages(2), frame));
        case operation::merge_batch: {
            std::array<merge_request, 2> both{
                {{number(first), pages(1), frame, {}},
                 {number(first + 1), pages(1), frame + pages(1), {}}}};
            p->merge_batch(space, both);
            return describe(both[0].result.why != status::ok ? both[0].result : both[1].result);
        }
        case operation::merge_zero_in_pieces: // with their twins
            return describe(p->merge_zero(space, {number(first), 0b11'0011}));
        case operation::merge_zero:
        case operation::merge_zero_of_merged:
            return describe(p->merge_zero(space, page_set::run(number(first), pages(2))));
        case operation::unmerge:
        case operation::unmerge_of_zero:
            return describe(p->unmerge(space, number(first), pages(2)));
        case operation::release: return describe(p->try_release(range));
        }
        return "?";
    }

    /// Content, and stores that are not held up.
    bool intact() {
        bool good = true;
        std::thread{[&] {
            for (std::size_t i = 0; i < count * page; ++i) {
                good = good && at[i] == std::byte(static_cast<unsigned char>(value(i / page)));
            }
            for (std::size_t i = 0; i < count; ++i) {
                static_cast<std::byte volatile*>(at)[i * page] = at[i * page];
            }
        }}.join();
        return good;
    }
    std::vector<page_state> states() {
        std::vector<page_state> all;
        for (std::size_t i = 0; i < count; ++i) {
            all.push_back(look(*p, number(i)).state);
        }
        return all;
    }

    std::size_t page;
    std::byte* at = nullptr;
    linux_provider* p = nullptr;
    page_range range;
    frame_id frame;
    bool zero = false;
};

/// What the failure of one call comes to.
std::string outcome(linux_options const& o, operation op) {
    scene s{o, op};
    bool const surveyed = op > operation::survey;
    std::vector<page_state> const before = surveyed ? s.states() : std::vector<page_state>{};
    std::string result;
    {
        injecting const now;
        result = s.run(o, op);
    }
    bool const off = s.p->capabilities().strategy == write_exclusion::off;
    if (off && !s.p->capabilities().refusal) {
        return "off without a refusal";
    }
    bool const in_parts = op == operation::release || op == operation::merge_batch ||
                          op == operation::merge_zero_in_pieces;
    if (surveyed && !in_parts && result != "ok" && s.states() != before) {
        return "states changed";
    }
    if (!s.intact()) {
        return "content changed";
    }
    if (op == operation::construct) {
        return off ? "off" : "ok";
    }
    bool const merges = op >= operation::promote && op <= operation::merge_zero_of_merged;
    if (result != "ok") {
        injection.nth = 0;
        std::string const again = s.run(o, op);
        if (again != (off && merges ? "refused" : "ok")) {
            return result + ", then " + again;
        }
        if (!s.intact()) {
            return "content changed later";
        }
    }
    return result + (off ? ", off" : "");
}

/// Runs the operation once for each errno from `begin` to `end`; a line of outcomes for each.
int run_errors(linux_options const& o, operation op, unsigned nth, std::size_t begin,
               std::size_t end, int to) {
    return in_child([&] {
        for (std::size_t i = begin; i < end; ++i) {
            injection.error = errors[i].value;
            injection.nth = nth;
            std::string const text = outcome(o, op) + '\n';
            if (::write(to, text.data(), text.size()) < 0) {
                return 1;
            }
        }
        return 0;
    });
}

std::vector<std::string> read_lines(int from) {
    std::vector<std::string> lines{""};
    char c;
    while (::read(from, &c, 1) == 1) {
        if (c == '\n') {
            lines.emplace_back();
        } else {
            lines.back() += c;
        }
    }
    lines.pop_back();
    return lines;
}

/// "EPERM: refused; else: ok" and so on.
std::string outcomes(linux_options const& o, operation op, call c, unsigned nth) {
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    injection.which = c;
    int code = 0;
    if (op == operation::construct) { // the handler for SIGSEGV is installed once in a process
        for (std::size_t i = 0; i < errors.size() && code == 0; ++i) {
            code = run_errors(o, op, nth, i, i + 1, ends[1]);
        }
    } else {
        code = run_errors(o, op, nth, 0, errors.size(), ends[1]);
    }
    ::close(ends[1]);
    std::vector<std::string> const results = read_lines(ends[0]);
    ::close(ends[0]);
    if (code != 0 || results.size() != errors.size()) {
        return "the process ended with " + std::to_string(code) + " at " +
               errors[std::min(results.size(), errors.size() - 1)].name;
    }
    std::map<std::string, int> votes;
    std::string usual;
    for (std::string const& r : results) {
        if (++votes[r] > votes[usual]) {
            usual = r;
        }
    }
    std::string text;
    for (std::size_t i = 0; i < results.size(); ++i) {
        if (results[i] != usual) {
            text += std::string{errors[i].name} + ": " + results[i] + "; ";
        }
    }
    return text.empty() ? usual : text + "else: " + usual;
}

/// Calls that an operation makes when nothing fails.
std::array<unsigned, calls.size()> calls_of(linux_options const& o, operation op) {
    std::array<unsigned, calls.size()> seen{};
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    int const code = in_child([&] {
        injection.nth = 0;
        if (outcome(o, op) != "ok") {
            return 1;
        }
        return ::write(ends[1], &injection.seen, sizeof injection.seen) < 0 ? 2 : 0;
    });
    REQUIRE(code == 0);
    REQUIRE(::read(ends[0], &seen, sizeof seen) == sizeof seen);
    ::close(ends[0]);
    ::close(ends[1]);
    return seen;
}

/// Where the call is made: "promote, mmap 7". `visit(place, outcomes)`.
template <class Visit>
void each_call(linux_options const& o, operation op, Visit visit) {
    if (op == operation::merge_batch && !o.no_readers) {
        return; // as many calls of merge
    }
    auto const seen = calls_of(o, op);
    for (std::size_t c = 0; c < calls.size(); ++c) {
        // How often a file of /proc is read depends on the process.
        unsigned const most = static_cast<call>(c) == call::read ? 1 : 12;
        for (unsigned nth = 1; nth <= std::min(seen[c], most); ++nth) {
            visit(std::string{operations[static_cast<std::size_t>(op)]} + ", " + calls[c] + ' ' +
                      std::to_string(nth),
                  outcomes(o, op, static_cast<call>(c), nth));
        }
    }
}

struct strategy {
    unsigned bit;
    char const* letter;
    linux_options options;
};
/// Those that can be had here.
std::vector<strategy> strategies() {
    linux_options stopped = quiescent();
    stopped.no_readers = true;
    std::vector<strategy> all{
        {q, "q", stopped}, {m, "m", by_mprotect()}, {v, "v", by_move()}, {w, "w", by_wp()}};
    std::erase_if(all, [](strategy const& s) {
        return linux_provider{s.options}.capabilities().strategy != s.options.strategy;
    });
    return all;
}

/// Whether there is room for a mirror's seed below a region is a matter of luck, and with it which
/// of these calls there are: that all pages are intact must do.
bool depends_on_layout(std::string const& place) {
    return place.starts_with("try_adopt, mmap") || place.starts_with("unmerge, mprotect") ||
           place.starts_with("release, mprotect");
}

char const* expected(strategy const& s, std::string const& place) {
    for (errno_row const& r : errno_table) {
        if (place == r.place && (r.strategies & s.bit) != 0) {
            return r.outcomes;
        }
    }
    return "ok";
}

} // namespace

TEST_CASE("each errno of each system call has the outcome that the table says", "[linux]") {
    if (!kernel_tells_of_mappings() || !detail::os::can_discard_at_once(detail::os::page_bytes())) {
        KSM_SKIP("the table is of a kernel with PROCMAP_QUERY, Linux 6.11, and a process_madvise "
                 "for the calling process, Linux 6.14");
    }
    if (detail::os::number_in_file("/proc/sys/vm/overcommit_memory", 0) == 2) {
        KSM_SKIP("strict overcommit takes more calls");
    }
    std::vector<strategy> const all = strategies();
    for (strategy const& s : all) {
        std::size_t met = 0;
        for (std::size_t i = 0; i < operations.size(); ++i) {
            each_call(s.options, static_cast<operation>(i),
                      [&](std::string const& place, std::string const& got) {
                          CAPTURE(place, s.letter, got);
                          if (depends_on_layout(place)) {
                              CHECK(got.find("the process ended") == std::string::npos);
                              return;
                          }
                          CHECK(got == expected(s, place));
                          met += got != "ok" && !place.starts_with("construct,");
                      });
        }
        // No row is left over. What the first provider of a process installs is installed once.
        std::size_t rows = 0;
        for (errno_row const& r : errno_table) {
            bool const constructs = std::string{r.place}.starts_with("construct,");
            rows += !constructs && (r.strategies & s.bit) != 0;
        }
        CAPTURE(s.letter);
        CHECK(met == rows);
    }
    if (all.size() != 4) {
        KSM_SKIP("move or wp: userfaultfd cannot be had");
    }
}

TEST_CASE("the table of errnos, from the code", "[.][errno-table]") {
    for (std::size_t i = 0; i < operations.size(); ++i) {
        std::vector<std::pair<std::string, std::string>> rows; // place and outcomes, in order
        std::map<std::pair<std::string, std::string>, std::string> letters;
        for (strategy const& s : strategies()) {
            each_call(s.options, static_cast<operation>(i),
                      [&](std::string const& place, std::string const& got) {
                          if (got == "ok" || depends_on_layout(place)) {
                              return;
                          }
                          std::string& l = letters[{place, got}];
                          if (l.empty()) {
                              rows.emplace_back(place, got);
                          }
                          l += (l.empty() ? "" : " | ") + std::string{s.letter};
                      });
        }
        for (auto const& [place, got] : rows) {
            std::printf("    {%s, \"%s\", \"%s\"},\n", letters[{place, got}].c_str(), place.c_str(),
                        got.c_str());
        }
    }
}

TEST_CASE("a mapping that the kernel took away before it failed is put back", "[linux]") {
    std::vector<strategy> const all = strategies();
    std::size_t const which_strategy = GENERATE(0U, 1U, 2U, 3U);
    if (which_strategy >= all.size()) {
        KSM_SKIP("move or wp: userfaultfd cannot be had");
    }
    strategy const& how = all[which_strategy];
    auto const [op, which] = GENERATE(std::pair{operation::promote_again, call::mmap},
                                      std::pair{operation::merge, call::mmap},
                                      std::pair{operation::merge_zero_of_merged, call::mmap});
    CAPTURE(how.letter, operations[static_cast<std::size_t>(op)]);
    CHECK(in_child([&, op = op, which = which] {
              linux_options const o = how.options;
              scene s{o, op};
              hole.at = s.at + first * s.page;
              hole.bytes = 2 * s.page;
              hole.which = which;
              detail::os::fault_hook.store(&take_away);
              std::string const result = s.run(o, op);
              detail::os::fault_hook.store(nullptr);
              if (hole.at != nullptr || !s.intact()) {
                  return 1;
              }
              bool const same = op == operation::merge_zero_of_merged;
              return result == (same ? "ok" : "out_of_mappings") ? 0 : 2;
          }) == 0);
}
