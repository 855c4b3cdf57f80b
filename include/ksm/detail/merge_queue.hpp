// SPDX-License-Identifier: BSL-1.0
// Short runs that were found equal to frames and wait until there are enough of them for one call
// of the provider. A run of a page costs a write window as a run of a hundred does.
#ifndef KSM_DETAIL_MERGE_QUEUE_HPP
#define KSM_DETAIL_MERGE_QUEUE_HPP

#include <array>
#include <cstddef>
#include <span>

#include <ksm/detail/attempts.hpp>
#include <ksm/detail/page_index.hpp>
#include <ksm/page_provider.hpp>

KSM_NAMESPACE_BEGIN
namespace detail {

/// The books are ahead of the pages meanwhile: those that wait hang on their nodes already, so that
/// no frame is released. It is empty whenever a public call of the scanner ends (I6).
template <class Provider>
class merge_queue {
  public:
    /// Longer runs gain little.
    static constexpr std::size_t longest_run = 32;

    merge_queue(page_index<Provider>& index, attempts<Provider>& outcomes) noexcept
        : index_(index), outcomes_(outcomes) {}

    /// \requires The pages equal the frames, which have nodes.
    void add(space& s, page_number first, std::size_t pages, frame_id frame) noexcept {
        if (size_ != 0 && owner_ != &s) {
            flush();
        }
        owner_ = &s;
        runs_[size_++] = {first, page_count{pages}, frame, {}};
        pages_ += pages;
        for (std::size_t i = 0; i < pages; ++i) {
            rmap_item& item = *index_.find(s, first + page_count{i});
            outcomes_.take(item);
            index_.detach(item);
            index_.hang(item, *index_.node_of(frame + page_count{i}));
        }
        if (size_ == runs_.size() || pages_ >= most_pages) {
            flush();
        }
    }

    /// Merges what waits. A page that has changed is visited again, in the next pass.
    void flush() noexcept {
        std::span const runs = std::span{runs_}.first(size_);
        if (runs.empty()) {
            return;
        }
        index_.provider.merge_batch(owner_->id, runs);
        for (merge_request const& r : runs) {
            index_.count(r.result.why, r.result.done.value());
            status why = r.result.why;
            for (page_count i = r.result.done; i < r.pages; i += page_count{1}) {
                outcomes_.give_up(*index_.find(*owner_, r.first + i), why);
                why = status::ok;
            }
        }
        size_ = 0;
        pages_ = 0;
    }

  private:
    static constexpr std::size_t most_runs = 64;
    static constexpr std::size_t most_pages = 128;

    page_index<Provider>& index_;
    attempts<Provider>& outcomes_;
    std::array<merge_request, most_runs> runs_;
    std::size_t size_ = 0;
    std::size_t pages_ = 0;
    space* owner_ = nullptr;
};

} // namespace detail
KSM_NAMESPACE_END

#endif
