// SPDX-License-Identifier: BSL-1.0
// What is known of each frame, in eight bytes: who relies on it, and since when it exists.
#ifndef KSM_PROVIDERS_LINUX_FRAME_RECORDS_HPP
#define KSM_PROVIDERS_LINUX_FRAME_RECORDS_HPP

#include <cstddef>
#include <cstdint>

#include <ksm/config.hpp>
#include <ksm/providers/linux/own_memory.hpp>
#include <ksm/providers/linux/page_entry.hpp>
#include <ksm/types.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail::os {

enum class frame_state : std::uint8_t {
    unused,   ///< No frame: never made, or given back.
    live,     ///< The engine may name it.
    released, ///< The engine has released it, but pages map it.
    dead,     ///< Released, and no page of this process relies on it.
};

/// Dead frames, linked through their records.
struct frame_chain {
    static constexpr std::uint32_t end = page_entry::max_value; ///< No frame has this number.

    [[nodiscard]] bool empty() const noexcept { return head == end; }
    std::uint32_t head = end;
};

class frame_records {
  public:
    explicit frame_records(unsigned arena_shift) noexcept : shift_(arena_shift) {}
    ~frame_records() {
        for (block& b : blocks_) {
            sys::munmap(b.first, b.slots * sizeof(record));
        }
    }
    frame_records(frame_records const&) = delete;
    frame_records& operator=(frame_records const&) = delete;

    static constexpr std::size_t bytes_of_a_frame = 8;

    /// Records for the frames of one more arena. False: no memory.
    [[nodiscard]] bool add_arena(std::size_t slots) noexcept {
        if (!blocks_.reserve(blocks_.size() + 1)) {
            return false;
        }
        auto* const first = static_cast<record*>(own_map(slots * sizeof(record)));
        if (first == nullptr) {
            return false;
        }
        blocks_.push_back({first, slots});
        return true;
    }
    [[nodiscard]] frame_state state(frame_id f) const noexcept {
        return static_cast<frame_state>(of(f).word >> link_bits);
    }
    /// The canary under which the frame was made; 0: there was none.
    [[nodiscard]] std::uint32_t birth(frame_id f) const noexcept { return of(f).birth >> 1; }
    /// Frames that are neither unused nor dead.
    [[nodiscard]] std::size_t live() const noexcept { return made_ - dead_; }
    [[nodiscard]] std::size_t dead() const noexcept { return dead_; }

    void make(frame_id f, std::uint32_t birth) noexcept {
        KSM_ASSERT(state(f) == frame_state::unused, "an unused frame");
        of(f) = {word(frame_state::live, 0), birth << 1};
        ++made_;
    }

    /// The entry of a page changes: a frame is relied on by the pages that are merged with it.
    void moved(page_entry from, page_entry to) noexcept {
        if (from == to) {
            return;
        }
        if (to.kind() == backing::merged) {
            KSM_ASSERT(state(to.frame()) == frame_state::live, "a live frame");
            std::uint32_t const n = link(to.frame());
            relink(to.frame(), n == max_sharers ? n : n + 1);
        }
        if (from.kind() == backing::merged) {
            std::uint32_t const n = link(from.frame());
            relink(from.frame(), n == max_sharers ? n : n - 1);
            bury(from.frame());
        }
    }

    void release(frame_id f) noexcept {
        KSM_ASSERT(state(f) == frame_state::live, "a live frame");
        of(f).word = word(frame_state::released, link(f));
        bury(f);
    }

    /// Frames found dead since the last call. Those that no canary watched are not among them:
    /// nobody can tell who reads them.
    [[nodiscard]] bool found_dead() const noexcept { return !fresh_.empty(); }
    [[nodiscard]] frame_chain take_dead() noexcept {
        frame_chain const all = fresh_;
        fresh_ = {};
        return all;
    }

    void push(frame_chain& chain, frame_id f) noexcept {
        relink(f, chain.head);
        chain.head = static_cast<std::uint32_t>(f.value());
    }
    [[nodiscard]] frame_id pop(frame_chain& chain) noexcept {
        frame_id const f{chain.head};
        chain.head = link(f);
        return f;
    }

    /// The number of a dead frame may be used again, unless it was stranded.
    [[nodiscard]] bool bring_back(frame_id f) noexcept {
        KSM_ASSERT(state(f) == frame_state::dead, "a dead frame");
        bool const stranded = (of(f).birth & 1) != 0;
        of(f) = {};
        --made_;
        --dead_;
        return !stranded;
    }
    /// The frame never dies. \requires It is not dead.
    void keep(frame_id f) noexcept { relink(f, max_sharers); }
    /// Never use the number again once the frame is dead.
    void strand(frame_id f) noexcept { of(f).birth |= 1; }

  private:
    struct record {
        std::uint32_t word;  ///< Two bits of state, thirty of sharers or, if dead, of a link.
        std::uint32_t birth; ///< The canary; the lowest bit says that the frame is stranded.
    };
    static_assert(sizeof(record) == bytes_of_a_frame);
    struct block {
        record* first;
        std::size_t slots;
    };
    static constexpr unsigned link_bits = 30;
    /// Of four terabytes that share a frame nobody keeps count: it lives for ever.
    static constexpr std::uint32_t max_sharers = (1U << link_bits) - 1;

    [[nodiscard]] static std::uint32_t word(frame_state s, std::uint32_t rest) noexcept {
        return static_cast<std::uint32_t>(s) << link_bits | rest;
    }
    [[nodiscard]] record& of(frame_id f) const noexcept {
        return blocks_[static_cast<std::size_t>(f.value() >> shift_)]
            .first[f.value() & ((std::uint64_t{1} << shift_) - 1)];
    }
    [[nodiscard]] std::uint32_t link(frame_id f) const noexcept { return of(f).word & max_sharers; }
    void relink(frame_id f, std::uint32_t rest) noexcept { of(f).word = word(state(f), rest); }

    void bury(frame_id f) noexcept {
        if (state(f) != frame_state::released || link(f) != 0) {
            return;
        }
        of(f).word = word(frame_state::dead, 0);
        ++dead_;
        if (birth(f) != 0) {
            push(fresh_, f);
        }
    }

    unsigned shift_;
    own_array<block> blocks_;
    frame_chain fresh_;
    std::size_t made_ = 0;
    std::size_t dead_ = 0;
};

} // namespace detail::os
KSM_NAMESPACE_END

#endif
