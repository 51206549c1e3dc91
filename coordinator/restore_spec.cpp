#include "coordinator/restore_spec.h"

#include <kj/debug.h>

#include <algorithm>
#include <ctime>
#include <memory>
#include <optional>
#include <thread>

#include "coordinator/own_thread.h"
#include "coordinator/shard_handle.h"
#include "process/clock.h"
#include "process/content_size.h"
#include "rpc/refusal.h"

namespace faultline::coordinator {

namespace {

std::uint64_t newId() {
  static std::uint64_t last = 0;
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  // Unique over the service's life, over all coordinators: a live shard may still know an old restore.
  last = std::max(last + 1, static_cast<std::uint64_t>(now.tv_sec) * 1'000'000 +
                                static_cast<std::uint64_t>(now.tv_nsec) / 1000);
  return last;
}

std::uint64_t sizeOf(int source, const std::string& name) {
  const auto bytes = process::contentBytes(source);
  if (!bytes.has_value())
    rpc::refuse(
        rpc::Reason::BAD_SOURCE,
        "the source is no regular file and no block device: give the snapshot's memory file: " + name);
  if (*bytes == 0)
    rpc::refuse(rpc::Reason::BAD_SOURCE, "the source is empty: give the snapshot's memory file: " + name);
  return *bytes;
}

}  // namespace

void RestoreSpec::requireServable(int source) const {
  if (auto why = shm::whyNotServable(regions, sizeOf(source, nameOf(layerNames))))
    rpc::refuse(rpc::Reason::BAD_TARGET, *why);
}

kj::Promise<shm::Segment> RestoreSpec::createSegment(const Options& options, int source) const {
  shm::SegmentSpec spec;
  spec.restoreId = newId();
  spec.name = name;
  spec.sourceName = nameOf(layerNames);
  spec.regions = regions;
  spec.sourceBytes = sizeOf(source, spec.sourceName);
  spec.uffdFeatures = uffdFeatures;
  spec.workersPerShard = shm::slotsFor(threadsOf(options));
  spec.shards = options.shards;
  // More than can run at once answer no fault sooner, and each batch would wake them all.
  spec.owners = options.owners != 0 ? options.owners : std::thread::hardware_concurrency();
  spec.targetPid = targetPid;
  spec.policy = policy.flags;
  requireServable(source);
  auto made = std::make_shared<std::optional<shm::Segment>>();
  auto making = inOwnThread("what a restore needs cannot be made",
                            [spec = std::move(spec), made] { made->emplace(shm::Segment::create(spec)); });
  return making.then([made, all = policy.flags.prefault != 0, watched = watchSocket] {
    shm::Header& header = (*made)->header();
    header.prefaultAll.store(all ? shm::YES : 0);
    header.watchSocket.store(watched ? 1 : 0);
    header.incarnation.store(1);
    header.attachedAt.store(process::nowNs());
    return std::move(**made);
  });
}

}  // namespace faultline::coordinator
