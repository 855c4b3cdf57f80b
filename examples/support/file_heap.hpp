// SPDX-License-Identifier: BSL-1.0
// A heap full of copies of files, which knows what every byte of it must be.
#ifndef KSM_EXAMPLES_FILE_HEAP_HPP
#define KSM_EXAMPLES_FILE_HEAP_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <iterator>
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
        : files_(std::make_move_iterator(files.begin()), std::make_move_iterator(files.end())),
          copies_(std::max(copies, (bytes - 1) / std::max(bytes_of_a_copy(), page_size()) + 1)),
          arena_(copies_ * bytes_of_a_copy()) {
        std::pmr::monotonic_buffer_resource heap{arena_.bytes().data(), arena_.bytes().size(),
                                                 std::pmr::null_memory_resource()};
        std::vector<file_with_copies*> order;
        order.reserve(files_.size());
        for (auto& f : files_) {
            order.push_back(&f);
        }
        for (std::size_t copy = 0; copy < copies_; ++copy) {
            std::ranges::shuffle(order, random_);
            for (auto* const f : order) {
                auto const size = whole_pages(f->file.size());
                if (size != 0) {
                    auto* const place = heap.allocate(size, page_size_);
                    f->copies.emplace_back(static_cast<std::byte*>(place), size);
                    f->file.read_into(f->copies.back());
                }
            }
        }
    }

    [[nodiscard]] std::span<std::byte> bytes() const { return arena_.bytes(); }
    [[nodiscard]] std::size_t page_size() const { return page_size_; }
    [[nodiscard]] std::size_t pages() const { return bytes().size() / page_size_; }
    [[nodiscard]] std::size_t copies() const { return copies_; }
    [[nodiscard]] std::size_t files() const { return files_.size(); }
    [[nodiscard]] std::size_t buffers() const {
        return sum_of_files([](auto const& f) { return f.copies.size(); });
    }

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
        std::string fault;
        std::vector<std::byte> piece(std::size_t{64} << 10U);
        for (auto const& f : files_) {
            auto const compare = [&](std::size_t at, std::span<std::byte> expected) {
                for (auto const& copy : f.copies) {
                    auto const actual = copy.subspan(at, expected.size());
                    invert_written(actual, expected);
                    if (std::memcmp(actual.data(), expected.data(), actual.size()) != 0) {
                        auto const first = std::ranges::mismatch(actual, expected).in1;
                        fault = fmt::format("a buffer of \"{}\" differs at byte {}",
                                            f.file.path().string(), &*first - copy.data());
                    }
                    invert_written(actual, expected);
                }
            };
            f.file.for_each_piece(piece, compare);
            // Nobody but us ever wrote to the rest of the last page.
            std::vector<std::byte> zeros(whole_pages(f.file.size()) - f.file.size());
            if (!zeros.empty()) {
                compare(f.file.size(), zeros);
            }
        }
        return fault;
    }

  private:
    struct file_with_copies {
        explicit file_with_copies(source_file f) : file(std::move(f)) {}
        source_file file;
        std::vector<std::span<std::byte>> copies;
    };

    /// Does to the expected bytes what `write_to_pages` did to those that are to equal them.
    void invert_written(std::span<std::byte> actual, std::span<std::byte> expected) const {
        auto const end = written_.lower_bound(actual.data() + actual.size());
        for (auto i = written_.lower_bound(actual.data()); i != end; ++i) {
            auto& byte = expected[static_cast<std::size_t>(*i - actual.data())];
            byte = ~byte;
        }
    }

    template <class Value>
    [[nodiscard]] std::size_t sum_of_files(Value value) const {
        return std::transform_reduce(files_.begin(), files_.end(), std::size_t{0}, std::plus{},
                                     value);
    }
    [[nodiscard]] std::size_t whole_pages(std::size_t bytes) const {
        return (bytes + page_size_ - 1) / page_size_ * page_size_;
    }
    [[nodiscard]] std::size_t bytes_of_a_copy() const {
        return sum_of_files([this](auto const& f) { return whole_pages(f.file.size()); });
    }

    std::size_t page_size_ = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    std::vector<file_with_copies> files_;
    std::size_t copies_;
    arena arena_;
    std::set<std::byte*> written_; // each is inverted
    std::mt19937_64 random_;
};

} // namespace examples

#endif
