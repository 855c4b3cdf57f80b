// SPDX-License-Identifier: BSL-1.0
// Every provider of the library, and the one of the example, against one suite.
#include <memory>
#include <tuple>
#include <vector>

#include <ksm/providers/faulty.hpp>
#include <ksm/providers/simulated.hpp>
#include <ksm/providers/tracing.hpp>
#if defined(__linux__) && __has_include(<ksm/providers/linux.hpp>)
#include <ksm/providers/linux.hpp>
#define KSM_TEST_LINUX_PROVIDER 1
#else
#define KSM_TEST_LINUX_PROVIDER 0
#endif

#define main minimal_provider_main
#include "../../examples/minimal_provider.cpp"
#undef main

#include "../support/catch.hpp"

namespace {

/// Simulated memory whose owner's side is at hand. Between it and the engine, something may stand.
template <std::size_t PageSize, bool Tracking>
class simulated {
  public:
    explicit simulated(ksm::page_count n) { memory_.map(space_, first(), n); }

    auto& provider() { return memory_; }
    ksm::space_id space() { return space_; }
    ksm::page_number first() { return ksm::page_number{1000}; }
    void store(ksm::page_number page, std::size_t offset, std::byte value) {
        memory_.write(space_, page, offset, std::span{&value, 1});
    }
    std::vector<std::byte> load(ksm::page_number page) {
        auto const bytes = memory_.read(space_, page);
        return {bytes.begin(), bytes.end()};
    }
    void unmap(ksm::page_number page) { memory_.unmap(space_, {page, ksm::page_count{1}}); }
    void exit() { memory_.exit(space_); }

    ~simulated() { CHECK(memory_.verify() == ""); }

  private:
    ksm::simulated_provider memory_{{.page_size = PageSize, .change_tracking = Tracking}};
    ksm::space_id space_ = memory_.create_space();
};

template <template <class> class Decorator>
class decorated : public simulated<4096, true> {
  public:
    using simulated<4096, true>::simulated;
    auto& provider() { return outer_; }

  private:
    Decorator<ksm::simulated_provider> outer_{simulated<4096, true>::provider()};
};

class minimal {
  public:
    explicit minimal(ksm::page_count n) : memory_(n.value(), n.value() + 2) {}

    auto& provider() { return memory_; }
    ksm::space_id space() { return {}; }
    ksm::page_number first() { return {}; }
    void store(ksm::page_number page, std::size_t offset, std::byte value) {
        memory_.store(page.value() * memory_.page_size() + offset, value);
    }
    std::vector<std::byte> load(ksm::page_number page) {
        auto const bytes = memory_.view(space(), page);
        return {bytes.begin(), bytes.end()};
    }

  private:
    guest_memory memory_;
};

#if KSM_TEST_LINUX_PROVIDER
/// Real memory, with the write exclusion that is possible everywhere: the promise of a test that
/// nobody else writes.
class quiescent_linux {
  public:
    explicit quiescent_linux(ksm::page_count n) : memory_(promise()), pages_(memory_.map(n)) {
        // A page is there once it has been written.
        for (auto page = pages_.first; page < pages_.end(); page += ksm::page_count{1}) {
            store(page, 0, std::byte{});
        }
    }
    ~quiescent_linux() { memory_.release(pages_); }

    auto& provider() { return memory_; }
    ksm::space_id space() { return memory_.space(); }
    ksm::page_number first() { return pages_.first; }
    void store(ksm::page_number page, std::size_t offset, std::byte value) {
        memory_.address(page)[offset] = value;
    }
    std::vector<std::byte> load(ksm::page_number page) {
        auto const* const bytes = memory_.address(page);
        return {bytes, bytes + memory_.page_size()};
    }

  private:
    static ksm::linux_options promise() {
        ksm::linux_options o;
        o.strategy = ksm::write_exclusion::quiescent;
        o.quiescent = true;
        return o;
    }

    ksm::linux_provider memory_;
    ksm::page_range pages_;
};
#endif

} // namespace

using conformance_fixtures =
    std::tuple<simulated<64, true>, simulated<64, false>, simulated<4096, true>,
               simulated<4096, false>, simulated<65536, true>, simulated<65536, false>,
               decorated<ksm::faulty_provider>, decorated<ksm::tracing_provider>, minimal
#if KSM_TEST_LINUX_PROVIDER
               ,
               quiescent_linux
#endif
               >;

#include "provider_conformance.hpp"
