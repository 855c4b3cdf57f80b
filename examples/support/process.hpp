// SPDX-License-Identifier: BSL-1.0
// What the kernel says of this process: memory in use, time spent.
#ifndef KSM_EXAMPLES_PROCESS_HPP
#define KSM_EXAMPLES_PROCESS_HPP

#include <chrono>
#include <cstdint>
#include <ctime>
#include <fstream>
#include <limits>
#include <stdexcept>
#include <string>

namespace examples {

/// From /proc/self/smaps_rollup. A page that n mappings share counts 1/n in each, so that the sum
/// is what the process really occupies; pages that were swapped out are included. [KiB]
struct memory_use {
    std::uint64_t pss = 0;
    std::uint64_t pss_file = 0;  ///< Of it: program text and other files.
    std::uint64_t pss_shmem = 0; ///< Of it: shared memory, stable frames among it.
};

[[nodiscard]] inline memory_use read_memory_use() {
    memory_use use;
    std::ifstream rollup{"/proc/self/smaps_rollup"};
    rollup.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
    std::string name;
    std::uint64_t kib = 0;
    while (rollup >> name >> kib) {
        if (name == "Pss:" || name == "SwapPss:") {
            use.pss += kib;
        } else if (name == "Pss_File:") {
            use.pss_file = kib;
        } else if (name == "Pss_Shmem:") {
            use.pss_shmem = kib;
        }
        rollup.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
    }
    if (use.pss == 0) {
        throw std::runtime_error("cannot read PSS from /proc/self/smaps_rollup");
    }
    return use;
}

class stopwatch {
  public:
    [[nodiscard]] double wall_seconds() const {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - wall_).count();
    }
    /// Of the whole process.
    [[nodiscard]] double cpu_seconds() const {
        return static_cast<double>(std::clock() - cpu_) / CLOCKS_PER_SEC;
    }

  private:
    std::chrono::steady_clock::time_point wall_ = std::chrono::steady_clock::now();
    std::clock_t cpu_ = std::clock();
};

} // namespace examples

#endif
