// A recorded working set that a restore was given, from the words of the schema to pages in order; and the
// recording of one, back to the schema.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/source_files.h"
#include "coordinator/touch_recorder.h"
#include "rpc/control.capnp.h"
#include "shmtracker/pages.h"

namespace faultline::coordinator {

// In bytes of the source.
struct SourceRange {
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
  bool operator==(const SourceRange&) const = default;
};

// Ranges to populate before all others; may be none.
struct WorkingSet {
  std::uint64_t pageSize = 0;  // the smallest it was recorded with
  std::vector<SourceRange> ranges;
  bool operator==(const WorkingSet&) const = default;

  static constexpr std::uint64_t MAX_RANGES = 1u << 20;
};

// Throws, naming the value, where it has too many ranges, one past the end of `source` (the file's fd; -1: not known), or
// ranges that are more than that together.
WorkingSet workingSetFrom(rpc::WorkingSet::Reader reader, int source);

// Why `set` cannot be used for a restore with these regions; nothing where it can.
// `sourceBytes`: the source's size, which may not have been known when the set came.
std::optional<std::string> whyNotUsable(const WorkingSet& set, const std::vector<shm::Region>& regions,
                                        std::uint64_t sourceBytes);

// The pages that the set's ranges back, in its order. `regions`: sorted by address, as pages are numbered.
std::vector<shm::PageRange> pagesOf(const WorkingSet& set, const std::vector<shm::Region>& regions);

// The capability for a recording. Goes on answering when the restore has ended. `source` is duplicated.
rpc::RecordedWorkingSet::Client makeRecordedWorkingSet(std::shared_ptr<const TouchRecorder> recorder,
                                                       std::vector<shm::Region> regions,
                                                       const SourceFiles& source);

}  // namespace faultline::coordinator
