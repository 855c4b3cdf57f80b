// SPDX-License-Identifier: BSL-1.0
// A line of standard error that is drawn over and over, and gone at the end.
#ifndef KSM_EXAMPLES_PROGRESS_HPP
#define KSM_EXAMPLES_PROGRESS_HPP

#include <cstddef>
#include <cstdio>
#include <string>

#include <fmt/format.h>
#include <unistd.h>

namespace examples {

class progress_bar {
  public:
    /// Draws nothing unless standard error is a terminal.
    progress_bar() : visible_(::isatty(STDERR_FILENO) == 1) {}
    ~progress_bar() { draw(""); }
    progress_bar(progress_bar const&) = delete;
    progress_bar& operator=(progress_bar const&) = delete;

    void update(std::string const& label, std::size_t done, std::size_t total) {
        std::size_t const filled = total == 0 ? width : done * width / total;
        draw(fmt::format("{} [{:#<{}}{:.<{}}] {} of {}", label, "", filled, "", width - filled,
                         done, total));
    }

  private:
    static constexpr std::size_t width = 40;

    void draw(std::string const& line) {
        if (visible_) {
            // Return to the left, print, erase what is left of the previous line.
            fmt::print(stderr, "\r{}\x1b[K", line);
            std::fflush(stderr);
        }
    }

    bool visible_;
};

} // namespace examples

#endif
