// SPDX-License-Identifier: BSL-1.0
// What the tests of the Linux provider share: memory to merge, children, and what the kernel says.
#ifndef KSM_TESTS_INTEGRATION_LINUX_SUPPORT_HPP
#define KSM_TESTS_INTEGRATION_LINUX_SUPPORT_HPP

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ksm/providers/linux.hpp>

#include "../support/catch.hpp"
#include "../support/skip.hpp"

namespace linux_test {

using namespace ksm;

inline page_count pages(std::size_t n) { return page_count{n}; }

inline linux_options quiescent() {
    linux_options o;
    o.strategy = write_exclusion::quiescent;
    o.quiescent = true;
    return o;
}
inline linux_options by_move() {
    linux_options o;
    o.strategy = write_exclusion::move;
    return o;
}
inline linux_options by_wp() {
    linux_options o;
    o.strategy = write_exclusion::wp;
    o.no_pinned_io = true;
    return o;
}
inline linux_options by_mprotect() {
    linux_options o;
    o.strategy = write_exclusion::mprotect;
    o.no_syscall_io = true;
    o.no_pinned_io = true;
    return o;
}

/// Reports the test as skipped where the strategy cannot be had.
#define KSM_NEEDS_USERFAULTFD(options)                                                             \
    do {                                                                                           \
        ksm::linux_capabilities const got = ksm::linux_provider{options}.capabilities();           \
        if (got.strategy != (options).strategy) {                                                  \
            KSM_SKIP(got.reason);                                                                  \
        }                                                                                          \
    } while (false)

#define KSM_NEEDS_TRACKING(provider)                                                               \
    do {                                                                                           \
        if (!(provider).capabilities().tracks_changes) {                                           \
            KSM_SKIP("the kernel cannot track changes (PAGEMAP_SCAN, Linux 6.7)");                 \
        }                                                                                          \
    } while (false)

/// Reports the test as skipped where `mprotect` makes all pages of a window private, and so has no
/// windows over pages in between.
#define KSM_NEEDS_LOOSE_COMMIT(options)                                                            \
    do {                                                                                           \
        if ((options).strategy == write_exclusion::mprotect &&                                     \
            detail::os::number_in_file("/proc/sys/vm/overcommit_memory", 0) == 2) {                \
            KSM_SKIP("mprotect under strict overcommit");                                          \
        }                                                                                          \
    } while (false)

/// A region of the provider, unmapped at the end.
class memory {
  public:
    memory(linux_provider& p, std::size_t n) : provider_(p) {
        if (p.try_map(pages(n), range)) {
            FAIL("no region");
        }
    }
    ~memory() {
        static_cast<void>(provider_.try_release(range));
        ::munmap(at(0), range.count.value() * provider_.page_size());
    }
    memory(memory const&) = delete;
    memory& operator=(memory const&) = delete;

    page_number page(std::size_t i) const { return range.first + pages(i); }
    std::byte* at(std::size_t i) const { return provider_.address(page(i)); }
    std::size_t size() const { return range.count.value(); }

    /// Content that only `seed` determines, never zero.
    void fill(std::size_t i, std::uint64_t seed) {
        each_word(seed, [&](std::size_t k, std::uint64_t v) {
            std::memcpy(at(i) + k, &v, sizeof v);
            return true;
        });
    }
    bool holds(std::size_t i, std::uint64_t seed) const {
        return each_word(seed, [&](std::size_t k, std::uint64_t v) {
            return std::memcmp(at(i) + k, &v, sizeof v) == 0;
        });
    }
    bool zero(std::size_t i) const {
        std::vector<std::byte> const zeros(provider_.page_size());
        return std::memcmp(zeros.data(), at(i), zeros.size()) == 0;
    }

    page_range range;

