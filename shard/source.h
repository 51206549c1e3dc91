// Where a snapshot's bytes come from: a raw memory file.
//
// Demand faults of 4 KiB pages read through the page cache into a resident buffer, which also says whether
// the page would have to wait for the disk; where faults are dense, long runs and 2 MiB pages are used in
// place, in a shared mapping whose pages are made resident first. Either way the bytes are in memory before a
// commit section begins.
#pragma once

#include <kj/io.h>

#include <cstddef>
#include <cstdint>

namespace faultline::shard {

// Bytes of the source on their way to a page.
struct Staged {
  enum class Kind {
    bytes,  // at `data`, resident
    zero,   // all zero, or a hole: there is nothing to copy
    cold,   // would have to wait for the disk
    lost,   // cannot be read: `error` (errno; 0 means that the file ended before it)
  };
  Kind kind = Kind::zero;
  const void* data = nullptr;
  int error = 0;
};

// Constant after construction; any thread. Offsets and lengths in bytes, multiples of 4096.
class Source {
 public:
  // Bytes. What one page fault maps of small pages of the page cache (mm/memory.c, fault_around_pages), and
  // the most that it maps where they are large (one entry, or since Linux 6.18 all of a large page). The
  // mapping is aligned to both.
  static constexpr std::uint64_t WINDOW = 64u << 10, PIECE = 2u << 20;

  // Maps `bytes` bytes of the file. Throws kj::Exception where that fails.
  Source(kj::AutoCloseFd file, std::uint64_t bytes);
  ~Source();
  Source(const Source&) = delete;

  // Reads into `buffer` what the page cache has, without waiting for the disk.
  Staged stageCached(std::uint64_t offset, std::size_t length, void* buffer) const;
  // The same, but waits for the disk: where nothing else can.
  Staged stageWaiting(std::uint64_t offset, std::size_t length, void* buffer) const;
  // Finds the bytes in the mapping if the page cache has all of them, without waiting for the disk. The
  // caller gives them back with release().
  Staged stageMapped(std::uint64_t offset, std::size_t length) const;
  // Maps the range if the page cache has all of it, without waiting for the disk. False: it has not, or the
  // kernel does not tell us. The caller gives it back with release(); of a window, all of its piece.
  bool mapIfCached(std::uint64_t offset, std::size_t length) const;
  // Uses the bytes where they are mapped; waits for the disk where they are not.
  Staged stageInPlace(std::uint64_t offset, std::size_t length) const;
  // The same, but waits for the disk: for background work.
  Staged stageMappedWaiting(std::uint64_t offset, std::size_t length) const;
  // Drops the mapping's page table entries, so that what this process holds stays bounded.
  void release(std::uint64_t offset, std::size_t length) const;

  // True where the range is a hole of the file.
  bool isHole(std::uint64_t offset, std::size_t length) const;
  std::uint64_t bytes() const { return bytes_; }
  int fd() const { return file_.get(); }

 private:
  Staged populate(std::uint64_t offset, std::size_t length) const;
  static bool cached(const char* start, std::size_t length);

  kj::AutoCloseFd file_;
  const std::uint64_t bytes_;
  char* mapping_ = nullptr;   // aligned to PIECE, as file offset 0 is
  char* reserved_ = nullptr;  // what it was cut out of: bytes_ + PIECE
  const bool residencyKnown_;
};

// A resident, page-aligned buffer.
class StagingBuffer {
 public:
  explicit StagingBuffer(std::size_t bytes);
  ~StagingBuffer();
  StagingBuffer(StagingBuffer&& other) noexcept;
  StagingBuffer& operator=(StagingBuffer&&) = delete;

  char* data() { return data_; }
  std::size_t size() const { return size_; }

 private:
  char* data_;
  std::size_t size_;
};

}  // namespace faultline::shard
