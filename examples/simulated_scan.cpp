// SPDX-License-Identifier: BSL-1.0
// The algorithm, step by step, on eight tiny pages of simulated memory: no system call is made.
#include <array>
#include <cstddef>
#include <cstdio>
#include <span>
#include <string_view>

#include <ksm/ksm.hpp>

namespace {

constexpr std::size_t page_size = 64;
constexpr ksm::page_number first{0};
constexpr ksm::page_count pages{8};

class machine {
  public:
    machine() : memory_({.page_size = page_size}), space_(memory_.create_space()) {
        memory_.map(space_, first, pages);
    }

    /// Fills a page with one letter.
    void write(std::size_t page, char letter) {
        std::array<std::byte, page_size> content;
        content.fill(static_cast<std::byte>(letter));
        memory_.write(space_, at(page), 0, content);
    }

    bool start() {
        (void)scanner_.tune("use_zero_pages", 1); // The name and the value are known to be valid.
        return scanner_.enter(space_) == ksm::status::ok;
    }

    void scan() {
        auto const result = scanner_.scan_pass();
        auto const s = scanner_.statistics();
        std::printf("    pages visited %zu; pages_shared %u, pages_sharing %u, ksm_zero_pages %u, "
                    "pages_unshared %u\n",
                    result.visited.value(), static_cast<unsigned>(s.pages_shared),
                    static_cast<unsigned>(s.pages_sharing), static_cast<unsigned>(s.ksm_zero_pages),
                    static_cast<unsigned>(s.pages_unshared));
    }

    bool unmerge() { return scanner_.unmerge_all() == ksm::status::ok; }

    /// What each page reads as, and what it maps: its own frame, a stable frame, the zero page.
    void draw() const {
        std::printf("    reads");
        for (std::size_t i = 0; i < pages.value(); ++i) {
            auto const letter = static_cast<char>(memory_.read(space_, at(i))[0]);
            std::printf("%6c", letter == '\0' ? '0' : letter);
        }
        std::printf("\n    maps ");
        for (std::size_t i = 0; i < pages.value(); ++i) {
            if (auto const frame = memory_.frame_of(space_, at(i))) {
                std::printf("   f%02u", static_cast<unsigned>(frame->value()));
            } else {
                std::printf("%6s", memory_.is_zero(space_, at(i)) ? "zero" : "own");
            }
        }
        std::printf("   = %zu frames\n\n", memory_.frames_in_use());
    }

  private:
    static ksm::page_number at(std::size_t page) { return first + ksm::page_count{page}; }

    ksm::simulated_provider memory_;
    ksm::space_id space_;
    ksm::scanner<ksm::simulated_provider> scanner_{memory_};
};

void say(std::string_view text) {
    std::printf("%.*s\n", static_cast<int>(text.size()), text.data());
}

} // namespace

int main() {
    machine m;
    std::string_view const letters{"ABA\0CBA\0", pages.value()};
    for (std::size_t i = 0; i < letters.size(); ++i) {
        m.write(i, letters[i]);
    }
    say("Eight pages, each filled with one letter or with zeros, each in a frame of its own:");
    m.draw();
    if (!m.start()) {
        return 1;
    }

    say("Pass 1. Nothing merges: a page must rest for a pass before it is looked at:");
    m.scan();
    m.draw();

    say("Pass 2. Nobody wrote, so equal pages come to map one stable frame, or the zero page:");
    m.scan();
    m.draw();

    say("Page 2 is written: copy-on-write gives it a frame of its own. Its sharers see nothing:");
    m.write(2, 'C');
    m.draw();

    say("Pass 3. The scanner learns of the write; the page must rest again:");
    m.scan();
    m.draw();

    say("Pass 4. The page equals page 4 now. Only this one page is visited:");
    m.scan();
    m.draw();

    say("Unmerged. Every page is private again, every stable frame is gone:");
    bool const unmerged = m.unmerge();
    m.draw();
    return unmerged ? 0 : 1;
}
