// SPDX-License-Identifier: BSL-1.0
// A sparse array: slots are numbered, and live in chunks of consecutive numbers.
#ifndef KSM_DETAIL_CHUNK_TABLE_HPP
#define KSM_DETAIL_CHUNK_TABLE_HPP

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include <boost/intrusive/set.hpp>

#include <ksm/detail/chunk_directory.hpp>
#include <ksm/detail/memory.hpp>
#include <ksm/version.hpp>

KSM_NAMESPACE_BEGIN
namespace detail {

template <class Slot, std::size_t Size>
struct slot_array {
    template <std::size_t... I>
    explicit slot_array(std::index_sequence<I...>) noexcept
        : slots{Slot{static_cast<std::uint32_t>(I)}...} {}

    std::array<Slot, Size> slots;
};

/// `Size` consecutive slots and a header. A slot finds its chunk, and so its number, from its own
/// address: the slots come first.
template <class Slot, std::size_t Size, class Header>
struct chunk : slot_array<Slot, Size>, Header {
    static constexpr std::size_t size = Size;
    using slot_type = Slot;

    explicit chunk(std::uint64_t chunk_index) noexcept
        : slot_array<Slot, Size>(std::make_index_sequence<Size>{}), index(chunk_index) {}

    [[nodiscard]] static chunk& of(Slot& slot) noexcept {
        Slot* const first = &slot - slot.slot;
        return static_cast<chunk&>(*reinterpret_cast<slot_array<Slot, Size>*>(first));
    }
    [[nodiscard]] static std::uint64_t number_of(Slot& slot) noexcept {
        return of(slot).index * Size + slot.slot;
    }

    std::uint64_t index; ///< Number of the first slot divided by `Size`.
    boost::intrusive::set_member_hook<boost::intrusive::optimize_size<true>> hook;
    std::uint32_t live = 0;   ///< Slots in use.
    std::uint32_t number = 0; ///< The directory's.
};

template <class Slot, std::size_t Size, class Header>
class chunk_table {
  public:
    using chunk_type = chunk<Slot, Size, Header>;
    using directory_type = chunk_directory<chunk_type>;

    /// \param directory  Names the slots; several tables may share it. Both outlive the table.
    chunk_table(metadata_memory& memory, directory_type& directory) noexcept
        : memory_(memory), directory_(directory) {}
    ~chunk_table() {
        chunks_.clear_and_dispose([this](chunk_type* c) { destroy(*c); });
    }
    chunk_table(chunk_table const&) = delete;
    chunk_table& operator=(chunk_table const&) = delete;

    /// The chunk that holds slot `number`, or null. \complexity O(1) for the chunk of the last
    /// answer and the one behind it, else O(log chunks).
    [[nodiscard]] chunk_type* find(std::uint64_t number) noexcept {
        std::uint64_t const index = number / Size;
        if (last_ != nullptr) {
            if (last_->index == index) {
                return last_;
            }
            if (last_->index + 1 == index) {
                auto const next = std::next(chunks_.iterator_to(*last_));
                if (next == chunks_.end() || next->index != index) {
                    return nullptr;
                }
                return last_ = &*next;
            }
        }
        auto const found = chunks_.find(index);
        return found == chunks_.end() ? nullptr : last_ = &*found;
    }

    /// The same, made if need be; null when there is no memory.
    [[nodiscard]] chunk_type* obtain(std::uint64_t number) noexcept {
        if (chunk_type* const c = find(number)) {
            return c;
        }
        auto* const c = memory_.create<chunk_type>(number / Size);
        if (c == nullptr) {
            return nullptr;
        }
        if (!directory_.add(*c)) {
            memory_.destroy(c);
            return nullptr;
        }
        chunks_.insert(chunks_.end(), *c);
        return last_ = c;
    }

    void remove(chunk_type& c) noexcept {
        if (last_ == &c) {
            last_ = nullptr;
        }
        chunks_.erase(chunks_.iterator_to(c));
        destroy(c);
    }

    /// The first chunk that may hold a slot numbered `number` or more, or null.
    [[nodiscard]] chunk_type* at_or_after(std::uint64_t number) noexcept {
        auto const found = chunks_.lower_bound(number / Size);
        return found == chunks_.end() ? nullptr : &*found;
    }
    [[nodiscard]] chunk_type* after(chunk_type& c) noexcept {
        auto const next = std::next(chunks_.iterator_to(c));
        return next == chunks_.end() ? nullptr : &*next;
    }
    [[nodiscard]] bool empty() const noexcept { return chunks_.empty(); }

  private:
    struct index_of {
        using type = std::uint64_t;
        type operator()(chunk_type const& c) const noexcept { return c.index; }
    };
    using chunk_set = boost::intrusive::set<
        chunk_type,
        boost::intrusive::member_hook<chunk_type, decltype(chunk_type::hook), &chunk_type::hook>,
        boost::intrusive::key_of_value<index_of>, boost::intrusive::constant_time_size<false>>;

    void destroy(chunk_type& c) noexcept {
        directory_.remove(c);
        memory_.destroy(&c);
    }

    metadata_memory& memory_;
    directory_type& directory_;
    chunk_set chunks_;
    chunk_type* last_ = nullptr;
};

} // namespace detail
KSM_NAMESPACE_END

#endif
