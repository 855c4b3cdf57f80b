// SPDX-License-Identifier: BSL-1.0
// A heap full of copies of files, which knows what every byte of it must be.
#ifndef KSM_EXAMPLES_FILE_HEAP_HPP
#define KSM_EXAMPLES_FILE_HEAP_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory_resource>
#include <numeric>
#include <random>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <unistd.h>

#include "arena.hpp"
#include "files.hpp"

namespace examples {

/// Each buffer holds one file and begins on a page of its own, as large blocks of allocators do.
/// All are cut from one arena, every copy of the files in another order.
class file_heap {
  public:
    /// Copies each file `copies` times, or more often if that makes less than `bytes`.
    /// \requires Not all files are empty.
    file_heap(std::vector<source_file> files, std::size_t copies, std::size_t bytes)
        : files_(std::move(files)), copies_(std::max(copies, (bytes - 1) / bytes_of_a_copy() + 1)),
          arena_(copies_ * bytes_of_a_copy()) {
        std::pmr::monotonic_buffer_resource heap{arena_.bytes().data(), arena_.bytes().size(),
                                                 std::pmr::null_memory_resource()};
        std::vector<source_file const*> order;
        for (auto const& file : files_) {
            if (file.size() != 0) {
                order.push_back(&file);
            }
        }
        for (std::size_t copy = 0; copy < copies_; ++copy) {
            std::ranges::shuffle(order, random_);
            for (auto const* const file : order) {
                auto const size = whole_pages(file->size());
                buffers_.push_back(
                    {file, {static_cast<std::byte*>(heap.allocate(size, page_size_)), size}});
                file->read_into(buffers_.back().bytes);
            }
        }
    }

    [[nodiscard]] std::span<std::byte> bytes() const { return arena_.bytes(); }
    [[nodiscard]] std::size_t page_size() const { return page_size_; }
    [[nodiscard]] std::size_t pages() const { return bytes().size() / page_size_; }
    [[nodiscard]] std::size_t copies() const { return copies_; }
    [[nodiscard]] std::size_t files() const { return files_.size(); }
    [[nodiscard]] std::size_t buffers() const { return buffers_.size(); }

    /// Changes a byte in each of `n` pages that lie anywhere.
    /// \requires `n <= pages()`.
    void write_to_pages(std::size_t n) {
        for (std::size_t i = 0; i < n; ++i) {
            // One page in each n-th of the heap.
            auto const begin = i * pages() / n;
            auto const end = (i + 1) * pages() / n;
            auto& byte = bytes()[begin * page_size_ + random_() % ((end - begin) * page_size_)];
            if (written_.insert(&byte).second) {
                byte = ~byte;
            }
        }
    }

    /// Undoes what `write_to_pages` did.
    void restore() {
        for (std::byte* const byte : written_) {
            *byte = ~*byte;
        }
        written_.clear();
    }

    /// Compares every byte with the files, which are read anew, and with what was written since.
    /// \returns What differs, or an empty string.
    [[nodiscard]] std::string verify() const {
        std::vector<std::byte> piece(std::size_t{64} << 10U);
        std::string fault;
        for (auto const& [file, bytes] : buffers_) {
            auto const compare = [&](std::size_t at, std::span<std::byte> expected) {
                auto const actual = bytes.subspan(at, expected.size());
                auto const end = written_.lower_bound(actual.data() + actual.size());
                for (auto i = written_.lower_bound(actual.data()); i != end; ++i) {
                    auto& byte = expected[static_cast<std::size_t>(*i - actual.data())];
                    byte = ~byte;
                }
                if (fault.empty() &&
                    std::memcmp(actual.data(), expected.data(), expected.size()) != 0) {
                    auto const first = std::ranges::mismatch(actual, expected).in1;
                    fault = fmt::format("a buffer of {} differs at byte {}", file->path().string(),
                                        &*first - bytes.data());
                }
            };
            file->for_each_piece(piece, compare);
            // The rest of the last page was never written, except by us.
            auto const at = file->size();
            std::vector<std::byte> zeros(bytes.size() - at);
            compare(at, zeros);
        }
        return fault;
    }

  private:
    struct buffer {
        source_file const* file;
        std::span<std::byte> bytes;
    };

    [[nodiscard]] std::size_t whole_pages(std::size_t bytes) const {
        return (bytes + page_size_ - 1) / page_size_ * page_size_;
    }
    [[nodiscard]] std::size_t bytes_of_a_copy() const {
        return std::accumulate(files_.begin(), files_.end(), std::size_t{0},
                               [this](std::size_t sum, source_file const& file) {
                                   return sum + whole_pages(file.size());
                               });
    }

    std::size_t page_size_ = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    std::vector<source_file> files_;
    std::size_t copies_;
    arena arena_;
    std::vector<buffer> buffers_;
    std::set<std::byte*> written_; // each is inverted
    std::mt19937_64 random_;
};

} // namespace examples

#endif
