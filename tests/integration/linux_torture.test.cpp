// SPDX-License-Identifier: BSL-1.0
// Soak tests: everybody who may write to memory that is merged does so at once, against a scanner
// that runs flat out. KSM_SOAK_SECONDS says for how long (default 5 each); KSM_SOAK_REPORT names a
// file to which the totals are appended.
#include <atomic>
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "linux_support.hpp"
#include "torture/abuser.hpp"
#include "torture/forker.hpp"
#include "torture/merger.hpp"
#include "torture/pinned_writer.hpp"
#include "torture/pread_writer.hpp"
#include "torture/reader.hpp"
#include "torture/recv_writer.hpp"
#include "torture/report.hpp"
#include "torture/thread_creator.hpp"
#include "torture/user_writer.hpp"
#include "torture/watchdog.hpp"

using namespace linux_test;

namespace {

// clang-format off
constexpr torture::strategy strategies[] = {
    // name          exclusion                   no_syscall_io no_pinned_io hooks  raw clone sees all
    {"move",         write_exclusion::move,      false,        false,       false, false},
    {"move without pins", write_exclusion::move, false,        true,        false, false},
    {"wp",           write_exclusion::wp,        false,        true,        false, true},
    {"mprotect",     write_exclusion::mprotect,  true,         true,        false, true},
    {"quiescent",    write_exclusion::quiescent, true,         true,        true,  true},
};
// clang-format on

std::string describe(torture::strategy const& s, torture::totals const& t, linux_windows const& l) {
    char text[400];
    std::snprintf(text, sizeof text,
                  "%s: %" PRIu64 " checked stores, %" PRIu64 " system-call writes, %" PRIu64
                  " datagrams, %" PRIu64 " writes through pins, %" PRIu64 " reads, %" PRIu64
                  " forks, %" PRIu64 " threads, %" PRIu64 " abuses, %" PRIu64 " merges, %" PRIu64
                  " un-merges, %" PRIu64 " windows:",
                  s.name, t.checked_stores, t.syscall_writes, t.datagrams, t.pinned_writes, t.reads,
                  t.forks, t.threads, t.abuses, t.merges, t.unmerges, t.windows);
    std::string line = text;
    for (std::size_t i = 0; i < status_count; ++i) {
        if (t.by_status[i] != 0) {
            line += ' ' + std::to_string(t.by_status[i]) + ' ' + name(static_cast<status>(i));
        }
    }
    line += "; p99 " + std::to_string(l.p99_ns / 1000) + " us, longest " +
            std::to_string(l.longest_ns / 1000) + " us, " + std::to_string(l.waits) + " waits";
    return line;
}

/// Whoever may act while the strategy's promises hold.
std::vector<std::unique_ptr<torture::actor>> cast(torture::world& w) {
    std::vector<std::unique_ptr<torture::actor>> actors;
    actors.push_back(std::make_unique<torture::merger>(w));
    actors.push_back(std::make_unique<torture::wave_writer>(w));
    actors.push_back(
        std::make_unique<torture::user_writer>(w, torture::user_writer::kind::stray_words));
    actors.push_back(std::make_unique<torture::reader>(w));
    actors.push_back(std::make_unique<torture::forker>(w));
    actors.push_back(std::make_unique<torture::thread_creator>(w));
    actors.push_back(std::make_unique<torture::abuser>(w));
    if (!w.rules.promises_no_syscall_io) {
        actors.push_back(std::make_unique<torture::pread_writer>(w));
        actors.push_back(std::make_unique<torture::recv_writer>(w));
    }
    if (!w.rules.promises_no_pinned_io) {
        actors.push_back(std::make_unique<torture::pinned_writer>(w));
    }
    return actors;
}

/// The quiet areas are merged before anybody acts.
void settle(torture::world& w) {
    REQUIRE(w.engine.tune("use_zero_pages", 1) == tunable_error::none);
    REQUIRE(w.engine.enter(w.provider.space()) == status::ok);
    for (int pass = 0; pass < 4; ++pass) {
        REQUIRE(w.engine.scan_pass().why == status::ok);
    }
    for (torture::area const& a : {w.restless, w.calm}) {
        page_range const all = w.pages(a);
        std::size_t merged = 0;
        for (page_number p = all.first; p < all.end(); p += pages(1)) {
            page_state const s = look(w.provider, p).state;
            merged += s == page_state::merged || s == page_state::zero ? 1U : 0U;
        }
        REQUIRE(merged == all.count.value());
    }
}

void soak(torture::strategy const& rules) {
    torture::world w{rules};
    if (linux_capabilities const c = w.provider.capabilities(); c.strategy != rules.exclusion) {
        KSM_SKIP(c.reason);
    }
    settle(w);
    auto actors = cast(w);
    for (auto a = actors.begin(); a != actors.end();) {
        if (std::string const refusal = (*a)->refusal(); !refusal.empty()) {
            std::printf("SKIPPED: %s: its actor %s: %s\n",
                        Catch::getResultCapture().getCurrentTestName().c_str(), (*a)->name(),
                        refusal.c_str());
            a = actors.erase(a);
        } else {
            ++a;
        }
    }
    unsigned const seconds = torture::soak_seconds();
    {
        torture::watchdog const dog{rules.name, actors};
        std::atomic<bool> stop{false};
        for (auto& a : actors) {
            a->start(stop);
        }
        std::this_thread::sleep_for(std::chrono::seconds{seconds});
        stop = true;
        for (auto& a : actors) {
            a->join();
        }
    }

    torture::totals t;
    for (auto& a : actors) {
        a->finish();
        a->add_to(t);
        INFO(a->name() << ": " << a->first_fault());
        CHECK(a->faults() == 0);
    }
    std::string const line = describe(rules, t, w.provider.windows());
    torture::report(line);
    INFO(line);
    CHECK(std::memcmp(w.calm.first, w.snapshot.data(), w.snapshot.size()) == 0);
    CHECK(std::memcmp(w.restless.first, w.snapshot.data(), w.snapshot.size()) == 0);
    CHECK(w.base_is_intact());
    // A soak in which little happens proves little.
    CHECK(t.checked_stores > 10'000 * seconds);
    CHECK(t.merges > 50 * seconds);
    CHECK(t.unmerges > seconds);
    CHECK(t.forks > seconds);
    CHECK(t.threads > seconds);
    CHECK(t.abuses > 0);
    CHECK((rules.promises_no_syscall_io || t.syscall_writes > 100 * seconds));

    std::vector<std::byte> const before(w.region.at(0), w.region.at(0) + w.region.size() * w.page);
    CHECK(w.engine.unmerge_all() == status::ok);
    CHECK(std::memcmp(w.region.at(0), before.data(), before.size()) == 0);
    CHECK(w.provider.usage().frames_live == 0);
}

} // namespace

TEST_CASE("nothing is lost under torture: move", "[linux][soak]") { soak(strategies[0]); }
TEST_CASE("nothing is lost under torture: move without pins", "[linux][soak]") {
    soak(strategies[1]);
}
TEST_CASE("nothing is lost under torture: wp", "[linux][soak]") { soak(strategies[2]); }
TEST_CASE("nothing is lost under torture: mprotect", "[linux][soak]") { soak(strategies[3]); }
TEST_CASE("nothing is lost under torture: quiescent", "[linux][soak]") { soak(strategies[4]); }
