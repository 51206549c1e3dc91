// The source of a snapshot's bytes, as the rest of a shard sees it.
//
// The fault thread serves every restore of its shard, so it may wait for none of their sources. The interface
// is therefore cut by the thread that waits: the calls that never wait, and those that wait as long as the
// store does and are made by the source's own reader threads (readers.h). ColdReader turns the second kind
// into one that completes later. A new kind of source implements this class; neither FaultLoop nor Prefaulter
// knows which it has.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace faultline::shard {

class Readers;

// Bytes of the source on their way to a page.
struct Staged {
  enum class Kind {
    bytes,  // at `data`, resident
    zero,   // all zero: there is nothing to copy
    cold,   // not to be had without waiting
    lost,   // cannot be read: `error` (errno; 0 means that the source ends before it)
  };
  Kind kind = Kind::zero;
  const void* data = nullptr;
  int error = 0;
};

// Classifies the `length` bytes at `data`: bytes, or zero; lost where they are in a mapping whose file has
// been cut.
Staged stagedAt(const void* data, std::size_t length);

// Bytes that one plain read of a file gives.
struct FileRange {
  int file;
  std::uint64_t offset;
};

// Constant after construction but for what it learns; any thread. Offsets and lengths are in bytes, multiples
// of 4096, and lie within bytes(). Owned by shared_ptr: a thread that waits for it may outlive its restore.
class PageSource : public std::enable_shared_from_this<PageSource> {
 public:
  // In bytes. WINDOW: the small pages of the page cache that one page fault maps (mm/memory.c,
  // fault_around_pages). PIECE: the most that it maps where they are large (one entry, or since Linux 6.18
  // all of a large page). Bytes that are used in place have the source's alignment to both.
  static constexpr std::uint64_t WINDOW = 64u << 10, PIECE = 2u << 20;

  virtual ~PageSource() noexcept(false);  // KJ's fds may throw
  PageSource(const PageSource&) = delete;

  std::uint64_t bytes() const { return bytes_; }

  // --- Never waits: for the fault thread and the copy workers. ---

  // The bytes, in `buffer` or elsewhere until the next call with that buffer. `cold` where they would have to
  // be waited for, or where that cannot be told.
  virtual Staged tryRead(std::uint64_t offset, std::size_t length, void* buffer) const = 0;
  // The bytes where they are: a copy of them will not wait. The caller gives them back by release(); of a
  // window, all of its piece.
  virtual Staged tryView(std::uint64_t offset, std::size_t length) const = 0;
  // The address at which tryView() has found the bytes of a range that contains `offset`, until they are
  // released.
  virtual const void* view(std::uint64_t offset) const = 0;
  // Gives views back, so that what this process has mapped stays bounded. Ranges without a view are left
  // alone.
  virtual void release(std::uint64_t offset, std::size_t length) const = 0;
  // True where the range is known to be zero for as long as the source is served: not a hole that another
  // layer or a fetch may fill. False where that is not known yet.
  virtual bool zeroForGood(std::uint64_t offset, std::size_t length) const = 0;
  // The range of a file whose plain read gives the bytes, so that the kernel can do it without a thread of
  // ours (io_uring). Empty: only read() gives them.
  virtual std::optional<FileRange> plainRead(std::uint64_t offset, std::size_t length) const = 0;
  // The source that the range is to be read from: this one, or one that it is made of and that has all of the range.
  // Each has threads of its own.
  virtual const PageSource& readFrom(std::uint64_t, std::size_t) const { return *this; }
  // A reader thread is about to be woken for a read() of the range, which readFrom() has named this source for: what can be
  // asked of others without it is asked now.
  virtual void willRead(std::uint64_t, std::size_t) const {}
  // Why the range may be read with another's bytes, for people: a file that it comes from has changed. To be asked after
  // the read. Nothing: it may not, or this kind of source does not look.
  virtual std::optional<std::string> whatChanged(std::uint64_t, std::size_t) const { return std::nullopt; }
  // Runs that a population should have under way, so that a store that is far has something to do while what it gave is copied.
  virtual unsigned populatedAtOnce() const { return 1; }
  // The file that the byte comes from, as far as it is known, for messages. Empty: there is one alone.
  virtual std::string fileOf(std::uint64_t) const { return {}; }

  // --- Waits as long as the store does: for reader threads alone. ---

  // Reads the bytes into `buffer`. `cold`: nothing was read, but it is known now where from; ask readFrom() again.
  virtual Staged read(std::uint64_t offset, std::size_t length, void* buffer) const = 0;
  // Reads the bytes into `buffer`, for pages that no fault waits for: what faults wait for may go first. `cold`: nothing was
  // read, but it is known now where from; ask readFrom() again.
  virtual Staged readToPopulate(std::uint64_t offset, std::size_t length, void* buffer) const {
    return read(offset, length, buffer);
  }
  // Makes the bytes resident where they are, as tryView() finds them. `cold`: they cannot be used in place,
  // so read() is to be used.
  virtual Staged readInPlace(std::uint64_t offset, std::size_t length) const = 0;

  // The threads that may wait for this source.
  Readers& readers() const { return *readers_; }

 protected:
  explicit PageSource(std::uint64_t bytes);

 private:
  const std::uint64_t bytes_;
  const std::unique_ptr<Readers> readers_;
};

}  // namespace faultline::shard
