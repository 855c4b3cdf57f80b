// SPDX-License-Identifier: BSL-1.0
// What the scanner remembers of an address space.
#ifndef KSM_DETAIL_SPACE_HPP
#define KSM_DETAIL_SPACE_HPP

#include <cstdint>

#include <boost/intrusive/list.hpp>

#include <ksm/detail/chunk_table.hpp>
#include <ksm/detail/entry.hpp>
#include <ksm/types.hpp>

KSM_NAMESPACE_BEGIN
namespace detail {

using list_hook =
    boost::intrusive::list_base_hook<boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;

struct space;

/// Which pages of a chunk await a visit. A chunk with such pages is *active*: it is linked into
/// its space's list, so that a pass never meets the others.
struct rmap_header : list_hook {
    std::uint64_t due = 0;     ///< To be visited in this pass.
    std::uint64_t pending = 0; ///< To be visited in the next pass, unless written before.
    space* owner = nullptr;
};
using rmap_table = chunk_table<rmap_item, 64, rmap_header>;
using rmap_chunk = rmap_table::chunk_type;
using item_directory = rmap_table::directory_type;

using active_list = boost::intrusive::list<rmap_chunk, boost::intrusive::base_hook<list_hook>,
                                           boost::intrusive::constant_time_size<false>>;

struct space : list_hook {
    space(space_id name, metadata_memory& memory, item_directory& directory) noexcept
        : id(name), table(memory, directory) {}

    space_id id;
    rmap_table table;
    active_list active;              ///< In address order, unless `unsorted`.
    std::uint64_t items = 0;         ///< Slots in use.
    std::uint64_t merging_pages = 0; ///< Items that hang on a stable node.
    std::uint64_t zero_pages = 0;
    std::uint64_t chunks = 0;
    bool unsorted = false;
    bool known = false; ///< Every page was surveyed, and none was left out since.
};

} // namespace detail
KSM_NAMESPACE_END

#endif
