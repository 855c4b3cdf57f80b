// SPDX-License-Identifier: BSL-1.0
#ifndef KSM_TESTS_INTEGRATION_TORTURE_FORKER_HPP
#define KSM_TESTS_INTEGRATION_TORTURE_FORKER_HPP

#include <cerrno>
#include <cstring>
#include <vector>

#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "actor.hpp"
#include "pread_writer.hpp"
#include "world.hpp"

namespace torture {

/// Makes children in three ways while everybody else goes on. They look at what cannot have
/// changed, and write into copies of pages that are written all the time.
class forker final : public actor {
  public:
    explicit forker(world& w)
        : actor("forker"), world_(w), low_(world::wave_pages(), 0),
          file_(block_pages * sizeof(std::uint64_t)) {}

    void add_to(totals& t) const override { t.forks += forks_; }

  private:
    void step() override {
        for (std::size_t i = 0; i < low_.size(); ++i) {
            low_[i] = load(world_.wave_counter(i));
        }
        nursery_ = world_.nursery_changes;
        std::uint64_t const way = steps() % 3;
        pid_t child = -1;
        if (way == 0) {
            now("fork");
            child = ::fork();
        } else if (way == 1) {
            now("clone");
            // No handler of pthread_atfork runs.
            child = static_cast<pid_t>(::syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
        } else {
            now("posix_spawn");
            char program[] = "true";
            char* const arguments[] = {program, nullptr};
            char* const environment[] = {nullptr};
            if (int const e =
                    ::posix_spawnp(&child, program, nullptr, nullptr, arguments, environment);
                e != 0) {
                child = -1;
                errno = e;
            }
        }
        if (child == 0) {
            linux_test::die_in(40); // a busy machine may need ten
            ::_exit(look(way == 0 || world_.rules.raw_clone_sees_all, way == 0));
        }
        if (child < 0) {
            complain("no child: %s", std::strerror(errno));
            return;
        }
        now("waits for a child");
        int state = -1;
        while (::waitpid(child, &state, 0) < 0 && errno == EINTR) {
        }
        if (state != 0) {
            complain("a child of %s ended with %s %d",
                     way == 0   ? "fork"
                     : way == 1 ? "clone"
                                : "posix_spawn",
                     WIFSIGNALED(state) ? "signal" : "fault",
                     WIFSIGNALED(state) ? WTERMSIG(state) : WEXITSTATUS(state));
        }
        ++forks_;
        ::usleep(3000); // each makes every page shared with a child for a while
    }

    /// In a child: 0, or the number of what is wrong. \param all  Looks at pages that may have been
    /// in a window, too. \param no_window  None was open: system calls can write everywhere.
    [[nodiscard]] int look(bool all, bool no_window) {
        if (std::memcmp(world_.calm.first, world_.snapshot.data(), world_.calm.bytes()) != 0) {
            return 1;
        }
        if (all) {
            if (std::memcmp(world_.restless.first, world_.snapshot.data(),
                            world_.restless.bytes()) != 0) {
                return 2;
            }
            for (std::size_t i = 0; i < low_.size(); ++i) {
                std::uint64_t const counter = load(world_.wave_counter(i));
                // A fork copies one page after the other while the wave goes on.
                if (counter < low_[i] || counter > world_.wave_round + 1000) {
                    return 3;
                }
            }
        }
        for (std::size_t b = 0; b < world_.active.blocks; ++b) {
            std::byte* const block = world_.active.block(b);
            if (no_window && !kernel_writes(block)) {
                return 4;
            }
            for (std::size_t i = 0; i < block_pages; ++i) {
                std::byte* const word = base(world_.active, b, i);
                if (all && load(word) != base_word(i, base_only)) {
                    return 5;
                }
                store(word, 42);
                if (load(word) != 42) {
                    return 6;
                }
            }
        }
        // Memory that was filled before the fork, and had not begun to be retired in our copy.
        if (all && nursery_ % 2 != 0 && world_.nursery_changes == nursery_) {
            for (std::size_t b = 0; b < world_.nursery.blocks; ++b) {
                for (std::size_t i = 0; i < block_pages; ++i) {
                    if (load(base(world_.nursery, b, i)) != base_word(i, base_only)) {
                        return 7;
                    }
                }
            }
        }
        return 0;
    }
    /// A word in which no actor writes.
    [[nodiscard]] std::byte* base(area const& a, std::size_t block, std::size_t place) const {
        return a.block(block) + place * world_.page + base_only * sizeof(std::uint64_t);
    }
    /// A word into each page, by one call.
    [[nodiscard]] bool kernel_writes(std::byte* block) const {
        iovec words[block_pages];
        for (std::size_t i = 0; i < block_pages; ++i) {
            words[i] = {block + i * world_.page, sizeof(std::uint64_t)};
        }
        return ::preadv(file_.fd(), words, block_pages, 0) ==
               static_cast<ssize_t>(block_pages * sizeof(std::uint64_t));
    }

    world& world_;
    std::vector<std::uint64_t> low_; ///< What the counters of the wave had reached already.
    std::uint64_t nursery_ = 0;      ///< Its changes before the fork.
    records file_;                   ///< What a child's system calls read.
    std::uint64_t forks_ = 0;
};

} // namespace torture

#endif
