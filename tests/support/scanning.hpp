// SPDX-License-Identifier: BSL-1.0
// A simulated machine with small pages, and a scanner over it whose books are checked.
#ifndef KSM_TESTS_SUPPORT_SCANNING_HPP
#define KSM_TESTS_SUPPORT_SCANNING_HPP

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <ksm/detail/invariants.hpp>
#include <ksm/policy.hpp>
#include <ksm/providers/simulated.hpp>
#include <ksm/scanner.hpp>

#include "catch.hpp"
#include "memory.hpp"

namespace support {

[[nodiscard]] constexpr ksm::page_number at(std::uint64_t n) { return ksm::page_number{n}; }
[[nodiscard]] constexpr ksm::page_count pages(std::size_t n) { return ksm::page_count{n}; }
[[nodiscard]] constexpr ksm::page_range range(std::uint64_t first, std::size_t n) {
    return {at(first), pages(n)};
}

/// A machine with one space, whose pages hold their own numbers plus 1 so that all differ.
struct machine {
    explicit machine(std::size_t n = 8, ksm::simulated_options const& o = {.page_size = 64})
        : memory(o), space(memory.create_space()) {
        add_pages(space, n);
    }

    void add_pages(ksm::space_id s, std::size_t n) {
        REQUIRE(memory.map(s, at(0), pages(n)));
        for (std::size_t i = 0; i < n; ++i) {
            write(s, i, i + 1);
        }
    }
    /// Fills a page with a number.
    void write(ksm::space_id s, std::uint64_t page, std::uint64_t content) {
        std::vector<std::uint64_t> const words(memory.page_size() / sizeof content, content);
        REQUIRE(memory.write(s, at(page), 0, std::as_bytes(std::span{words})));
    }
    void write(std::uint64_t page, std::uint64_t content) { write(space, page, content); }

    [[nodiscard]] std::uint64_t read(ksm::space_id s, std::uint64_t page) const {
        std::uint64_t word = 0;
        auto const bytes = memory.read(s, at(page));
        REQUIRE(bytes.size() == memory.page_size());
        std::memcpy(&word, bytes.data(), sizeof word);
        return word;
    }
    [[nodiscard]] std::uint64_t read(std::uint64_t page) const { return read(space, page); }

    /// Whether two pages share a stable frame.
    [[nodiscard]] bool share(std::uint64_t a, std::uint64_t b) const {
        return share(space, a, space, b);
    }
    [[nodiscard]] bool share(ksm::space_id s, std::uint64_t a, ksm::space_id t,
                             std::uint64_t b) const {
        return memory.is_stable(s, at(a)) && memory.frame_of(s, at(a)) == memory.frame_of(t, at(b));
    }

    /// Acts when the seam is reached at the page for the first time.
    template <class Act>
    void once_at(ksm::seam seam, std::uint64_t page, Act act) {
        memory.on_seam = [this, seam, page, act](ksm::seam s, ksm::space_id,
                                                 ksm::page_number p) mutable {
            if (s == seam && p == at(page) && !std::exchange(acted, true)) {
                act();
            }
        };
    }

    ksm::simulated_provider memory;
    ksm::space_id space;
    bool acted = false; ///< What `once_at` waits for has happened.
};

/// A scanner of a machine's space. `seed` of the digests is fixed: runs repeat.
template <class Policy = ksm::standard_policy, class Provider = ksm::simulated_provider>
struct scanning {
    explicit scanning(Provider& provider, ksm::space_id space) : scanner(provider, &metadata, 1) {
        REQUIRE(scanner.enter(space) == ksm::status::ok);
    }

    void passes(int n) {
        for (; n > 0; --n) {
            CHECK(scanner.scan_pass().why == ksm::status::ok);
            check_books();
        }
    }
    /// I2 to I6, as far as the engine's structures show them.
    void check_books() {
        char const* const broken =
            ksm::detail::inspector<ksm::scanner<Provider, Policy>>{scanner}.broken();
        INFO((broken == nullptr ? "" : broken));
        CHECK(broken == nullptr);
    }
    [[nodiscard]] ksm::statistics statistics() const { return scanner.statistics(); }

    failing_resource metadata;
    ksm::scanner<Provider, Policy> scanner;
};

} // namespace support

#endif
