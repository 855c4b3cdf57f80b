// SPDX-License-Identifier: BSL-1.0
// The files that a program finds on any system where it runs, and reading them.
#ifndef KSM_EXAMPLES_FILES_HPP
#define KSM_EXAMPLES_FILES_HPP

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <link.h>

namespace examples {

/// This program, the headers below `headers`, and the C++ library that is in use.
[[nodiscard]] inline std::vector<std::filesystem::path>
files_at_hand(std::filesystem::path const& headers) {
    std::vector files{std::filesystem::read_symlink("/proc/self/exe")};
    std::error_code absent;
    for (auto const& entry : std::filesystem::recursive_directory_iterator(headers, absent)) {
        if (entry.is_regular_file()) {
            files.push_back(entry.path());
        }
    }
    std::sort(files.begin() + 1, files.end());
    ::dl_iterate_phdr(
        [](dl_phdr_info* object, std::size_t, void* found) {
            if (std::string_view{object->dlpi_name}.find("c++") != std::string_view::npos) {
                static_cast<decltype(files)*>(found)->emplace_back(object->dlpi_name);
            }
            return 0;
        },
        &files);
    return files;
}

/// A file that can be read again and again, as long as nobody changes it.
class source_file {
  public:
    /// \throws std::runtime_error that names the file.
    explicit source_file(std::filesystem::path path) : path_(std::move(path)) {
        std::error_code error;
        auto const type = std::filesystem::status(path_, error).type();
        if (!error && type != std::filesystem::file_type::regular) {
            fail("is not a regular file");
        }
        if (!error) {
            size_ = static_cast<std::size_t>(std::filesystem::file_size(path_, error));
        }
        if (!error) {
            written_ = std::filesystem::last_write_time(path_, error);
        }
        if (error) {
            fail("cannot be read: " + error.message());
        }
        (void)open();
    }

    [[nodiscard]] std::filesystem::path const& path() const { return path_; }
    [[nodiscard]] std::size_t size() const { return size_; }

    /// \throws std::runtime_error unless the whole file could be read.
    void read_into(std::span<std::byte> buffer) const {
        auto stream = open();
        fill(stream, buffer.first(size_));
    }

    /// Calls `act(offset, bytes)` for each piece of the file, at most `piece.size()` bytes long.
    template <class Act>
    void for_each_piece(std::span<std::byte> piece, Act act) const {
        auto stream = open();
        for (std::size_t at = 0; at < size_; at += piece.size()) {
            auto const part = piece.first(std::min(piece.size(), size_ - at));
            fill(stream, part);
            act(at, part);
        }
    }

  private:
    [[noreturn]] void fail(std::string const& how) const {
        throw std::runtime_error(fmt::format("\"{}\" {}", path_.string(), how));
    }
    [[nodiscard]] std::ifstream open() const {
        std::ifstream stream{path_, std::ios::binary};
        if (!stream) {
            fail("cannot be read: " + std::generic_category().message(errno));
        }
        std::error_code ignored;
        if (std::filesystem::last_write_time(path_, ignored) != written_) {
            fail("was changed in the meantime");
        }
        return stream;
    }
    void fill(std::ifstream& stream, std::span<std::byte> part) const {
        if (!stream.read(reinterpret_cast<char*>(part.data()),
                         static_cast<std::streamsize>(part.size()))) {
            fail("was changed in the meantime");
        }
    }

    std::filesystem::path path_;
    std::size_t size_ = 0;
    std::filesystem::file_time_type written_;
};

} // namespace examples

#endif
