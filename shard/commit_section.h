// A commit section: look at the state of a page, one ioctl, store the state, all under the read side of the
// restore's lock. Nothing else puts pages into a target. What a section decided is void once it is left: the
// next one looks again (docs/protocol.md).
#pragma once

#include <cstdint>
#include <optional>

#include "failpoints/failpoints.h"
#include "shard/attachment.h"

namespace faultline::shard {

// How the pages of a run are to be populated where the tracker says `missing`.
struct Content {
  enum class Kind { bytes, zero, poison } kind;
  const void* data = nullptr;
};

// Holds the lock while it lives, if it was entered. For one thread.
class Section {
 public:
  // Waits a moment where the gate is closed. `first`: the page that it is about, or begins with; `at`: where that
  // is. Borrows all. Throws shm::SegmentError where the lock is damaged.
  Section(Attachment& restore, unsigned worker, shm::PageIndex first, const shm::PageLocation& at,
          failpoints::Failpoints& failpoints);

  // False: the restore has failed, and others answer its faults.
  bool servable() const { return restore_.segment().servable(); }
  // False: the gate stays closed, and nothing but servable() is to be called.
  bool entered() const { return guard_.has_value(); }
  // The state of `first`.
  shm::PageState state() const;
  // How many of the `most` pages from `first` on are in its state.
  std::uint64_t alike(std::uint64_t most) const { return pages().runLength(first_, most); }
  // Populates `bytes` of one region, from `first` on: one ioctl.
  uffd::Result copy(std::uint64_t bytes, Content content, uffd::Waiters waiters);
  // Stores that `populated` pages are there, from `first` on; `gone`: that `first` is registered no more.
  void store(std::uint64_t populated, bool gone);

 private:
  void enter();
  shm::PageTable& pages() const { return restore_.segment().pages(); }

  Attachment& restore_;
  const unsigned worker_;
  const shm::PageIndex first_;
  const shm::PageLocation& at_;
  failpoints::Failpoints& failpoints_;
  std::optional<shm::PageState> stale_;  // of a deliberate mistake
  std::optional<shm::SharedGuard> guard_;
};

}  // namespace faultline::shard
