// SPDX-License-Identifier: BSL-1.0
// The operations on regions for programs with exceptions.
#ifndef KSM_PROVIDERS_LINUX_THROWING_REGIONS_HPP
#define KSM_PROVIDERS_LINUX_THROWING_REGIONS_HPP

#include <cerrno>
#include <cstddef>
#include <system_error>

#include <ksm/config.hpp>
#include <ksm/providers/linux/pins.hpp>
#include <ksm/providers/linux/region_error.hpp>
#include <ksm/types.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

#if KSM_HAS_EXCEPTIONS
/// Each does what the one with `try_` of `Provider` does. \throws std::system_error with the
/// message of the fault.
template <class Provider>
class throwing_regions {
  public:
    [[nodiscard]] page_range map(page_count pages) {
        page_range out;
        raise(self().try_map(pages, out));
        return out;
    }
    [[nodiscard]] page_range adopt(void* first, std::size_t bytes) {
        page_range out;
        raise(self().try_adopt(first, bytes, out));
        return out;
    }
    void release(page_range range) { raise(self().try_release(range)); }
    [[nodiscard]] linux_pin pin(page_range range) {
        linux_pin out;
        raise(self().try_pin(range, out));
        return out;
    }

  private:
    friend Provider;
    throwing_regions() = default;

    [[nodiscard]] Provider& self() noexcept { return static_cast<Provider&>(*this); }
    static void raise(region_error e) {
        if (e) {
            int const code = e.os                                    ? e.os.error
                             : e.what == region_fault::out_of_memory ? ENOMEM
                                                                     : EINVAL;
            throw std::system_error(code, std::generic_category(), message(e.what));
        }
    }
};
#else
template <class Provider>
class throwing_regions {};
#endif

} // namespace detail::os
KSM_NAMESPACE_END

#endif
