// SPDX-License-Identifier: BSL-1.0
// Huge pages: what is merged of one must not stay in memory until the kernel runs short of it.
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <string>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "linux_support.hpp"

using namespace linux_test;

namespace {

constexpr int madv_collapse = 25;

/// Two huge pages, of pages that hold their number, in a region of the provider.
class huge_memory {
  public:
    explicit huge_memory(linux_provider& p) : provider_(p) {
        std::size_t const bytes = detail::os::page_table::block_pages * p.page_size();
        mapped_ = 3 * bytes;
        mapping_ =
            ::mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        REQUIRE(mapping_ != MAP_FAILED);
        auto const begin = (reinterpret_cast<std::uintptr_t>(mapping_) + bytes - 1) / bytes * bytes;
        at_ = reinterpret_cast<std::byte*>(begin);
        for (std::size_t i = 0; i < size(); ++i) {
            std::memcpy(at(i), &i, sizeof i);
        }
        int error = EAGAIN; // the kernel is just using a page
        for (int tries = 20; error == EAGAIN && tries > 0; --tries) {
            error = ::madvise(at_, 2 * bytes, madv_collapse) != 0 ? errno : 0;
        }
        if (error != 0) {
            why_ = std::string{"MADV_COLLAPSE (Linux 6.1): "} + std::strerror(error);
        } else if (!in_a_huge_page(0) && why_.empty()) {
            why_ = "huge pages have another size here";
        }
        REQUIRE(!p.try_adopt(at_, 2 * bytes, range));
    }
    ~huge_memory() {
        static_cast<void>(provider_.try_release(range));
        ::munmap(mapping_, mapped_);
    }
    huge_memory(huge_memory const&) = delete;
    huge_memory& operator=(huge_memory const&) = delete;

    std::size_t size() const { return 2 * detail::os::page_table::block_pages; }
    std::byte* at(std::size_t i) const { return at_ + i * provider_.page_size(); }
    page_number page(std::size_t i) const { return range.first + pages(i); }

    /// What the kernel says of the memory behind a page.
    bool in_a_huge_page(std::size_t i) {
        std::uint64_t const entry = word_of(
            "/proc/self/pagemap", reinterpret_cast<std::uintptr_t>(at(i)) / provider_.page_size());
        std::uint64_t const frame = entry & ((std::uint64_t{1} << 55U) - 1);
        if (frame == 0) {
            why_ = "only root may see /proc/kpageflags";
            return false;
        }
        std::uint64_t const head_or_tail = std::uint64_t{3} << 15U;
        return (word_of("/proc/kpageflags", frame) & head_or_tail) != 0;
    }
    /// Why nothing can be tested; empty if it can.
    std::string const& why() const { return why_; }

    page_range range;

  private:
    static std::uint64_t word_of(char const* file, std::uint64_t index) {
        std::uint64_t word = 0;
        int const fd = ::open(file, O_RDONLY | O_CLOEXEC);
        if (::pread(fd, &word, sizeof word, static_cast<off_t>(index * sizeof word)) !=
            sizeof word) {
            word = 0;
        }
        ::close(fd);
        return word;
    }

    linux_provider& provider_;
    void* mapping_ = nullptr;
    std::size_t mapped_ = 0;
    std::byte* at_ = nullptr;
    std::string why_;
};

} // namespace

TEST_CASE("of a huge page that is merged in part the kernel keeps nothing", "[linux]") {
    linux_options const options = GENERATE(quiescent(), by_mprotect(), by_move(), by_wp());
    KSM_NEEDS_USERFAULTFD(options);
    bool const zero = GENERATE(false, true);
    linux_provider p{options};
    huge_memory m{p};
    if (!m.why().empty()) {
        KSM_SKIP(m.why());
    }
    std::size_t const other = detail::os::page_table::block_pages;
    if (zero) {
        std::memset(m.at(5), 0, p.page_size());
        CHECK(p.merge_zero(p.space(), page_set::run(m.page(5), pages(1))).done == pages(1));
    } else {
        CHECK(p.promote(p.space(), m.page(5), pages(1)).made.done == pages(1));
    }
    CHECK_FALSE(m.in_a_huge_page(0));
    CHECK_FALSE(m.in_a_huge_page(other - 1));
    CHECK(m.in_a_huge_page(other));
    for (std::size_t i = 0; i < m.size(); ++i) {
        std::size_t const content = zero && i == 5 ? 0 : i;
        CAPTURE(i);
        CHECK(std::memcmp(m.at(i), &content, sizeof content) == 0);
    }
}

TEST_CASE("a run that is merged splits each huge page that it touches", "[linux]") {
    linux_provider p{quiescent()};
    huge_memory m{p};
    if (!m.why().empty()) {
        KSM_SKIP(m.why());
    }
    std::size_t const border = detail::os::page_table::block_pages;
    promotion const made = p.promote(p.space(), m.page(border - 8), pages(16));
    CHECK(made.made.done == pages(16));
    CHECK_FALSE(m.in_a_huge_page(0));
    CHECK_FALSE(m.in_a_huge_page(m.size() - 1));
}
