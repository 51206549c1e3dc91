// The specification that a restore is begun with.
#pragma once

#include <kj/async.h>

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/options.h"
#include "coordinator/restore_policy.h"
#include "coordinator/source_files.h"
#include "shmtracker/segment.h"

namespace faultline::coordinator {

struct RestoreSpec {
  std::string name;
  std::vector<std::string> layerNames;  // layers of the source, the top one first
  std::vector<shm::Region> regions;
  std::uint64_t uffdFeatures = 0;
  std::uint32_t targetPid = 0;
  RestorePolicy policy;
  bool watchSocket = false;  // the target is gone when the handshake's connection closes

  // Refuses what the source cannot serve, whatever the userfaultfd is. `source`: fd of any of its files.
  void requireServable(int source) const;
  // A segment for it, its gate closed, not yet ready. `source`: fd of any of its files. Fails where the regions can't be served from
  // the source or there is no memory. Made in a thread of its own: that of terabytes takes seconds to lock in memory.
  kj::Promise<shm::Segment> createSegment(const Options& options, int source) const;
};

// A name among those that no other restore may get while this lives.
class ReservedName {
 public:
  // `among` must outlive this, and not have it yet.
  ReservedName(std::set<std::string>& among, std::string name) : among_(among), name_(std::move(name)) {
    among_.insert(name_);
  }
  ~ReservedName() { among_.erase(name_); }
  ReservedName(const ReservedName&) = delete;

 private:
  std::set<std::string>& among_;
  const std::string name_;
};

// A restore that can be begun.
struct PreparedRestore {
  RestoreSpec spec;
  shm::Segment segment;
  std::unique_ptr<ReservedName> name;
};

}  // namespace faultline::coordinator
