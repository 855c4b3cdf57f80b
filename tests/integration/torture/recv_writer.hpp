// SPDX-License-Identifier: BSL-1.0
#ifndef KSM_TESTS_INTEGRATION_TORTURE_RECV_WRITER_HPP
#define KSM_TESTS_INTEGRATION_TORTURE_RECV_WRITER_HPP

#include <cerrno>
#include <cstring>
#include <vector>

#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "actor.hpp"
#include "world.hpp"

namespace torture {

/// Receives datagrams into slots. Each bears its number behind what goes into the slot: a call that
/// fails with EFAULT has consumed its datagram, and the number of the next one tells.
class recv_writer final : public actor {
  public:
    explicit recv_writer(world& w)
        : actor("recv"), world_(w), slots_(recv_slots(w.page)), mine_(w.active.blocks, 0) {
        if (::socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, ends_) != 0) {
            FAIL("no sockets");
        }
    }
    ~recv_writer() override {
        ::close(ends_[0]);
        ::close(ends_[1]);
    }

    void finish() override {
        for (std::size_t b = 0; b < mine_.size(); ++b) {
            check(b);
        }
        char rest;
        if (::recv(ends_[1], &rest, 1, MSG_DONTWAIT) >= 0) {
            complain("a datagram is left");
        }
        if (sent_ != received_) {
            complain("LOST: %llu datagrams sent, %llu received",
                     static_cast<unsigned long long>(sent_),
                     static_cast<unsigned long long>(received_));
        }
    }
    void add_to(totals& t) const override {
        t.datagrams += received_;
        t.syscall_writes += received_;
    }

  private:
    void step() override {
        std::size_t const b = dice_(mine_.size());
        check(b);
        std::uint64_t const next = (mine_[b] + 1) % syscall_values;
        std::vector<std::uint64_t> content(slots_.bytes / sizeof next, word_of(next));
        now("sends");
        for (std::size_t i = 0; i < slots_.count; ++i) {
            iovec parts[2] = {{content.data(), slots_.bytes}, {&sent_, sizeof sent_}};
            msghdr message{};
            message.msg_iov = parts;
            message.msg_iovlen = 2;
            if (::sendmsg(ends_[0], &message, 0) < 0) {
                complain("sendmsg: %s", std::strerror(errno));
            }
            ++sent_;
        }
        now("receives");
        for (std::size_t i = 0; i < slots_.count; ++i) {
            std::uint64_t number = 0;
            iovec parts[2] = {{slots_.in(world_.active.block(b), i), slots_.bytes},
                              {&number, sizeof number}};
            msghdr message{};
            message.msg_iov = parts;
            message.msg_iovlen = 2;
            // What was sent is there: a lost datagram is an error here, not a hang.
            ssize_t const n = ::recvmsg(ends_[1], &message, MSG_DONTWAIT);
            if (n != static_cast<ssize_t>(slots_.bytes + sizeof number)) {
                complain("recvmsg came to %zd bytes: %s", n,
                         n < 0 ? std::strerror(errno) : "short");
            } else if (number != received_++) {
                complain("LOST: a datagram before number %llu",
                         static_cast<unsigned long long>(number));
            }
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
                complain("LOST: what recvmsg wrote into slot %zu of block %zu", i, b);
            }
        }
    }

    world& world_;
    slots slots_;
    int ends_[2];
    dice dice_{4};
    std::vector<std::uint64_t> mine_;
    std::uint64_t sent_ = 0;
    std::uint64_t received_ = 0;
};

} // namespace torture

#endif
