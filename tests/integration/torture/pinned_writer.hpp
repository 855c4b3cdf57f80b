// SPDX-License-Identifier: BSL-1.0
#ifndef KSM_TESTS_INTEGRATION_TORTURE_PINNED_WRITER_HPP
#define KSM_TESTS_INTEGRATION_TORTURE_PINNED_WRITER_HPP

#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "actor.hpp"
#include "pread_writer.hpp"
#include "world.hpp"

namespace torture {

/// As much of io_uring as it takes to pin a buffer and to read into it through the pin.
class ring {
  public:
    ring() {
        fd_ = static_cast<int>(::syscall(SYS_io_uring_setup, 4, &parameters_));
        if (fd_ < 0) {
            fail("io_uring_setup");
            return;
        }
        rings_bytes_ = std::max<std::size_t>(
            parameters_.sq_off.array + parameters_.sq_entries * sizeof(unsigned),
            parameters_.cq_off.cqes + parameters_.cq_entries * sizeof(io_uring_cqe));
        entries_bytes_ = parameters_.sq_entries * sizeof(io_uring_sqe);
        rings_ = map(rings_bytes_, IORING_OFF_SQ_RING);
        entries_ = map(entries_bytes_, IORING_OFF_SQES);
        if ((parameters_.features & IORING_FEAT_SINGLE_MMAP) == 0 && refusal_.empty()) {
            refusal_ = "io_uring before Linux 5.4";
        }
    }
    ~ring() {
        // The pins live as long as the descriptor or a mapping.
        unmap(rings_, rings_bytes_);
        unmap(entries_, entries_bytes_);
        if (fd_ >= 0) {
            ::close(fd_);
        }
    }
    ring(ring const&) = delete;
    ring& operator=(ring const&) = delete;

    [[nodiscard]] std::string const& refusal() const { return refusal_; }

    /// 0 or errno.
    [[nodiscard]] int pin(std::byte* at, std::size_t bytes) {
        iovec const buffer{at, bytes};
        return registered(IORING_REGISTER_BUFFERS, &buffer, 1);
    }
    [[nodiscard]] int unpin() { return registered(IORING_UNREGISTER_BUFFERS, nullptr, 0); }

    /// Reads into a part of the pinned buffer: bytes or -errno.
    [[nodiscard]] int read(int from, std::size_t offset, std::byte* to, std::size_t bytes) {
        unsigned* const tail = word(parameters_.sq_off.tail);
        unsigned const i = *tail & *word(parameters_.sq_off.ring_mask);
        io_uring_sqe entry{};
        entry.opcode = IORING_OP_READ_FIXED;
        entry.fd = from;
        entry.off = offset;
        entry.addr = reinterpret_cast<std::uintptr_t>(to);
        entry.len = static_cast<unsigned>(bytes);
        std::memcpy(entries_ + i * sizeof entry, &entry, sizeof entry);
        word(parameters_.sq_off.array)[i] = i;
        __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
        unsigned to_submit = 1;
        unsigned* const head = word(parameters_.cq_off.head);
        while (__atomic_load_n(word(parameters_.cq_off.tail), __ATOMIC_ACQUIRE) == *head) {
            if (::syscall(SYS_io_uring_enter, fd_, to_submit, 1, IORING_ENTER_GETEVENTS, nullptr,
                          0) < 0 &&
                errno != EINTR) {
                return -errno;
            }
            to_submit = 0;
        }
        io_uring_cqe done;
        std::memcpy(&done,
                    rings_ + parameters_.cq_off.cqes +
                        (*head & *word(parameters_.cq_off.ring_mask)) * sizeof done,
                    sizeof done);
        __atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
        return done.res;
    }

