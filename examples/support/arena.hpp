// SPDX-License-Identifier: BSL-1.0
// Memory straight from the operating system, as an allocator or a runtime gets its arenas.
#ifndef KSM_EXAMPLES_ARENA_HPP
#define KSM_EXAMPLES_ARENA_HPP

#include <cerrno>
#include <cstddef>
#include <span>
#include <system_error>

#include <sys/mman.h>

namespace examples {

/// Zeroed private memory. \throws std::system_error
class arena {
  public:
    explicit arena(std::size_t bytes)
        : bytes_(bytes), data_(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
        if (data_ == MAP_FAILED) {
            throw std::system_error(errno, std::generic_category(), "no memory for the buffers");
        }
    }
    ~arena() { ::munmap(data_, bytes_); }
    arena(arena const&) = delete;
    arena& operator=(arena const&) = delete;

    [[nodiscard]] std::span<std::byte> bytes() const {
        return {static_cast<std::byte*>(data_), bytes_};
    }

  private:
    std::size_t bytes_;
    void* data_;
};

} // namespace examples

#endif
