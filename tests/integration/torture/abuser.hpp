// SPDX-License-Identifier: BSL-1.0
#ifndef KSM_TESTS_INTEGRATION_TORTURE_ABUSER_HPP
#define KSM_TESTS_INTEGRATION_TORTURE_ABUSER_HPP

#include <cerrno>
#include <cstring>

#include <sched.h>
#include <sys/mman.h>

#include "actor.hpp"
#include "world.hpp"

namespace torture {

/// Breaks the contract in a region of its own while the provider works on it. Its own pages may
/// look wrong afterwards; nobody else may notice.
///
/// What takes the memory itself away (munmap, PROT_NONE) it announces by releasing the pages:
/// between the provider's look at a mapping and its replacement some microseconds remain in which
/// the memory of somebody else may have come there.
class abuser final : public actor {
  public:
    explicit abuser(world& w) : actor("abuser"), world_(w) {}

    void add_to(totals& t) const override { t.abuses += abuses_; }

  private:
    // Half of the region is left alone. It must stay what it is.
    static constexpr std::size_t pages = 32;
    static constexpr std::size_t abused = pages / 2;

    void step() override {
        std::size_t const bytes = pages * world_.page;
        now("adopts");
        // Reserved with guards, so that no other memory of the process joins it.
        std::size_t const guarded = bytes + 2 * world_.page;
        void* const guards =
            ::mmap(nullptr, guarded, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (guards == MAP_FAILED) {
            complain("mmap: %s", std::strerror(errno));
            return;
        }
        std::byte* const at = static_cast<std::byte*>(guards) + world_.page;
        if (::mprotect(at, bytes, PROT_READ | PROT_WRITE) != 0) {
            complain("mprotect: %s", std::strerror(errno));
        }
        std::memset(at, 'x', bytes);
        {
            world::turn const mine{world_};
            ksm::page_range range;
            if (ksm::region_error const e = world_.provider.try_adopt(at, bytes, range)) {
                complain("adopt: %s", message(e.what));
                return;
            }
        }
        wait_for_the_engine();
        std::byte* const victim = at + abused * world_.page;
        switch (steps() % 4) {
        case 0: // shows frames, or zeros
            now("gives pages back");
            check(::madvise(victim, abused * world_.page, MADV_DONTNEED), "madvise");
            wait_for_the_engine();
            break;
        case 1:
            now("makes pages read-only");
            check(::mprotect(victim, abused * world_.page, PROT_READ), "mprotect");
            wait_for_the_engine();
            check(::mprotect(victim, abused * world_.page, PROT_READ | PROT_WRITE), "mprotect");
            break;
        case 2:
            release(victim, abused);
            now("makes pages inaccessible");
            check(::mprotect(victim, abused * world_.page, PROT_NONE), "mprotect");
            wait_for_the_engine();
            break;
        default:
            release(victim, abused);
            now("unmaps pages");
            check(::munmap(victim, abused * world_.page), "munmap");
            wait_for_the_engine();
            break;
        }
        ++abuses_;
        release(at, abused);
        if (steps() % 4 < 2) {
            release_abused(victim);
        }
        for (std::size_t i = 0; i < abused * world_.page; ++i) {
            if (at[i] != std::byte{'x'}) {
                complain("a page next to abused ones has changed");
                break;
            }
        }
        check(::munmap(guards, world_.page + (steps() % 4 == 3 ? abused : pages) * world_.page),
              "munmap");
        check(::munmap(at + bytes, world_.page), "munmap");
    }
    void release(std::byte* first, std::size_t n) {
        now("releases");
        world::turn const mine{world_};
        ksm::page_range const range{world_.provider.page_of(first), ksm::page_count{n}};
        if (ksm::region_error const e = world_.provider.try_release(range)) {
            complain("release: %s: %s", message(e.what), e.os.call);
        }
    }
    /// What the provider has found out about is no region any more.
    void release_abused(std::byte* first) {
        now("releases what it has abused");
        world::turn const mine{world_};
        for (std::size_t i = 0; i < abused; ++i) {
            ksm::page_range const range{world_.provider.page_of(first + i * world_.page),
                                        ksm::page_count{1}};
            if (ksm::region_error const e = world_.provider.try_release(range);
                e && e.what != ksm::region_fault::not_a_region) {
                complain("release of an abused page: %s: %s", message(e.what), e.os.call);
            }
        }
    }
    /// Until it has gone over everything about twice.
    void wait_for_the_engine() {
        std::uint64_t const until = world_.engine_calls + 16;
        while (world_.engine_calls < until && !stopping()) {
            ::sched_yield();
        }
    }
    void check(int result, char const* call) {
        if (result != 0) {
            complain("%s: %s", call, std::strerror(errno));
        }
    }

    world& world_;
    std::uint64_t abuses_ = 0;
};

} // namespace torture

#endif
