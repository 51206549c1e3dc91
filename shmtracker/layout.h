// The byte layout of a segment: the only description of the shared memory.
//
//   Header | Lock words | Journal | Slots | Counters | Regions | Extents | Page words | Page words, mirrored
//
// Offsets only, no pointers: every process maps the segment elsewhere. Sizes follow from the counts in the
// header, which never change after creation, so there is no allocator. Every part starts on a 4 KiB boundary.
#pragma once

#include <linux/userfaultfd.h>
#include <pthread.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

#include "shmtracker/counters.h"

namespace faultline::shm {

inline constexpr std::uint64_t MAGIC = 0x656e696c746c6166;  // "faltline"
inline constexpr std::uint32_t LAYOUT_VERSION = 3;
inline constexpr std::uint32_t MAX_SHARDS = 64;
inline constexpr std::uint32_t MAX_WORKERS = 16;  // slots a shard, per restore
// Slots that a shard with so many copy workers takes in every segment: one for each, and two for the fault thread, which
// works alone or among them.
constexpr std::uint32_t slotsFor(std::uint32_t copyWorkers) {
  return copyWorkers + 2;
}
inline constexpr std::uint32_t MAX_COPY_WORKERS = 14;
static_assert(slotsFor(MAX_COPY_WORKERS) == MAX_WORKERS);
inline constexpr std::uint32_t MAX_REGIONS = 4096;
inline constexpr std::uint64_t MAX_PAGES = 1ull << 34;  // 64 TiB of 4 KiB pages
// More messages than a host has vCPUs, so that one read() takes the faults and the events behind them:
// the kernel returns faults first (fs/userfaultfd.c, userfaultfd_ctx_read).
inline constexpr std::uint32_t JOURNAL_MESSAGES = 2048;
inline constexpr std::size_t CACHE_LINE = 128;  // two lines: the adjacent-line prefetcher pairs them

// How the restore is served; 0 or 1 each, but for `around`.
struct Policy {
  std::uint32_t prefault;          // populate everything in the background from the start
  std::uint32_t keepServing;       // go on after the last page is in place, until the target goes
  std::uint32_t killOnLost;        // a lost page kills the target; otherwise the page is poisoned
  std::uint32_t recordWorkingSet;  // note the first touches
  std::uint32_t around;            // bytes that come with a fault; 0: as the faults around it tell
  std::uint32_t keepRegistered;    // what is zero for good stays registered, and is served
  bool operator==(const Policy&) const = default;
};

// Facts of the creator that never change afterwards; covered by Header::immutableCrc.
struct Immutable {
  std::uint64_t magic;
  std::uint32_t version;
  std::uint32_t layoutHash;  // of the structs below and their members, see layoutHash()
  std::uint64_t segmentBytes;
  std::uint64_t restoreId;
  std::uint64_t pageCount;
  std::uint64_t sourceBytes;
  std::uint64_t uffdFeatures;  // negotiated by the target
  std::uint32_t regionCount;
  std::uint32_t extentCount;
  std::uint32_t workersPerShard;
  std::uint32_t regionsCrc;  // crc32c of the region table
  std::uint32_t targetPid;   // for people to read; no decision is ever taken on a pid
  Policy policy;
  char name[64];         // name of the restore; NUL-terminated
  char sourceName[256];  // name of the source, for messages; NUL-terminated
};

enum class SegmentState : std::uint32_t { initialising = 0, ready = 1, failed = 2 };

// A value of `paused` and `prefaultAll` that no single rotten byte makes out of 0.
inline constexpr std::uint32_t YES = 0x5945535e;

struct Header {
  Immutable immutable;
  std::uint32_t immutableCrc;  // crc32c of `immutable`
  std::atomic<SegmentState> state;
  std::atomic<std::uint32_t> activeShards;       // changes under the write side only
  std::atomic<std::uint32_t> activeShardsCheck;  // its complement
  std::atomic<std::uint64_t> incarnation;        // +1 for each coordinator that served the restore
  std::atomic<std::uint32_t> prefaultAll;        // YES: every page is to be populated in the background
  std::atomic<std::uint32_t> paused;             // YES: the uffd is not read
  std::atomic<std::uint32_t> watchSocket;        // 1: the target is gone when its handshake socket closes
  std::atomic<std::uint64_t> attachedAt;         // ns, CLOCK_MONOTONIC
  std::atomic<std::uint64_t> rangesReleased;     // that we have unregistered, or are about to; 0: none is
};

// The words of the lock; the slots are a part of their own. See rwlock.h.
struct LockWords {
  alignas(CACHE_LINE) std::atomic<std::uint32_t> gate;
  alignas(CACHE_LINE) std::atomic<std::uint64_t> epoch;  // +1 each time the gate opens
};

inline constexpr std::uint64_t NO_PAGE = ~0ull;

struct alignas(CACHE_LINE) Slot {
  pthread_mutex_t mutex;  // robust, process-shared
  // The first page of the section in flight, or of the last one; NO_PAGE: there was none. For diagnosis, and as a hint.
  std::atomic<std::uint64_t> inflightPage;
  std::atomic<std::uint32_t> inflightCount;  // 0: no section in flight
};

struct RegionEntry {
  std::uint64_t base, size, offset;  // bytes
  std::uint64_t firstPage;
  std::uint32_t firstExtent;
  std::uint32_t pageShift;    // 12 or 21
  std::uint32_t extentShift;  // pages in an extent, log2
  std::uint32_t reserved;
};

// 64 pages. faulted: was populated once. removed: the target gave it up once (never cleared). released:
// registered no more (never cleared). State of a page: released ? released : faulted ? faulted : removed ?
// removed : missing.
struct PageWord {
  std::atomic<std::uint64_t> faulted;
  std::atomic<std::uint64_t> removed;
  std::atomic<std::uint64_t> released;
};

using ExtentOwner = std::atomic<std::uint16_t>;

static_assert(sizeof(uffd_msg) == 32 && sizeof(PageWord) == 24);
static_assert(std::atomic<std::uint64_t>::is_always_lock_free &&
              std::atomic<std::uint32_t>::is_always_lock_free);

// Offsets in bytes from the start of the segment.
struct Layout {
  std::size_t lock, journal, slots, counters, regions, extents, pages, mirror, end;

  static Layout of(std::uint32_t regionCount, std::uint32_t extentCount, std::uint64_t pageCount,
                   std::uint32_t workersPerShard);
};

// What the hash is made of, a line for each fact: size and alignment of the structs above and of the counters; name,
// place and size of each of their members; the numbers that the parts' sizes follow from.
std::string layoutFacts();
// Differs where two builds disagree on any of these facts. Computed once.
std::uint32_t layoutHash();

// CRC-32C of `bytes` bytes at `data`.
std::uint32_t crc32c(const void* data, std::size_t bytes);

}  // namespace faultline::shm
