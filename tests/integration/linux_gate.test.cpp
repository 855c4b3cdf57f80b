// SPDX-License-Identifier: BSL-1.0
// Forks that are under way while pages are merged, and wait for what the merging thread holds.
#include <array>
#include <atomic>
#include <cstddef>
#include <thread>

#include <pthread.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <ksm/scanner.hpp>

#include "linux_children.hpp"
#include "linux_watching.hpp"

using namespace linux_test;

namespace {

/// Handlers of pthread_atfork run in the reverse order of their registration. This one is there
/// before any provider, so that it runs when the provider's has closed the gate.
std::atomic<void (*)()> before_fork{nullptr};
[[maybe_unused]] int const registered = ::pthread_atfork(
    [] {
        if (void (*const act)() = before_fork.load(); act != nullptr) {
            act();
        }
    },
    nullptr, nullptr);

std::atomic<bool> closed{false};
std::atomic<bool> heap_is_held{false};

void wait_for_the_heap() {
    closed = true;
    heap_is_held.wait(true);
}

/// A fork that is under way, and waits in a handler of the application, while this lives.
class pending_fork {
  public:
    pending_fork() {
        closed = false;
        heap_is_held = true;
        before_fork = &wait_for_the_heap;
        thread_ = std::thread{[] {
            pid_t const child = ::fork();
            if (child == 0) {
                ::_exit(0);
            }
            ::waitpid(child, nullptr, 0);
        }};
        while (!closed) {
            std::this_thread::yield();
        }
    }
    ~pending_fork() {
        go_on();
        thread_.join();
        before_fork = nullptr;
    }
    static void go_on() {
        heap_is_held = false;
        heap_is_held.notify_all();
    }
    pending_fork(pending_fork const&) = delete;
    pending_fork& operator=(pending_fork const&) = delete;

  private:
    std::thread thread_;
};

linux_options deserted() {
    linux_options o = quiescent();
    o.no_readers = true;
    return o;
}

} // namespace

TEST_CASE("a fork that waits for the merging thread is not waited for", "[linux]") {
    linux_options const options = GENERATE(by_move(), by_mprotect());
    KSM_NEEDS_USERFAULTFD(options);
    CHECK(in_child([&] {
              linux_provider p{options};
              memory m{p, 20};
              for (std::size_t i = 0; i < 20; ++i) {
                  m.fill(i, 1);
              }
              promotion const made = p.promote(p.space(), m.page(0), pages(1));
              {
                  pending_fork const waiting;
                  for (std::size_t i = 1; i < 20; ++i) {
                      progress const one = p.merge(p.space(), m.page(i), pages(1), made.first);
                      if (one.why != status::busy || !is_private(p, m.page(i))) {
                          return 1;
                      }
                  }
              }
              return p.merge(p.space(), m.page(1), pages(1), made.first).done == pages(1) ? 0 : 2;
          }) == 0);
}

TEST_CASE("while a fork waits for the merging thread pages merge one by one, not in batches",
          "[linux]") {
    if (!detail::os::can_discard_at_once(detail::os::page_bytes())) {
        KSM_SKIP("process_madvise does not serve the calling process before Linux 6.14");
    }
    CHECK(in_child([&] {
              linux_provider p{deserted()};
              memory m{p, 8};
              for (std::size_t i = 0; i < 8; ++i) {
                  m.fill(i, i % 2);
              }
              promotion const made = p.promote(p.space(), m.page(0), pages(1));
              std::array<merge_request, 3> runs{{{m.page(2), pages(1), made.first, {}},
                                                 {m.page(4), pages(1), made.first, {}},
                                                 {m.page(6), pages(1), made.first, {}}}};
              {
                  pending_fork const waiting;
                  watching const now{detail::os::call::process_madvise};
                  p.merge_batch(p.space(), runs);
              }
              for (merge_request const& r : runs) {
                  if (r.result.done != pages(1)) {
                      return 1;
                  }
              }
              bool const forks_go_on = in_child([] { return 0; }) == 0;
              return watched.seen == 0 && m.holds(6, 0) && forks_go_on ? 0 : 2;
          }) == 0);
}

TEST_CASE("nothing is released into mappings of frames because of a fork", "[linux]") {
    CHECK(in_child([] {
              linux_provider p{by_mprotect()};
              memory m{p, 2};
              m.fill(0, 1);
              m.fill(1, 1);
              promotion const made = p.promote(p.space(), m.page(0), pages(1));
              static_cast<void>(p.merge(p.space(), m.page(1), pages(1), made.first));
              {
                  pending_fork const waiting;
                  region_error const e = p.try_release(m.range);
                  if (e.what != region_fault::refused || e.os.error != EAGAIN ||
                      look(p, m.page(1)).state != page_state::merged) {
                      return 1;
                  }
              }
              return p.try_release(m.range) ? 2 : 0;
          }) == 0);
}

TEST_CASE("a provider that is made beside a fork can move pages", "[linux]") {
    KSM_NEEDS_USERFAULTFD(by_move());
    CHECK(in_child([] {
              linux_provider p{by_move()};
              memory m{p, 1};
              m.fill(0, 1);
              pending_fork const waiting;
              // From now on no window waits for this fork.
              if (p.promote(p.space(), m.page(0), pages(1)).made.why != status::busy) {
                  return 1;
              }
              static std::atomic<bool> opens{false};
              opens = false;
              std::thread heap{[] {
                  opens.wait(false);
                  pending_fork::go_on();
              }};
              detail::os::fault_hook.store([](detail::os::call) noexcept {
                  opens = true;
                  opens.notify_all();
                  return 0;
              });
              linux_provider const other{by_move()};
              detail::os::fault_hook.store(nullptr);
              heap.join();
              return other.capabilities().strategy == write_exclusion::move ? 0 : 2;
          }) == 0);
}

TEST_CASE("a raw clone beside a fork can merge by itself", "[linux]") {
    KSM_NEEDS_USERFAULTFD(by_move());
    if (!threads_may_clone) {
        KSM_SKIP("ThreadSanitizer's own locks may be held at a raw clone");
    }
    linux_provider const p{by_move()};
    pending_fork const waiting;
    pid_t const child = give_birth(birth::raw_clone);
    if (child == 0) {
        die_in(20);
        linux_provider own{by_move()};
        memory m{own, 2};
        m.fill(0, 1);
        m.fill(1, 1);
        promotion const made = own.promote(own.space(), m.page(0), pages(1));
        bool const merged =
            made.made.done == pages(1) &&
            own.merge(own.space(), m.page(1), pages(1), made.first).done == pages(1);
        ::_exit(merged ? 0 : 1);
    }
    int state = 0;
    ::waitpid(child, &state, 0);
    CHECK(state == 0);
}
