// SPDX-License-Identifier: BSL-1.0
// The smallest useful page provider: the software page table of an emulator. Every access of the
// guest goes through the table, so that guest pages of equal content can map one host page.
#include <algorithm>
#include <array>
#include <cstdio>
#include <numeric>
#include <vector>

#include <ksm/scanner.hpp>

using namespace ksm;

class guest_memory {
  public:
    // With a spare host page for each frame that there may be, a store can always make its copy.
    guest_memory(std::size_t pages, std::size_t frames)
        : table_(pages), host_(pages + frames), users_(pages + frames, 1), live_(pages + frames),
          free_(frames), frames_left_(frames) {
        std::iota(table_.begin(), table_.end(), std::size_t{0});
        std::iota(free_.begin(), free_.end(), pages);
        free_.reserve(pages + frames);
    }
    std::size_t host_pages_in_use() const { return host_.size() - free_.size(); }

    // What the guest does. A load reads host_[table_[page]], like `view`.
    void store(std::size_t address, std::byte value) {
        make_private(address / page_bytes);
        host_[table_[address / page_bytes]][address % page_bytes] = value;
    }

    // What the engine does. A call may do one page, say so, and be repeated for the rest. The
    // engine names only pages that a survey listed, and here none of them ever vanishes.
    std::size_t page_size() const noexcept { return page_bytes; }
    survey_result survey(space_id, page_number from, coverage, std::span<page_run> out) noexcept {
        std::size_t const n = std::min(table_.size() - from.value(), out.size());
        for (std::size_t i = 0; i < n; ++i) {
            std::size_t const host = table_[from.value() + i];
            auto const state = live_[host] ? page_state::merged : page_state::unknown;
            out[i] = {from + page_count{i}, page_count{1}, state, frame_id{host}};
        }
        return {n, from + page_count{n}, from.value() + n == table_.size(), coverage::every_page};
    }
    std::span<std::byte const> view(space_id, page_number page) noexcept {
        return host_[table_[page.value()]];
    }
    std::span<std::byte const> view(frame_id frame) noexcept { return host_[frame.value()]; }
    promotion promote(space_id, page_number page, page_count) noexcept {
        if (frames_left_ == 0) {
            return {{}, {{}, status::out_of_frames}};
        }
        --frames_left_;
        make_private(page.value());
        std::size_t const host = table_[page.value()]; // becomes the frame, without a copy
        users_[host] = 2;
        live_[host] = true;
        return {frame_id{host}, {page_count{1}}};
    }
    progress merge(space_id, page_number page, page_count, frame_id frame) noexcept {
        if (host_[table_[page.value()]] != host_[frame.value()]) {
            return {{}, status::changed};
        }
        map(page.value(), frame.value());
        return {page_count{1}};
    }
    progress unmerge(space_id, page_number page, page_count) noexcept {
        make_private(page.value());
        return {page_count{1}};
    }
    void release(frame_id first, page_count frames) noexcept {
        for (std::size_t host = first.value(); host < (first + frames).value(); ++host) {
            live_[host] = false;
            ++frames_left_;
            drop(host);
        }
    }

  private:
    static constexpr std::size_t page_bytes = 4096;
    void drop(std::size_t host) {
        if (--users_[host] == 0) {
            free_.push_back(host);
        }
    }
    void map(std::size_t page, std::size_t host) {
        ++users_[host];
        drop(std::exchange(table_[page], host));
    }
    void make_private(std::size_t page) {
        if (users_[table_[page]] > 1) {
            std::size_t const copy = free_.back();
            free_.pop_back();
            users_[copy] = 0;
            host_[copy] = host_[table_[page]];
            map(page, copy);
        }
    }

    std::vector<std::size_t> table_; // guest page -> host page
    std::vector<std::array<std::byte, page_bytes>> host_;
    std::vector<std::size_t> users_; // guest pages that map a host page, plus one while ...
    std::vector<bool> live_;         // ... it is a frame that the engine may name
    std::vector<std::size_t> free_;
    std::size_t frames_left_;
};
static_assert(check_page_provider<guest_memory>());

int main() {
    guest_memory guest(64, 16);
    for (std::size_t page = 0; page < 64; ++page) {
        guest.store(page * 4096, std::byte(page % 4));
    }
    scanner engine(guest);
    (void)engine.enter(space_id{});
    (void)engine.scan_pass(); // meets the pages
    (void)engine.scan_pass(); // merges those that have not changed
    std::printf("%zu host pages for 64 guest pages\n", guest.host_pages_in_use());
    return guest.host_pages_in_use() == 4 ? 0 : 1;
}
