// SPDX-License-Identifier: BSL-1.0
#ifndef KSM_TESTS_INTEGRATION_TORTURE_READER_HPP
#define KSM_TESTS_INTEGRATION_TORTURE_READER_HPP

#include <cerrno>
#include <cstring>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

#include "actor.hpp"
#include "world.hpp"

namespace torture {

/// Sees that counters grow, and that pages which nobody writes never look different, neither to the
/// process nor to a system call that reads them.
class reader final : public actor {
  public:
    explicit reader(world& w)
        : actor("reader"), world_(w), seen_(world::wave_pages(), 0), copy_(w.page),
          file_(::memfd_create("copy", MFD_CLOEXEC)) {}
    ~reader() override { ::close(file_); }

    void add_to(totals& t) const override { t.reads += reads_; }

  private:
    void step() override {
        now("reads the wave");
        for (std::size_t i = 0; i < seen_.size(); ++i) {
            std::uint64_t const counter = load(world_.wave_counter(i));
            if (counter < seen_[i]) {
                complain("counter %zu of the wave went back from %llu to %llu", i,
                         static_cast<unsigned long long>(seen_[i]),
                         static_cast<unsigned long long>(counter));
            }
            seen_[i] = counter;
        }
        area const& quiet = dice_(2) == 0 ? world_.restless : world_.calm;
        std::size_t const offset = dice_(quiet.blocks * block_pages) * world_.page;
        std::byte const* const page = quiet.first + offset;
        now("reads a quiet page");
        if (std::memcmp(page, world_.snapshot.data() + offset, world_.page) != 0) {
            complain("a quiet page at %p has changed", static_cast<void const*>(page));
        }
        now("writes a quiet page to a file");
        ssize_t const n = ::pwrite(file_, page, world_.page, 0);
        if (n != static_cast<ssize_t>(world_.page)) {
            complain("pwrite came to %zd bytes: %s", n, n < 0 ? std::strerror(errno) : "short");
        } else if (::pread(file_, copy_.data(), world_.page, 0) != n ||
                   std::memcmp(copy_.data(), world_.snapshot.data() + offset, world_.page) != 0) {
            complain("a quiet page at %p looks different to a system call",
                     static_cast<void const*>(page));
        }
        reads_ += seen_.size() + 2;
        ::usleep(20);
    }

    world& world_;
    dice dice_{6};
    std::vector<std::uint64_t> seen_;
    std::vector<std::byte> copy_;
    int file_;
    std::uint64_t reads_ = 0;
};

} // namespace torture

#endif
