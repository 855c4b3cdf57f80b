// SPDX-License-Identifier: BSL-1.0
// The ranges of memory that the application has given to the provider, in address order.
#ifndef KSM_PROVIDERS_LINUX_REGIONS_HPP
#define KSM_PROVIDERS_LINUX_REGIONS_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <ksm/providers/linux/own_memory.hpp>
#include <ksm/types.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

/// No mirror, so far: copies are made in memory that fits nowhere.
inline constexpr std::uint32_t no_mirror = ~std::uint32_t{0};
/// Never one, because the region may be several mappings of the kernel.
inline constexpr std::uint32_t never_mirror = no_mirror - 1;

struct region {
    page_range pages;
    bool noreserve =
        false;             ///< MAP_NORESERVE: mappings that replace a page of it must have it, too.
    bool in_place = false; ///< Read in place: it is certain to be mapped.
    bool tracked = false;  ///< Changes of its anonymous memory are tracked.
    std::uint32_t mirror = no_mirror; ///< See mirror.hpp. Pieces of a region share it.
};

class region_list {
  public:
    [[nodiscard]] std::size_t size() const noexcept { return list_.size(); }
    [[nodiscard]] std::size_t pages() const noexcept { return pages_; }
    [[nodiscard]] std::size_t bytes() const noexcept { return list_.bytes(); }

    [[nodiscard]] region const* begin() const noexcept { return list_.begin(); }
    [[nodiscard]] region const* end() const noexcept { return list_.end(); }

    /// The region that holds the page, or null.
    [[nodiscard]] region const* find(page_number page) const noexcept {
        if (last_ < list_.size() && list_[last_].pages.contains(page)) {
            return &list_[last_];
        }
        region const* const r = at_or_after(page);
        if (r == nullptr || !r->pages.contains(page)) {
            return nullptr;
        }
        last_ = static_cast<std::size_t>(r - list_.begin());
        return r;
    }
    /// The first region that ends after the page, or null.
    [[nodiscard]] region const* at_or_after(page_number page) const noexcept {
        region const* const r =
            std::upper_bound(list_.begin(), list_.end(), page,
                             [](page_number p, region const& q) { return p < q.pages.end(); });
        return r == list_.end() ? nullptr : r;
    }
    [[nodiscard]] bool has_mirror(std::uint32_t id) const noexcept {
        return std::any_of(list_.begin(), list_.end(),
                           [&](region const& r) { return r.mirror == id; });
    }
    /// \requires The page is in a region.
    void set_mirror(page_number page, std::uint32_t id) noexcept {
        list_[static_cast<std::size_t>(find(page) - list_.begin())].mirror = id;
    }
    [[nodiscard]] bool overlaps(page_range range) const noexcept {
        region const* const r = at_or_after(range.first);
        return r != nullptr && r->pages.first < range.end();
    }
    [[nodiscard]] bool covers(page_range range) const noexcept {
        page_number p = range.first;
        while (p < range.end()) {
            region const* const r = find(p);
            if (r == nullptr) {
                return false;
            }
            p = r->pages.end();
        }
        return true;
    }

    /// False: no memory. \requires The range overlaps no region.
    [[nodiscard]] bool add(region const& r) noexcept {
        if (!list_.reserve(list_.size() + 1)) {
            return false;
        }
        region const* const after = at_or_after(r.pages.first);
        list_.insert(
            after == nullptr ? list_.size() : static_cast<std::size_t>(after - list_.begin()), r);
        pages_ += r.pages.count.value();
        return true;
    }

    /// Makes it certain that so many more regions can be added, or, with one, that a range can be
    /// cut out, which may leave two pieces of a region.
    [[nodiscard]] bool prepare(std::size_t more) noexcept {
        return list_.reserve(list_.size() + more);
    }

    /// \requires `prepare(1)`, unless the range reaches the end of the region it begins in.
    void cut(page_range range) noexcept {
        while (region const* const r = at_or_after(range.first)) {
            if (r->pages.first >= range.end()) {
                break;
            }
            auto const i = static_cast<std::size_t>(r - list_.begin());
            region const whole = *r;
            list_.erase(i);
            pages_ -= whole.pages.count.value();
            region rest = whole;
            if (range.end() < whole.pages.end()) {
                rest.pages = {range.end(), whole.pages.end() - range.end()};
                list_.insert(i, rest);
                pages_ += rest.pages.count.value();
            }
            if (whole.pages.first < range.first) {
                rest.pages = {whole.pages.first, range.first - whole.pages.first};
                list_.insert(i, rest);
                pages_ += rest.pages.count.value();
            }
        }
    }

  private:
    own_array<region> list_;
    std::size_t pages_ = 0;
    mutable std::size_t last_ = 0;
};

} // namespace detail::os
KSM_NAMESPACE_END

#endif
