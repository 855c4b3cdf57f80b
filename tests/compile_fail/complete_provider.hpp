// SPDX-License-Identifier: BSL-1.0
// A type with everything that the seam requires. Each case takes or adds one thing.
#ifndef KSM_TESTS_COMPILE_FAIL_COMPLETE_PROVIDER_HPP
#define KSM_TESTS_COMPILE_FAIL_COMPLETE_PROVIDER_HPP

#include <ksm/page_provider.hpp>

struct complete_provider {
    std::size_t page_size() const noexcept { return 4096; }
    ksm::survey_result survey(ksm::space_id, ksm::page_number, ksm::coverage,
                              std::span<ksm::page_run>) noexcept {
        return {};
    }
    std::span<std::byte const> view(ksm::space_id, ksm::page_number) noexcept { return {}; }
    std::span<std::byte const> view(ksm::frame_id) noexcept { return {}; }
    ksm::promotion promote(ksm::space_id, ksm::page_number, ksm::page_count) noexcept { return {}; }
    ksm::progress merge(ksm::space_id, ksm::page_number, ksm::page_count, ksm::frame_id) noexcept {
        return {};
    }
    ksm::progress unmerge(ksm::space_id, ksm::page_number, ksm::page_count) noexcept { return {}; }
    void release(ksm::frame_id, ksm::page_count) noexcept {}
};

#endif
