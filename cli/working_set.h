// A recorded working set, as it lies in a file: which parts of a snapshot a target touched first, in that
// order. docs/working-set.md describes the format. Depends on nothing of ours.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace faultline::cli {

// A part of the snapshot's memory file, in bytes. By the file and not by address: where a target's memory
// lies differs from one restore to the next.
struct SourceRange {
  std::uint64_t offset = 0;
  std::uint64_t size = 0;

  std::uint64_t end() const { return offset + size; }
  bool operator==(const SourceRange&) const = default;
};

// The identity of a snapshot (cli/snapshot_identity.h).
struct SnapshotIdentity {
  std::uint64_t bytes = 0;
  std::uint64_t fingerprint = 0;

  bool operator==(const SnapshotIdentity&) const = default;
};

struct WorkingSet {
  std::uint64_t pageSize = 4096;  // the smallest of the target's regions
  SnapshotIdentity snapshot;
  std::uint64_t lost = 0;           // first touches that the recording had no room for, pages
  std::vector<SourceRange> ranges;  // in the order of the first touch; none twice

  std::uint64_t bytes() const;
  bool operator==(const WorkingSet&) const = default;
};

inline constexpr std::uint64_t MAX_WORKING_SET_RANGES = 1u << 20;
// Size of a file with so many ranges.
inline constexpr std::uint64_t MAX_WORKING_SET_BYTES = 48 + 16 * MAX_WORKING_SET_RANGES + 4;

// The message says what is wrong with the bytes, without the file's name: the caller knows it.
struct WorkingSetError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Throws WorkingSetError unless every byte makes sense: magic, version, length, checksum, page size, and
// ranges that are whole pages inside the snapshot and do not overlap. Any bytes may come; allocates no more
// than they are long. Any thread.
WorkingSet parseWorkingSet(std::span<const std::byte> bytes);

// The bytes that parseWorkingSet() reads back. Throws WorkingSetError where it would not accept `set`.
std::vector<std::byte> formatWorkingSet(const WorkingSet& set);

}  // namespace faultline::cli
