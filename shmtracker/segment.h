// The segment of one restore: creation, attachment, validation, and views of its parts.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "shmtracker/extents.h"
#include "shmtracker/journal.h"
#include "shmtracker/layout.h"
#include "shmtracker/page_table.h"
#include "shmtracker/pages.h"
#include "shmtracker/region_table.h"
#include "shmtracker/rwlock.h"

namespace faultline::shm {

// The facts that are fixed when a restore begins.
struct SegmentSpec {
  std::uint64_t restoreId = 0;
  std::string name;        // name of the restore; at most 63 bytes
  std::string sourceName;  // for messages; cut at 255 bytes
  std::vector<Region> regions;
  std::uint64_t sourceBytes = 0;
  std::uint64_t uffdFeatures = 0;
  std::uint32_t workersPerShard = 1;  // 1 .. MAX_WORKERS
  std::uint32_t shards = 1;           // 1 .. MAX_SHARDS
  std::uint32_t owners = 0;           // shards that the extents are dealt out to; 0: all of them
  std::uint32_t targetPid = 0;
  Policy policy{};
};

// A mapped segment. The object may move between threads; the views it hands out follow the rules of their own
// headers and must not outlive it. The memory is never unmapped while a thread may hold a slot: a kernel that
// cleans up after a dying thread writes to the mutex words.
class Segment {
 public:
  // Makes a memfd of the right size, sealed against growing and shrinking, has its memory there, locks it as far as the
  // pages' states, which are locked as they are touched, or by lockSome(), and fills it in. The gate is closed, every page
  // missing, the state `initialising`. Throws SegmentError where the regions cannot be served, or there is no memory, or
  // none to lock (naming RLIMIT_MEMLOCK and what is needed, in bytes).
  static Segment create(const SegmentSpec& spec);

  // Maps an existing segment. Checks everything that cannot change: size, seals, magic, version, layout, CRC,
  // regions. Throws SegmentError naming what was found and what was expected; std::bad_alloc where this process has no
  // memory to map it, which says nothing of the segment. `fd` is borrowed.
  static Segment attach(int fd);
  // Locks the next part in memory, some 100 us: of an attached segment all must be, before this process reads into the
  // journal. False: there is more to lock. Throws SegmentError as create() does.
  [[nodiscard]] bool lockSome();

  Segment(Segment&&) noexcept;
  Segment& operator=(Segment&&) noexcept;
  ~Segment();

  int fd() const { return fd_; }  // borrowed; valid as long as the segment
  // The facts as checked when the segment was mapped: a private copy, so nothing that happens to the shared
  // bytes later can lead a lookup astray.
  const Immutable& facts() const { return facts_; }
  Header& header() { return *header_; }
  const Header& header() const { return *header_; }
  std::string name() const;
  std::string sourceName() const;
  std::size_t bytes() const { return layout_.end; }

  RwLock& lock() { return *lock_; }
  Journal journal() const { return *journal_; }
  PageTable& pages() { return *pages_; }
  const PageTable& pages() const { return *pages_; }
  // pages().counts(range), but states that have not been written since the segment was made are not read: the kernel
  // clears and maps memory at its first touch, 6 MiB of it for 64 GiB.
  PageCounts counts(PageRange range) const;
  const RegionTable& regions() const { return *regions_; }
  Extents& extents() { return *extents_; }
  Slot& slot(unsigned index) { return slots_[index]; }
  RestoreCounters& counters() { return *counters_; }
  ShardCounters& shardCounters(std::uint32_t shard) { return shardCounters_[shard]; }

  // False once the restore has failed: no commit section may rely on the page table any more.
  bool servable() const { return header_->state.load(std::memory_order_relaxed) == SegmentState::ready; }

  // Under the write side only, or before another process sees the segment.
  void setActiveShards(std::uint32_t shards);
  // False where the number of active shards is not the one last set.
  bool activeShardsSound() const;
  // Shards that have slots now, always 1 .. MAX_SHARDS whatever the memory holds.
  std::uint32_t activeShards() const;
  // The first slot of a shard; it has facts().workersPerShard of them.
  unsigned firstSlot(std::uint32_t shard) const { return shard * facts().workersPerShard; }
  // The slots that a drain visits: every slot there is where the number of shards is not the one last set.
  unsigned activeSlots() const { return firstSlot(activeShardsSound() ? activeShards() : MAX_SHARDS); }
  Extents::Shares shares() const { return extents_->shares(activeShards()); }
  std::uint32_t ownerOf(PageIndex page) const {
    return extents_->owner(regions_->extentOf(page), activeShards());
  }

 private:
  struct Mapping;
  explicit Segment(int fd, std::unique_ptr<Mapping> mapping, const Layout& layout, const Immutable& facts);
  PageRange nextWritten(PageRange range) const;

  int fd_ = -1;
  std::unique_ptr<Mapping> mapping_;
  std::size_t locked_ = 0;  // bytes
  Layout layout_{};
  Immutable facts_{};
  std::vector<RegionEntry> entries_;
  Header* header_ = nullptr;
  std::span<Slot> slots_;
  RestoreCounters* counters_ = nullptr;
  ShardCounters* shardCounters_ = nullptr;
  std::unique_ptr<RwLock> lock_;
  std::unique_ptr<Journal> journal_;
  std::unique_ptr<PageTable> pages_;
  std::unique_ptr<RegionTable> regions_;
  std::unique_ptr<Extents> extents_;
};

}  // namespace faultline::shm
