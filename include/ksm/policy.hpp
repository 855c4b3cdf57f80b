// SPDX-License-Identifier: BSL-1.0
// What distinguishes the original algorithm from ours: the order of the trees and the passes.
#ifndef KSM_POLICY_HPP
#define KSM_POLICY_HPP

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

#include <ksm/digest.hpp>

KSM_NAMESPACE_BEGIN

// clang-format off

/// The compile-time switches of a scanner.
template <class T>
concept merge_policy = requires(std::span<std::byte const> bytes, std::uint64_t seed) {
    /// Trees are ordered by content, not by digest.
    { T::content_order } -> std::convertible_to<bool>;
    /// The unstable tree is dropped when a pass begins.
    { T::drops_unstable_tree } -> std::convertible_to<bool>;
    /// Surveys of kind `changes` are asked for, and their reports believed.
    { T::uses_tracking } -> std::convertible_to<bool>;
    /// Successors of matched pages are expected to match too.
    { T::predicts_runs } -> std::convertible_to<bool>;
    /// The stable tree is searched before the volatile test (the order before Linux 6.11).
    { T::stable_tree_first } -> std::convertible_to<bool>;
    /// A digest of `digest_bits` bits.
    { T::digest(bytes, seed) } noexcept -> std::same_as<std::uint64_t>;
};

// clang-format on

/// Digest order, persistent unstable tree, the provider's change tracking, runs. The default.
struct standard_policy {
    static constexpr bool content_order = false;
    static constexpr bool drops_unstable_tree = false;
    static constexpr bool uses_tracking = true;
    static constexpr bool predicts_runs = true;
    static constexpr bool stable_tree_first = false;
    [[nodiscard]] static std::uint64_t digest(std::span<std::byte const> bytes,
                                              std::uint64_t seed) noexcept {
        return page_digest(bytes, seed);
    }
};

/// The original algorithm: every page is visited in every pass, one at a time, trees are ordered
/// by content, and the unstable tree lives for one pass.
struct classic_policy {
    static constexpr bool content_order = true;
    static constexpr bool drops_unstable_tree = true;
    static constexpr bool uses_tracking = false;
    static constexpr bool predicts_runs = false;
    static constexpr bool stable_tree_first = true;
    [[nodiscard]] static std::uint64_t digest(std::span<std::byte const> bytes,
                                              std::uint64_t seed) noexcept {
        return page_digest(bytes, seed);
    }
};

static_assert(merge_policy<standard_policy> && merge_policy<classic_policy>);

KSM_NAMESPACE_END

#endif
