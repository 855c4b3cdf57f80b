// SPDX-License-Identifier: BSL-1.0
// The programs of tests/model, made out of a fuzzer's bytes. With libFuzzer:
//   clang++ -std=c++20 -fsanitize=fuzzer,address -Iinclude -Itests tests/fuzz/model_fuzz.cpp
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <iostream>

#include "model/engines.hpp"
#include "model/model.hpp"

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
    model::byte_source numbers{{data, size}};
    model::setup const setup = model::draw_setup(numbers);
    model::program const program = model::draw(numbers, setup, 256);
    if (auto const failure = model::run(setup, program)) {
        auto const fails = [&](model::program const& p) {
            return model::run(setup, p).has_value();
        };
        std::cerr << model::print_test_case(setup, model::minimise(program, fails), failure->what);
        std::abort();
    }
    return 0;
}
