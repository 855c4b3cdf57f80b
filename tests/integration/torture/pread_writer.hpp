// SPDX-License-Identifier: BSL-1.0
#ifndef KSM_TESTS_INTEGRATION_TORTURE_PREAD_WRITER_HPP
#define KSM_TESTS_INTEGRATION_TORTURE_PREAD_WRITER_HPP

#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

#include "actor.hpp"
#include "world.hpp"

namespace torture {

/// A file in which record `v` is `bytes` of the word of `v`.
class records {
  public:
    explicit records(std::size_t bytes)
        : bytes_(bytes), fd_(::memfd_create("records", MFD_CLOEXEC)) {
        for (std::uint64_t v = 0; v < syscall_values; ++v) {
            std::vector<std::uint64_t> const words(bytes / sizeof v, word_of(v));
            if (::pwrite(fd_, words.data(), bytes, static_cast<off_t>(at(v))) !=
                static_cast<ssize_t>(bytes)) {
                FAIL("no file");
            }
        }
    }
    ~records() { ::close(fd_); }
    records(records const&) = delete;
    records& operator=(records const&) = delete;

    [[nodiscard]] int fd() const { return fd_; }
    [[nodiscard]] std::size_t at(std::uint64_t value) const { return value * bytes_; }

  private:
    std::size_t bytes_;
    int fd_;
};

/// Lets the kernel copy from a file into slots that lie across two pages.
class pread_writer final : public actor {
  public:
    explicit pread_writer(world& w)
        : actor("pread"), world_(w), slots_(pread_slots(w.page)), file_(slots_.bytes),
          mine_(w.active.blocks, 0) {}

    void finish() override {
        for (std::size_t b = 0; b < mine_.size(); ++b) {
            check(b);
        }
    }
    void add_to(totals& t) const override { t.syscall_writes += writes_; }

  private:
    void step() override {
        std::size_t const b = dice_(mine_.size());
        check(b);
        std::uint64_t const next = (mine_[b] + 1) % syscall_values;
        for (std::size_t i = 0; i < slots_.count; ++i) {
            now("pread");
            ssize_t const n = ::pread(file_.fd(), slots_.in(world_.active.block(b), i),
                                      slots_.bytes, static_cast<off_t>(file_.at(next)));
            if (n != static_cast<ssize_t>(slots_.bytes)) {
                complain("pread came to %zd bytes: %s", n, n < 0 ? std::strerror(errno) : "short");
            }
            ++writes_;
        }
        mine_[b] = next;
        check(b);
        if (dice_(8) == 0) {
            ::usleep(1);
        }
    }
    void check(std::size_t b) {
        now("checks");
        for (std::size_t i = 0; i < slots_.count; ++i) {
            if (!slots_.hold(slots_.in(world_.active.block(b), i), mine_[b])) {
                complain("LOST: what pread wrote into slot %zu of block %zu", i, b);
            }
        }
    }

    world& world_;
    slots slots_;
    records file_;
    dice dice_{3};
    std::vector<std::uint64_t> mine_;
    std::uint64_t writes_ = 0;
};

} // namespace torture

#endif
