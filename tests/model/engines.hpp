// SPDX-License-Identifier: BSL-1.0
// The scanners themselves. To be included by one translation unit of a program.
#ifndef KSM_TESTS_MODEL_ENGINES_HPP
#define KSM_TESTS_MODEL_ENGINES_HPP

#include <cstddef>
#include <cstdint>
#include <memory>
#include <memory_resource>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <ksm/detail/invariants.hpp>
#include <ksm/policy.hpp>
#include <ksm/scanner.hpp>

#include "engine.hpp"

namespace model {

/// The lowest and the highest bit of the width that an entry stores.
[[nodiscard]] inline std::uint64_t weak_digest(std::span<std::byte const> bytes,
                                               std::uint64_t seed) noexcept {
    std::uint64_t const d = ksm::page_digest(bytes, seed);
    return ((d & 1U) << (ksm::digest_bits - 1)) | ((d >> 1U) & 1U);
}

struct weak_standard_policy : ksm::standard_policy {
    [[nodiscard]] static std::uint64_t digest(std::span<std::byte const> bytes,
                                              std::uint64_t seed) noexcept {
        return weak_digest(bytes, seed);
    }
};
struct weak_classic_policy : ksm::classic_policy {
    [[nodiscard]] static std::uint64_t digest(std::span<std::byte const> bytes,
                                              std::uint64_t seed) noexcept {
        return weak_digest(bytes, seed);
    }
};

template <class Policy>
class engine_of final : public engine {
  public:
    engine_of(checked_provider& provider, std::pmr::memory_resource* memory)
        : scanner_(provider, memory, fixed_seed) {}

    ksm::status enter(ksm::space_id s) override { return scanner_.enter(s); }
    void leave(ksm::space_id s) override { scanner_.leave(s); }
    ksm::scan_result scan(ksm::page_count budget) override { return scanner_.scan(budget); }
    ksm::scan_result scan_pass() override { return scanner_.scan_pass(); }
    ksm::scan_result merge_now(ksm::space_id s, ksm::page_range r) override {
        return scanner_.merge_now(s, r);
    }
    ksm::progress unmerge(ksm::space_id s, ksm::page_range r) override {
        return scanner_.unmerge(s, r);
    }
    ksm::status unmerge_all() override { return scanner_.unmerge_all(); }
    ksm::tunable_error tune(std::string_view name, std::uint64_t value) override {
        return scanner_.tune(name, value);
    }
    [[nodiscard]] ksm::tunables const& tunables() const override { return scanner_.tunables(); }
    [[nodiscard]] ksm::statistics statistics() const override { return scanner_.statistics(); }
    [[nodiscard]] ksm::space_statistics statistics(ksm::space_id s) const override {
        return scanner_.statistics(s);
    }
    [[nodiscard]] char const* broken() override { return inspector{scanner_}.broken(); }
    [[nodiscard]] bool any_rests() override {
        inspector all{scanner_};
        return all.broken() == nullptr && all.any_rests();
    }
    [[nodiscard]] std::vector<std::pair<ksm::frame_id, std::uint64_t>> frames() override {
        std::vector<std::pair<ksm::frame_id, std::uint64_t>> found;
        inspector{scanner_}.for_each_frame(
            [&](ksm::frame_id f, std::uint64_t sharers) { found.emplace_back(f, sharers); });
        return found;
    }

  private:
    using scanner_type = ksm::scanner<checked_provider, Policy>;
    using inspector = ksm::detail::inspector<scanner_type>;
    static constexpr std::uint64_t fixed_seed = 1; // a failing program must fail again

    scanner_type scanner_;
};

std::unique_ptr<engine> make_engine(policy p, checked_provider& provider,
                                    std::pmr::memory_resource* memory) {
    switch (p) {
    case policy::classic: return std::make_unique<engine_of<ksm::classic_policy>>(provider, memory);
    case policy::weak_standard:
        return std::make_unique<engine_of<weak_standard_policy>>(provider, memory);
    case policy::weak_classic:
        return std::make_unique<engine_of<weak_classic_policy>>(provider, memory);
    case policy::standard: break;
    }
    return std::make_unique<engine_of<ksm::standard_policy>>(provider, memory);
}

} // namespace model

#endif