  private:
    template <class Visit>
    bool each_word(std::uint64_t seed, Visit visit) const {
        std::uint64_t x = seed * 2 + 1;
        for (std::size_t k = 0; k < provider_.page_size(); k += sizeof x) {
            x = x * 6364136223846793005U + 1442695040888963407U;
            if (!visit(k, x | 1)) {
                return false;
            }
        }
        return true;
    }
    linux_provider& provider_;
};

/// The state that a survey reports for a page; gone if it is not listed.
inline page_run look(linux_provider& p, page_number page) {
    page_run out[1]; // a survey tells of a write once: ask for no other run
    survey_result const r = p.survey(p.space(), page, coverage::every_page, out);
    if (r.runs != 0 && out[0].first == page) {
        return out[0];
    }
    page_run none;
    none.state = page_state::gone;
    return none;
}

/// Ends the process by a signal that no window can block.
inline void die_in(int seconds) {
    sigevent event{};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGKILL;
    timer_t timer;
    itimerspec const once{{0, 0}, {seconds, 0}};
    if (::timer_create(CLOCK_MONOTONIC, &event, &timer) != 0 ||
        ::timer_settime(timer, 0, &once, nullptr) != 0) {
        ::_exit(99);
    }
}

/// Runs `body` in a forked child; its exit code, or 1000 and the signal that ended it.
template <class Body>
int in_child(Body body) {
    ::fflush(nullptr);
    pid_t const child = ::fork();
    if (child == 0) {
        die_in(60);
        ::_exit(body());
    }
    int state = 0;
    ::waitpid(child, &state, 0);
    return WIFEXITED(state) ? WEXITSTATUS(state) : 1000 + WTERMSIG(state);
}

/// False in a build with sanitizers, whose shadow memory grows by more than merging gives back.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool pss_is_ours = false;
#elif defined(__has_feature)
inline constexpr bool pss_is_ours =
    !__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer);
#else
inline constexpr bool pss_is_ours = true;
#endif

/// What the process's own pages and frames take: its share (PSS) of anonymous and shared memory, in
/// bytes. Its share of files depends on who else has them mapped.
inline std::size_t memory_use() {
    std::FILE* const f = std::fopen("/proc/self/smaps_rollup", "r");
    char line[256];
    unsigned long value = 0;
    std::size_t kib = 0;
    while (f != nullptr && std::fgets(line, sizeof line, f) != nullptr) {
        if (std::sscanf(line, "Pss_Anon: %lu", &value) == 1 ||
            std::sscanf(line, "Pss_Shmem: %lu", &value) == 1) {
            kib += value;
        }
    }
    if (f != nullptr) {
        std::fclose(f);
    }
    return kib * 1024;
}

/// The kernel's mappings that overlap the range.
inline std::size_t mappings_in(void const* at, std::size_t bytes) {
    auto const begin = reinterpret_cast<std::uintptr_t>(at);
    std::FILE* const f = std::fopen("/proc/self/maps", "r");
    REQUIRE(f != nullptr);
    std::size_t n = 0;
    char line[512];
    while (std::fgets(line, sizeof line, f) != nullptr) {
        unsigned long from = 0, to = 0;
        bool const read = std::sscanf(line, "%lx-%lx", &from, &to) == 2;
        n += read && from < begin + bytes && begin < to;
    }
    std::fclose(f);
    return n;
}

/// What the kernel's page table says of a page.
inline detail::os::pagemap_entry kernel_entry(linux_provider& p, page_number page) {
    static_cast<void>(p);
    detail::os::pagemap m;
    auto const e = m.read(page, 1);
    REQUIRE(e.size() == 1);
    return detail::os::pagemap_entry{e[0]};
}
/// A private copy, not a mapping of a frame.
inline bool is_private(linux_provider& p, page_number page) {
    return kernel_entry(p, page).anonymous();
}

/// The kernel's mapping at an address; not there if the kernel does not tell.
inline detail::os::mapping kernel_mapping(std::byte const* at) {
    detail::os::mapping_list list;
    detail::os::mapping m;
    static_cast<void>(list.find(reinterpret_cast<std::uintptr_t>(at), m));
    return m;
}
inline bool kernel_tells_of_mappings() {
    static std::byte const any{};
    return kernel_mapping(&any).there;
}

} // namespace linux_test

#endif
