// SPDX-License-Identifier: BSL-1.0
// A memory image: what each page holds, the same for every merger. Pages can be given new contents
// later, in the same order for everybody.
#ifndef KSM_BENCH_SUPPORT_IMAGE_HPP
#define KSM_BENCH_SUPPORT_IMAGE_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "files.hpp"
#include "workload.hpp"

namespace bench {

class image {
  public:
    image(workload const& w, std::size_t pages, std::size_t page_size)
        : name_(w.name), contents_(w.make(pages)), page_size_(page_size),
          zero_apart_(std::string_view{w.name} == "W5") {}

    /// W7: four copies of files of the machine, more if there are not enough, the files of each in
    /// an order of its own.
    static image of_files(std::size_t pages, std::size_t page_size) {
        image made{page_size};
        file_collection const files{pages * page_size / 4, page_size};
        std::span<std::byte const> const bytes{files.bytes()};
        std::unordered_map<std::string_view, std::uint32_t> numbers;
        std::vector<std::uint32_t> number_of_page;
        for (std::size_t at = 0; at < bytes.size(); at += page_size) {
            auto const p = bytes.subspan(at, page_size);
            auto const [known, added] =
                numbers.try_emplace({reinterpret_cast<char const*>(p.data()), p.size()},
                                    static_cast<std::uint32_t>(numbers.size() + 1));
            if (added) {
                made.store_.insert(made.store_.end(), p.begin(), p.end());
            }
            number_of_page.push_back(known->second);
        }
        std::mt19937_64 random{20261124};
        auto order = files.files();
        while (made.contents_.size() < pages && !order.empty()) {
            std::ranges::shuffle(order, random);
            for (auto const& f : order) {
                for (std::size_t i = 0; i < f.pages && made.contents_.size() < pages; ++i) {
                    made.contents_.push_back(number_of_page[f.first_page + i]);
                }
            }
        }
        return made;
    }

    [[nodiscard]] std::string const& name() const { return name_; }
    [[nodiscard]] std::size_t pages() const { return contents_.size(); }
    [[nodiscard]] std::size_t bytes() const { return contents_.size() * page_size_; }
    /// Pages of zeros are to be merged into the zero page.
    [[nodiscard]] bool zero_apart() const { return zero_apart_; }
    [[nodiscard]] exact_counts expected() const { return count(contents_, zero_apart_); }

    void write_to(std::span<std::byte> memory) const {
        for (std::size_t i = 0; i < pages(); ++i) {
            fill_page(memory.subspan(i * page_size_, page_size_), contents_[i]);
        }
    }

    [[nodiscard]] bool is_in(std::span<std::byte const> memory) const {
        std::vector<std::byte> expected_page(page_size_);
        for (std::size_t i = 0; i < pages(); ++i) {
            fill_page(expected_page, contents_[i]);
            if (!std::ranges::equal(expected_page, memory.subspan(i * page_size_, page_size_))) {
                return false;
            }
        }
        return true;
    }

    /// Writes contents that are nowhere else to that many pages, at random places.
    void rewrite(std::span<std::byte> memory, std::size_t pages_to_write) {
        for (std::size_t i = 0; i < pages_to_write; ++i) {
            std::size_t const at = random_() % pages();
            contents_[at] = fresh_++;
            fill_page(memory.subspan(at * page_size_, page_size_), contents_[at]);
        }
    }

  private:
    explicit image(std::size_t page_size) : name_("W7"), page_size_(page_size) {}

    void fill_page(std::span<std::byte> page, std::uint32_t content) const {
        if (content != 0 && content <= store_.size() / page_size_) {
            std::ranges::copy_n(store_.begin() +
                                    static_cast<std::ptrdiff_t>((content - 1) * page_size_),
                                static_cast<std::ptrdiff_t>(page_size_), page.begin());
        } else {
            fill(page, content);
        }
    }

    std::string name_;
    std::vector<std::uint32_t> contents_;
    std::vector<std::byte> store_; ///< Contents 1, 2, ...; the others are pseudo-random.
    std::size_t page_size_;
    bool zero_apart_ = false;
    std::uint32_t fresh_ = 1U << 31U; ///< The next content that was nowhere yet.
    std::mt19937_64 random_{20261125};
};

} // namespace bench

#endif
