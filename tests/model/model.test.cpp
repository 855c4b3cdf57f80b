// SPDX-License-Identifier: BSL-1.0
// Random programs against the oracle. KSM_MODEL_OPS and KSM_MODEL_SEED choose others.
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <string>

#if __has_include(<sys/wait.h>)
#include <sys/wait.h>
#include <unistd.h>
#endif

#include "engines.hpp"
#include "model.hpp"
#include "support/catch.hpp"

namespace {

[[nodiscard]] std::uint64_t number_from(char const* variable, std::uint64_t otherwise) {
    char const* const text = std::getenv(variable);
    return text == nullptr ? otherwise : std::strtoull(text, nullptr, 0);
}

struct attempt {
    model::setup setup;
    model::program program;
    std::uint64_t seed;
};
attempt const* current = nullptr; // what to print when the process is about to die

/// Runs in a process of its own where there are any: a failure may be a crash or an endless loop.
[[nodiscard]] bool fails(model::setup const& s, model::program const& p) {
#if __has_include(<sys/wait.h>)
    pid_t const child = ::fork();
    if (child == 0) {
        for (int const signal : {SIGABRT, SIGSEGV, SIGALRM, SIGFPE, SIGILL}) {
            std::signal(signal, [](int) { ::_exit(2); });
        }
        ::close(STDERR_FILENO);
        ::alarm(5);
        ::_exit(model::run(s, p) ? 1 : 0);
    }
    int result = 0;
    ::waitpid(child, &result, 0);
    return result != 0;
#else
    return model::run(s, p).has_value();
#endif
}

[[nodiscard]] std::string report(attempt const& a, std::string const& what) {
    // Candidates that loop for ever take seconds each: a program that is half reduced will do.
    auto const deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    auto const least = model::minimise(a.program, [&](model::program const& p) {
        return std::chrono::steady_clock::now() < deadline && fails(a.setup, p);
    });
    return what + "\nKSM_MODEL_SEED=" + std::to_string(a.seed) + "\n" +
           model::print_test_case(a.setup, least, what);
}

void print_and_die(int signal) {
    std::signal(signal, SIG_DFL);
    if (current != nullptr) {
        std::cerr << report(*current, "the process died of signal " + std::to_string(signal))
                  << std::flush;
    }
    std::raise(signal);
}

} // namespace

TEST_CASE("random programs keep every invariant") {
    std::uint64_t const wanted = number_from("KSM_MODEL_OPS", 1'000'000);
    std::uint64_t const first_seed = number_from("KSM_MODEL_SEED", 1);
    auto* const old_abort = std::signal(SIGABRT, print_and_die);
    auto* const old_segv = std::signal(SIGSEGV, print_and_die);
    std::uint64_t performed = 0;
    std::uint64_t seed = first_seed;
    std::string failure;
    for (; performed < wanted && failure.empty(); ++seed) {
        model::random_source numbers{seed};
        attempt a{model::draw_setup(numbers), {}, seed};
        a.program = model::draw(numbers, a.setup, 16 + numbers.below(112));
        current = &a;
        performed += a.program.size();
        if (auto const f = model::run(a.setup, a.program)) {
            failure = report(a, f->what);
        }
        current = nullptr;
    }
    std::signal(SIGABRT, old_abort);
    std::signal(SIGSEGV, old_segv);
    std::cout << "model: " << performed << " operations, seeds " << first_seed << " to " << seed - 1
              << '\n';
    std::cout << failure << std::flush; // whole, where a report would wrap its lines
    CHECK(failure.empty());
    CHECK(performed >= (failure.empty() ? wanted : 0));
}
