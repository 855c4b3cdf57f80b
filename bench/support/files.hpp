// SPDX-License-Identifier: BSL-1.0
// Files of this machine as memory: programs, libraries, headers, and what else there is.
#ifndef KSM_BENCH_SUPPORT_FILES_HPP
#define KSM_BENCH_SUPPORT_FILES_HPP

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <system_error>
#include <vector>

namespace bench {

/// Reads files until there is a number of bytes; each begins with a page, and zeros follow it.
class file_collection {
  public:
    struct file {
        std::size_t first_page;
        std::size_t pages;
    };

    file_collection(std::size_t bytes, std::size_t page) : page_(page), most_(bytes) {
        add("/proc/self/exe");
        for (std::string const& path : libraries()) {
            add(path);
        }
        // A share for each, so that not all of it is of one kind.
        std::vector<std::string> const roots{"/usr/include", "/usr/lib", "/usr/share", "/usr/bin"};
        for (std::size_t i = 0; i < roots.size(); ++i) {
            add_tree(roots[i],
                     bytes_.size() + (bytes - std::min(bytes, bytes_.size())) / (roots.size() - i));
        }
    }

    [[nodiscard]] std::vector<std::byte> const& bytes() const { return bytes_; }
    [[nodiscard]] std::vector<file> const& files() const { return files_; }

  private:
    static constexpr std::size_t largest = 8 * 1024 * 1024; ///< One file is not to be all.

    static std::set<std::string> libraries() {
        std::set<std::string> paths;
        std::ifstream maps{"/proc/self/maps"};
        for (std::string line; std::getline(maps, line);) {
            if (auto const at = line.find('/'); at != std::string::npos) {
                paths.insert(line.substr(at));
            }
        }
        return paths;
    }

    void add_tree(std::string const& root, std::size_t until) {
        namespace fs = std::filesystem;
        std::error_code error;
        fs::recursive_directory_iterator i{root, fs::directory_options::skip_permission_denied,
                                           error};
        for (; !error && i != fs::recursive_directory_iterator{} && bytes_.size() < until;
             i.increment(error)) {
            std::error_code ignored;
            if (!i->is_symlink(ignored) && i->is_regular_file(ignored)) {
                add(i->path());
            }
        }
    }

    void add(std::filesystem::path const& path) {
        std::size_t const first = bytes_.size();
        std::error_code error;
        auto const size = static_cast<std::size_t>(std::filesystem::file_size(path, error));
        std::size_t const room =
            error ? 0 : std::min({size, largest, most_ - std::min(most_, first)});
        std::ifstream in{path, std::ios::binary};
        bytes_.resize(first + room);
        in.read(reinterpret_cast<char*>(bytes_.data() + first), static_cast<std::streamsize>(room));
        std::size_t const pages = (static_cast<std::size_t>(in.gcount()) + page_ - 1) / page_;
        bytes_.resize(first + pages * page_);
        if (pages != 0) {
            files_.push_back({first / page_, pages});
        }
    }

    std::size_t page_;
    std::size_t most_;
    std::vector<std::byte> bytes_;
    std::vector<file> files_;
};

} // namespace bench

#endif