  private:
    void fail(char const* call) {
        if (refusal_.empty()) {
            refusal_ = std::string{call} + ": " + std::strerror(errno);
        }
    }
    [[nodiscard]] std::byte* map(std::size_t bytes, unsigned long long offset) {
        void* const p = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_,
                               static_cast<off_t>(offset));
        if (p == MAP_FAILED) {
            fail("mmap of io_uring");
            return nullptr;
        }
        return static_cast<std::byte*>(p);
    }
    static void unmap(std::byte* at, std::size_t bytes) {
        if (at != nullptr) {
            ::munmap(at, bytes);
        }
    }
    [[nodiscard]] int registered(unsigned what, void const* argument, unsigned n) const {
        return ::syscall(SYS_io_uring_register, fd_, what, argument, n) < 0 ? errno : 0;
    }
    [[nodiscard]] unsigned* word(unsigned offset) const {
        return reinterpret_cast<unsigned*>(rings_ + offset);
    }

    io_uring_params parameters_{};
    int fd_ = -1;
    std::byte* rings_ = nullptr;
    std::byte* entries_ = nullptr;
    std::size_t rings_bytes_ = 0;
    std::size_t entries_bytes_ = 0;
    std::string refusal_;
};

/// Pins blocks for I/O for a while, and has the kernel write through the pins: past every page
/// table. In one block of sixteen, so that the other writers' pages are rarely pinned.
class pinned_writer final : public actor {
  public:
    explicit pinned_writer(world& w)
        : actor("io_uring"), world_(w), slots_(pinned_slots(w.page)), file_(slots_.bytes),
          mine_(w.active.blocks / 16, 0) {
        // A kernel or a limit that has no pins shows here.
        if (int const e = ring_.refusal().empty() ? ring_.pin(block(0), w.active.block_bytes) : 0;
            e != 0) {
            no_pins_ = std::string{"io_uring cannot register a buffer: "} + std::strerror(e);
        } else if (ring_.refusal().empty()) {
            static_cast<void>(ring_.unpin());
        }
    }

    [[nodiscard]] std::string refusal() const override {
        return no_pins_.empty() ? ring_.refusal() : no_pins_;
    }
    void finish() override {
        for (std::size_t b = 0; b < mine_.size(); ++b) {
            check(b);
        }
    }
    void add_to(totals& t) const override { t.pinned_writes += writes_; }

  private:
    [[nodiscard]] std::byte* block(std::size_t b) const { return world_.active.block(16 * b); }

    void step() override {
        std::size_t const b = dice_(mine_.size());
        check(b);
        now("pins");
        if (int const e = ring_.pin(block(b), world_.active.block_bytes); e != 0) {
            complain("io_uring_register: %s", std::strerror(e));
            return;
        }
        for (std::size_t r = 1 + dice_(64); r > 0; --r) {
            std::uint64_t const next = (mine_[b] + 1) % syscall_values;
            now("reads through a pin");
            for (std::size_t i = 0; i < slots_.count; ++i) {
                int const n =
                    ring_.read(file_.fd(), file_.at(next), slots_.in(block(b), i), slots_.bytes);
                if (n != static_cast<int>(slots_.bytes)) {
                    complain("a read through a pin came to %d bytes", n);
                }
                ++writes_;
            }
            mine_[b] = next;
            check(b);
            ::usleep(1);
        }
        now("unpins");
        if (int const e = ring_.unpin(); e != 0) {
            complain("io_uring_register: %s", std::strerror(e));
        }
    }
    void check(std::size_t b) {
        now("checks");
        for (std::size_t i = 0; i < slots_.count; ++i) {
            if (!slots_.hold(slots_.in(block(b), i), mine_[b])) {
                complain("LOST: what io_uring wrote through the pin of page %zu of block %zu", i,
                         16 * b);
            }
        }
    }

    world& world_;
    slots slots_;
    records file_;
    ring ring_;
    std::string no_pins_;
    dice dice_{5};
    std::vector<std::uint64_t> mine_;
    std::uint64_t writes_ = 0;
};

} // namespace torture

#endif
