// SPDX-License-Identifier: BSL-1.0
#include <cstddef>
#include <set>
#include <string>

#include <ksm/outcome.hpp>
#include <ksm/providers/operation.hpp>
#include <ksm/providers/simulated/seam.hpp>

#include "../support/catch.hpp"

namespace {

/// The names of the first `count` enumerators, and of the one behind the last.
template <class Enum>
std::set<std::string> names(std::size_t count) {
    std::set<std::string> all;
    for (std::size_t i = 0; i < count; ++i) {
        all.insert(ksm::name(static_cast<Enum>(i)));
    }
    CHECK(ksm::name(static_cast<Enum>(count)) == std::string{"?"});
    return all;
}

} // namespace

TEST_CASE("every enumerator has a name of its own, and the counts are right") {
    auto const statuses = names<ksm::status>(ksm::status_count);
    CHECK(statuses.size() == ksm::status_count);
    CHECK(statuses.count("?") == 0);
    CHECK(names<ksm::operation>(ksm::operation_count).size() == ksm::operation_count);
    CHECK(names<ksm::operation>(ksm::operation_count).count("?") == 0);
    CHECK(names<ksm::seam>(ksm::seam_count).size() == ksm::seam_count);
    CHECK(names<ksm::seam>(ksm::seam_count).count("?") == 0);
    CHECK(ksm::name(ksm::status::out_of_mappings) == std::string{"out_of_mappings"});
}

TEST_CASE("nothing done is the default, and no failure") {
    ksm::promotion const p{};
    CHECK(p.made.done == ksm::page_count{});
    CHECK(p.made.why == ksm::status::ok);
}

TEST_CASE("writers are excluded from protection to replacement, and at no other seam") {
    using ksm::seam;
    std::size_t excluded = 0;
    for (std::size_t i = 0; i < ksm::seam_count; ++i) {
        excluded += ksm::excludes_writers(static_cast<seam>(i)) ? 1U : 0U;
    }
    CHECK(excluded == 9);
    for (auto s :
         {seam::promote_protected, seam::promote_copied, seam::promote_replaced,
          seam::merge_protected, seam::merge_compared, seam::merge_replaced,
          seam::merge_zero_protected, seam::merge_zero_compared, seam::merge_zero_replaced}) {
        CHECK(ksm::excludes_writers(s));
    }
}
