// SPDX-License-Identifier: BSL-1.0
// `main` of every test program, written out because version 3 of Catch2 has it in a library and
// version 2 in a macro.
#if !__has_include(<catch2/catch_all.hpp>)
#define CATCH_CONFIG_RUNNER
#endif
#include "catch.hpp"

int main(int argc, char* argv[]) { return Catch::Session().run(argc, argv); }
