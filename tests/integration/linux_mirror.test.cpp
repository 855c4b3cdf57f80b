// SPDX-License-Identifier: BSL-1.0
// What the kernel does that mirrors rest on (mirror.hpp), shown by plain system calls: a kernel
// that does otherwise fails here, and not somewhere behind a provider.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "linux_support.hpp"

using namespace linux_test;

namespace {

constexpr int rw = PROT_READ | PROT_WRITE;
constexpr int anonymous = MAP_PRIVATE | MAP_ANONYMOUS;
constexpr std::size_t n = 64;

/// Pages between guards, the page below them taken away as a seed; and a file of frames.
struct pages_and_seed {
    explicit pages_and_seed(int flags = 0) {
        void* const all = ::mmap(nullptr, (n + 3) * page, PROT_NONE, anonymous, -1, 0);
        REQUIRE(all != MAP_FAILED);
        auto* const below = static_cast<std::byte*>(all) + page;
        REQUIRE(::mmap(below, (n + 1) * page, rw, anonymous | MAP_FIXED | flags, -1, 0) == below);
        at = below + page;
        below[0] = std::byte{1}; // its mapping has an anon_vma from now on
        plant(below);
        file = ::memfd_create("frames", MFD_CLOEXEC);
        REQUIRE(::ftruncate(file, static_cast<off_t>(n * page)) == 0);
        mapping_flags = flags;
    }
    ~pages_and_seed() {
        ::close(file);
        ::munmap(at - 2 * page, page); // what is in the place of the seed now is not ours
        ::munmap(at, (n + 1) * page);
        ::munmap(seed, 2 * page);
    }
    pages_and_seed(pages_and_seed const&) = delete;
    pages_and_seed& operator=(pages_and_seed const&) = delete;

    void plant(std::byte* below) {
        void* const got = ::mremap(below, page, 2 * page, MREMAP_MAYMOVE);
        REQUIRE(got != MAP_FAILED);
        seed = static_cast<std::byte*>(got);
    }
    void touch() { std::memset(at, 1, n * page); }
    /// Maps pages to frames, as a merge does.
    void merge(std::size_t i, std::size_t count = 1) {
        REQUIRE(::mmap(at + i * page, count * page, rw, MAP_PRIVATE | MAP_FIXED | mapping_flags,
                       file, 0) == at + i * page);
    }
    /// Moves copies with `content` out of the mirror into the places of the pages.
    void heal(std::size_t i, std::size_t count = 1, int content = 7) {
        std::size_t const all = i + count + 1;
        void* const grown =
            ::mremap(seed, 2 * page, std::max<std::size_t>(all, 2) * page, MREMAP_MAYMOVE);
        REQUIRE(grown != MAP_FAILED);
        seed = static_cast<std::byte*>(grown);
        std::byte* const copy = seed + (i + 1) * page;
        std::memset(copy, content, count * page);
        REQUIRE(::mremap(copy, count * page, count * page,
                         MREMAP_MAYMOVE | MREMAP_FIXED | detail::os::mremap_dontunmap,
                         at + i * page) == at + i * page);
        if (all > 2) {
            ::munmap(seed + 2 * page, (all - 2) * page);
        }
    }
    std::size_t mappings() const { return mappings_in(at, n * page); }

    std::size_t page = detail::os::page_bytes();
    std::byte* at;
    std::byte* seed;
    int file;
    int mapping_flags;
};

} // namespace

TEST_CASE("kernel: a page moved out of a mirror joins its neighbours", "[linux]") {
    int const flags = GENERATE(0, MAP_NORESERVE);
    bool const touched = GENERATE(true, false);
    pages_and_seed m{flags};
    if (touched) {
        m.touch();
    }
    std::size_t const all = detail::os::count_mappings();
    SECTION("in the middle") {
        m.merge(20);
        CHECK(m.mappings() == 3);
        m.heal(20);
    }
    SECTION("at the edges") {
        m.merge(0);
        m.merge(n - 1);
        CHECK(m.mappings() == 3);
        m.heal(0);
        m.heal(n - 1);
    }
    SECTION("every other one") {
        for (std::size_t i = 0; i < n; i += 2) {
            m.merge(i);
        }
        CHECK(m.mappings() == n);
        for (std::size_t i = 0; i < n; i += 2) {
            m.heal(i);
        }
    }
    SECTION("a run in pieces, which was written before") {
        m.merge(10, 20);
        m.at[15 * m.page] = std::byte{3};
        m.heal(15, 5);
        m.heal(20, 10);
        m.heal(10, 5);
    }
    SECTION("everything") {
        m.merge(0, n);
        m.heal(0, n);
        m.merge(30);
        m.heal(30);
    }
    CHECK(m.mappings() == 1);
    CHECK(detail::os::count_mappings() == all);
}

