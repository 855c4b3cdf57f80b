// SPDX-License-Identifier: BSL-1.0
// Scanners of every policy behind one interface, so that a world is compiled once.
#ifndef KSM_TESTS_MODEL_ENGINE_HPP
#define KSM_TESTS_MODEL_ENGINE_HPP

#include <cstdint>
#include <memory>
#include <memory_resource>
#include <string_view>
#include <utility>
#include <vector>

#include <ksm/outcome.hpp>
#include <ksm/scanner.hpp>
#include <ksm/statistics.hpp>
#include <ksm/tunables.hpp>
#include <ksm/types.hpp>

#include "checked_provider.hpp"

namespace model {

enum class policy : std::uint8_t {
    standard,
    classic,
    weak_standard, ///< With a digest of two bits: nearly all digests collide.
    weak_classic,
};

class engine {
  public:
    engine() = default;
    virtual ~engine() = default;
    engine(engine const&) = delete;
    engine& operator=(engine const&) = delete;

    virtual ksm::status enter(ksm::space_id) = 0;
    virtual void leave(ksm::space_id) = 0;
    virtual ksm::scan_result scan(ksm::page_count budget) = 0;
    virtual ksm::scan_result scan_pass() = 0;
    virtual ksm::scan_result merge_now(ksm::space_id, ksm::page_range) = 0;
    virtual ksm::progress unmerge(ksm::space_id, ksm::page_range) = 0;
    virtual ksm::status unmerge_all() = 0;
    virtual ksm::tunable_error tune(std::string_view name, std::uint64_t value) = 0;
    [[nodiscard]] virtual ksm::tunables const& tunables() const = 0;
    [[nodiscard]] virtual ksm::statistics statistics() const = 0;
    [[nodiscard]] virtual ksm::space_statistics statistics(ksm::space_id) const = 0;
    /// What `detail::inspector` finds wrong, or null.
    [[nodiscard]] virtual char const* broken() = 0;
    /// Whether any page is left alone because its sharing did not last.
    [[nodiscard]] virtual bool any_rests() = 0;
    /// Every stable frame with the number of its sharers.
    [[nodiscard]] virtual std::vector<std::pair<ksm::frame_id, std::uint64_t>> frames() = 0;
};

/// Defined in engines.hpp.
[[nodiscard]] std::unique_ptr<engine> make_engine(policy, checked_provider&,
                                                  std::pmr::memory_resource*);

} // namespace model

#endif
