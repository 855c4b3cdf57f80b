// SPDX-License-Identifier: BSL-1.0
#include <cstdint>
#include <cstring>
#include <memory_resource>
#include <vector>

#include <ksm/memory_resource.hpp>

#include "../support/catch.hpp"

namespace {

class counting_upstream final : public std::pmr::memory_resource {
  public:
    std::size_t calls = 0;
    std::size_t bytes = 0;

  private:
    void* do_allocate(std::size_t n, std::size_t alignment) override {
        ++calls;
        bytes += n;
        return std::pmr::new_delete_resource()->allocate(n, alignment);
    }
    void do_deallocate(void* p, std::size_t n, std::size_t alignment) override {
        bytes -= n;
        std::pmr::new_delete_resource()->deallocate(p, n, alignment);
    }
    [[nodiscard]] bool do_is_equal(std::pmr::memory_resource const& o) const noexcept override {
        return this == &o;
    }
};

} // namespace

TEST_CASE("small requests share blocks of the upstream resource") {
    counting_upstream upstream;
    ksm::memory_resource memory(&upstream);
    for (int i = 0; i < 100; ++i) {
        static_cast<void>(memory.allocate(2128, 8));
    }
    CHECK(upstream.calls == 1);
}

TEST_CASE("freed memory serves the next request of its size") {
    counting_upstream upstream;
    ksm::memory_resource memory(&upstream);
    void* const first = memory.allocate(800, 16);
    memory.deallocate(first, 800, 16);
    CHECK(memory.allocate(800, 16) == first);
}

TEST_CASE("requests do not overlap and are aligned to cache lines") {
    counting_upstream upstream;
    ksm::memory_resource memory(&upstream);
    std::vector<unsigned char*> places;
    for (std::size_t n = 1; n <= 4096; n += 61) {
        auto* const p = static_cast<unsigned char*>(memory.allocate(n, 64));
        REQUIRE(reinterpret_cast<std::uintptr_t>(p) % 64 == 0);
        std::memset(p, static_cast<int>(places.size()), n);
        places.push_back(p);
    }
    for (std::size_t i = 0; i < places.size(); ++i) {
        CHECK(places[i][0] == i);
        CHECK(places[i][i * 61] == i);
    }
}

TEST_CASE("large requests go to the upstream and return to it") {
    counting_upstream upstream;
    ksm::memory_resource memory(&upstream);
    void* const p = memory.allocate(1U << 20U, 64);
    CHECK(upstream.bytes == 1U << 20U);
    memory.deallocate(p, 1U << 20U, 64);
    CHECK(upstream.bytes == 0);
}

TEST_CASE("destruction gives every block back") {
    counting_upstream upstream;
    {
        ksm::memory_resource memory(&upstream);
        for (int i = 0; i < 1000; ++i) {
            static_cast<void>(memory.allocate(2128, 8));
        }
        CHECK(upstream.calls > 1);
    }
    CHECK(upstream.bytes == 0);
}