TEST_CASE("kernel: a page out of a mirror is anonymous memory like any other", "[linux]") {
    pages_and_seed m;
    m.touch();
    m.merge(5);
    m.heal(5);
    CHECK(m.at[5 * m.page] == std::byte{7});
    CHECK(m.at[4 * m.page] == std::byte{1});
    CHECK(::madvise(m.at + 5 * m.page, m.page, MADV_FREE) == 0);
    m.at[5 * m.page] = std::byte{8};
    CHECK(m.at[5 * m.page] == std::byte{8});
    CHECK(::madvise(m.at + 5 * m.page, m.page, MADV_DONTNEED) == 0);
    CHECK(m.at[5 * m.page] == std::byte{0});
    CHECK(::mremap(m.at, n * m.page, n * m.page, MREMAP_MAYMOVE) == m.at); // one mapping
}

TEST_CASE("kernel: a page out of a mirror joins beside a forked child", "[linux]") {
    bool const alive = GENERATE(true, false);
    pages_and_seed m;
    m.touch();
    m.merge(5);
    pid_t const child = ::fork();
    if (child == 0) {
        die_in(60);
        ::pause();
    }
    if (!alive) {
        ::kill(child, SIGKILL);
        ::waitpid(child, nullptr, 0);
    }
    m.heal(5);
    CHECK(m.mappings() == 1);
    m.merge(9);
    m.heal(9);
    CHECK(m.mappings() == 1);
    if (alive) {
        ::kill(child, SIGKILL);
        ::waitpid(child, nullptr, 0);
    }
}

TEST_CASE("kernel: a mirror fits only what was one mapping with its seed", "[linux]") {
    pages_and_seed m;
    m.at[5 * m.page] = std::byte{1};
    // A page that was mapped and written apart from the rest has an anon_vma of its own.
    REQUIRE(::mmap(m.at + 32 * m.page, 32 * m.page, PROT_NONE, anonymous | MAP_FIXED, -1, 0) !=
            MAP_FAILED);
    REQUIRE(::mmap(m.at + 33 * m.page, 31 * m.page, rw, anonymous | MAP_FIXED, -1, 0) !=
            MAP_FAILED);
    m.at[40 * m.page] = std::byte{1};
    REQUIRE(::mmap(m.at + 32 * m.page, m.page, rw, anonymous | MAP_FIXED, -1, 0) != MAP_FAILED);
    REQUIRE(m.mappings() == 2);
    m.merge(50);
    m.heal(50);
    CHECK(m.mappings() == 4);
    m.merge(5);
    m.heal(5);
    CHECK(m.mappings() == 4);
}

TEST_CASE("kernel: a page mapped below memory that is there becomes its seed", "[linux]") {
    pages_and_seed m;
    m.touch();
    std::byte* const below = m.at - m.page; // free since the seed was taken
    ::munmap(m.seed, 2 * m.page);
    REQUIRE(::mmap(below, m.page, rw, anonymous | detail::os::map_fixed_noreplace, -1, 0) == below);
    CHECK(mappings_in(below, (n + 1) * m.page) == 1);
    m.plant(below);
    m.merge(20);
    m.heal(20);
    CHECK(m.mappings() == 1);
}

TEST_CASE("kernel: beside memory of a userfaultfd a healed page joins when it is registered",
          "[linux]") {
    auto const fd = static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
    if (fd < 0) {
        KSM_SKIP("no userfaultfd");
    }
    uffdio_api api{};
    api.api = UFFD_API;
    api.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP;
    if (::ioctl(fd, UFFDIO_API, &api) != 0) {
        ::close(fd);
        KSM_SKIP("userfaultfd without write protection");
    }
    pages_and_seed m;
    m.touch();
    auto const enlist = [&](std::size_t i, std::size_t count) {
        uffdio_register r{};
        r.range = {reinterpret_cast<std::uintptr_t>(m.at + i * m.page), count * m.page};
        r.mode = UFFDIO_REGISTER_MODE_WP;
        return ::ioctl(fd, UFFDIO_REGISTER, &r);
    };
    REQUIRE(enlist(0, n) == 0);
    m.merge(20);
    m.heal(20);
    CHECK(m.mappings() == 3);
    CHECK(enlist(20, 1) == 0);
    CHECK(m.mappings() == 1);
    ::close(fd);
}

TEST_CASE("kernel: a reader sees the old page or the new one, and nothing between", "[linux]") {
    pages_and_seed m;
    m.touch();
    std::byte const value{0x5a};
    std::memset(m.at + 20 * m.page, 0x5a, m.page);
    std::atomic<bool> stop{false};
    std::uint64_t wrong = 0;
    std::uint64_t reads = 0;
    std::vector<std::byte> const frame(m.page, value);
    REQUIRE(::pwrite(m.file, frame.data(), m.page, 0) == static_cast<ssize_t>(m.page));
    std::thread reader{[&] {
        auto const volatile* const p = m.at + 20 * m.page;
        while (!stop.load(std::memory_order_relaxed)) {
            wrong += *p != value;
            ++reads;
        }
    }};
    for (int i = 0; i < 2000; ++i) {
        m.merge(20);
        m.heal(20, 1, 0x5a);
    }
    stop = true;
    reader.join();
    CHECK(wrong == 0);
    CHECK(reads > 1000);
    CHECK(m.mappings() == 1);
}
