// The parts of a target's memory that may be registered no more: they are zero for good, since the source has nothing there or
// the target has given them up, and the kernel alone gives the same.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "coordinator/mappings.h"
#include "coordinator/source_files.h"
#include "image/large_holes.h"
#include "shmtracker/layout.h"
#include "shmtracker/pages.h"

namespace faultline::coordinator {

// Smaller ranges stay registered: each one that does not splits a mapping of the target, and a removal over both sides of
// its border becomes two events.
inline constexpr std::uint64_t LEAST_RELEASED = 2u << 20;  // bytes
// The limit for one restore. Every range splits a mapping of the target, of which a process may have vm.max_map_count.
inline constexpr std::uint64_t MOST_RELEASED = 2000;  // ranges

// Adjacent pages of one region.
struct ReleasableRange {
  std::uint64_t address, size;  // in the target, bytes
  shm::PageRange pages;

  bool operator==(const ReleasableRange&) const = default;
};

// How many ranges may be released: half of the mappings that a process with `mappings` of them can have on top in half of
// what the kernel allows, since each takes two; and MOST_RELEASED with those `before`.
std::uint64_t mostReleased(std::uint64_t mappings, std::uint64_t mostMappings, std::uint64_t before);

// The parts of `zero` that lie in private anonymous mappings in pages of 4 KiB; the largest first, none below LEAST_RELEASED.
// Pages of 2 MiB are left out: the kernel kills who touches one and there is none left, and we wait. Mappings of a file are left
// out: who else has them is not known.
std::vector<ReleasableRange> releasableIn(std::span<const shm::PageRange> zero,
                                          std::span<const shm::RegionEntry> regions,
                                          std::span<const Mapping> mappings);

// The whole pages of 4 KiB that come from these ranges of the source, region by region.
std::vector<shm::PageRange> pagesOf(std::span<const image::ByteRange> source,
                                    std::span<const shm::RegionEntry> regions);

// A layer of a source, to be looked at in another thread.
struct LayerToLookAt {
  kj::AutoCloseFd file;        // -1: it is fetched
  process::FileIdentity was;   // identity of `file`, when the restore began
  kj::AutoCloseFd cacheMap{};  // map of one that is fetched (rpc/fetch_map.h)
};
// With duplicates of its fds, the top layer first. `were`: as layersOf() has it. Throws kj::Exception where no fd can be had.
std::vector<LayerToLookAt> layersToLookAt(const SourceFiles& files, const std::vector<SourceLayer>& were);

// The parts of a source of so many bytes that are zero for good, in order, none below LEAST_RELEASED: holes of the lowest
// layer over which no other layer has anything. A cache's holes say nothing: there its map does. Empty where a file is
// not what it was. Waits for the file systems: not for a loop. Throws where one fails. Any thread.
std::vector<image::ByteRange> zeroForGood(std::span<const LayerToLookAt> layers, std::uint64_t bytes);

struct ReleasableMemory {
  std::vector<ReleasableRange> ranges;  // the largest first
  std::uint64_t most = 0;               // number of them that may be released
};
// For the process behind the pidfd, of which `before` ranges have been released already. Empty where its mappings are
// not told. Waits for the target's mmap_lock and the file systems: not for a loop. Throws as zeroForGood(). Any thread.
ReleasableMemory releasableMemory(std::span<const LayerToLookAt> layers, std::uint64_t bytes,
                                  std::span<const shm::RegionEntry> regions, int pidfd, std::uint64_t before);
// Looks at pages that the target has given up, and that are marked so.
ReleasableMemory releasableMemory(std::span<const shm::PageRange> removed,
                                  std::span<const shm::RegionEntry> regions, int pidfd, std::uint64_t before);

}  // namespace faultline::coordinator
