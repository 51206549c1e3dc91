// The source that is one memory file, byte for byte: a regular file on any file system, or a block device.
#pragma once

#include <kj/io.h>

#include <atomic>

#include "shard/source/hole_map.h"
#include "shard/source/page_source.h"

namespace faultline::shard {

// Accesses that never wait, by the kind of file:
//   file system                         one page                            in place
//   tells by RWF_NOWAIT (ext4, xfs,     a read with RWF_NOWAIT              mincore, then the mapping
//     btrfs, block devices)
//   in memory (tmpfs, hugetlbfs)        mincore, then a read                mincore, then the mapping
//   others (FUSE, overlayfs, squashfs,  mincore, then a copy out of the     no: mapped pages can vanish behind
//     erofs, NFS)                         mapping: a read may ask a server    our back at any time
//   cannot be mapped                    no: each page is cold               no
//
// mincore() says of a file that is neither ours nor writable for us that all of it is there, and a shard has
// no capability by which each file would be its own. For such files only reads with RWF_NOWAIT are believed:
// a view is tried by one. Without RWF_NOWAIT each page is cold.
class RawFile final : public PageSource {
 public:
  // layer: its holes show another file, so nothing may be done that makes data of them. fetched: what is a hole is not
  // there yet, and says nothing.
  enum class Role { whole, layer, fetched };

  // Maps `bytes` bytes of the file, if it can be mapped; serves it by reads otherwise. Does not wait.
  RawFile(kj::AutoCloseFd file, std::uint64_t bytes, Role role = Role::whole);
  ~RawFile() noexcept(false) override;

  Staged tryRead(std::uint64_t offset, std::size_t length, void* buffer) const override;
  Staged tryView(std::uint64_t offset, std::size_t length) const override;
  const void* view(std::uint64_t offset) const override { return mapping_ + offset; }
  void release(std::uint64_t offset, std::size_t length) const override;
  bool zeroForGood(std::uint64_t offset, std::size_t length) const override {
    return holes_.covers(offset, length);
  }
  std::optional<FileRange> plainRead(std::uint64_t offset, std::size_t length) const override;
  Staged read(std::uint64_t offset, std::size_t length, void* buffer) const override;
  Staged readInPlace(std::uint64_t offset, std::size_t length) const override;

 private:
  // Whether the kernel reads this file without waiting where it is asked to. Learned at the first read.
  enum class Nowait : std::uint8_t { unknown, yes, no };

  // preadv2(2) with RWF_NOWAIT; -EOPNOTSUPP where this file has none.
  ssize_t readNow(std::uint64_t offset, std::size_t length, void* buffer) const;
  Staged readResident(std::uint64_t offset, std::size_t length, void* buffer) const;
  bool isHole(std::uint64_t offset, std::size_t length) const;
  void lookForHoles(std::uint64_t offset, std::size_t length) const;
  bool usableInPlace() const;
  bool resident(std::uint64_t offset, std::size_t length) const;
  bool readable(std::uint64_t offset, std::size_t length) const;
  bool mapIfResident(std::uint64_t offset, std::size_t length) const;

  kj::AutoCloseFd file_;
  char* reserved_ = nullptr;  // the mapping was cut out of this: bytes() + PIECE
  char* mapping_ = nullptr;   // aligned to PIECE, as file offset 0 is; null: cannot be mapped
  bool residencyTold_ = false;
  const bool inMemory_;
  const bool holesAreZero_;
  mutable std::atomic<Nowait> nowait_{Nowait::unknown};
  mutable HoleMap holes_;
};

}  // namespace faultline::shard
