// The specification that a restore is begun with.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "coordinator/options.h"
#include "coordinator/restore_policy.h"
#include "shmtracker/segment.h"

namespace faultline::coordinator {

struct RestoreSpec {
  std::string name;
  std::string sourceName;
  std::vector<shm::Region> regions;
  std::uint64_t uffdFeatures = 0;
  std::uint32_t targetPid = 0;
  RestorePolicy policy;
  bool watchSocket = false;  // the target is gone when the handshake's connection closes

  // Refuses what the source cannot serve, whatever the userfaultfd is. `source`: fd.
  void requireServable(int source) const;
  // A segment for it, its gate closed, not yet ready. `source`: fd. Throws where the regions can't be served
  // from the source or there is no memory.
  shm::Segment createSegment(const Options& options, int source) const;
};

}  // namespace faultline::coordinator
