// A service's answers, made up: every figure of it has a value of its own.
#pragma once

#include <capnp/message.h>

#include <vector>

#include "cli/metrics_text.h"
#include "shmtracker/counters.h"

namespace faultline::test {

class Figures {
 public:
  // `name`: of the one restore.
  explicit Figures(const char* name = "vm1") {
    auto service = service_.initRoot<rpc::ServiceInfo>();
    service.setVersion("0.1.0");
    service.initTotals().setTakeovers(2);
    service.getTotals().setPagesLost(9);
    service.setTakeoverNs(12'000'000);
    auto engine = service.initFetcher().initEngines(1)[0];
    engine.setName("packed");
    engine.setBytes(65536);
    auto info = info_.initRoot<rpc::RestoreInfo>();
    info.setName(name);
    info.setSourceName("/snapshots/vm1.mem");
    info.setId(7);
    info.setPages(100);
    info.setMissing(60);
    info.setFaulted(30);
    info.setRemoved(10);
    info.setPrefaulting(true);
    info.setSegmentBytes(450'000);
    info.setAgeNs(2'000'000'000);
    auto stats = stats_.initRoot<rpc::RestoreStats>();
    stats.setFaults(41);
    stats.setRemoves(5);
    stats.setRemovedPages(10);
    stats.setFirstPageNs(3'000'000);
    shards(1)[0].setCopied(25);
    fill(this->stats().getShards()[0].initEventToDone(), {1000});
    auto shard = this->service().getShards()[0];
    shard.setRestarts(2);
    shard.setRecoveryNs(1'500'000);
    shard.setRestores(1);
  }

  // Gives service and restore so many shards.
  capnp::List<rpc::ShardStats>::Builder shards(unsigned count) {
    auto infos = service().initShards(count);
    auto list = stats().initShards(count);
    for (unsigned i = 0; i < count; i++) {
      infos[i].setIndex(i);
      infos[i].setAlive(true);
      list[i].setShard(i);
      list[i].setExtents(1);
    }
    return list;
  }

  rpc::ServiceInfo::Builder service() { return service_.getRoot<rpc::ServiceInfo>(); }
  rpc::RestoreStats::Builder stats() { return stats_.getRoot<rpc::RestoreStats>(); }

  std::string text(cli::Detail detail = cli::Detail::restores) {
    return cli::metricsText({service().asReader(), {restore()}, {ended()}}, detail);
  }
  // Figures of that restore once it is over.
  rpc::EndedRestore::Reader ended() {
    auto over = ended_.initRoot<rpc::EndedRestore>();
    over.setInfo(restore().info);
    over.setStats(restore().stats);
    over.setReason(rpc::EndReason::COMPLETED);
    over.setEndedUnixNs(1'700'000'000'000'000'000);
    return over.asReader();
  }
  cli::RestoreFigures restore() { return {info_.getRoot<rpc::RestoreInfo>().asReader(), stats().asReader()}; }

  // Fills a Latency as the server does.
  static void fill(rpc::Latency::Builder to, const std::vector<std::uint64_t>& ns) {
    auto buckets = to.initBuckets(shm::Histogram::BUCKETS);
    std::uint64_t sum = 0;
    for (const std::uint64_t sample : ns) {
      const auto bucket = static_cast<unsigned>(shm::Histogram::bucketOf(sample));
      buckets.set(bucket, buckets[bucket] + 1);
      sum += sample;
    }
    to.setSamples(ns.size());
    to.setSum(sum);
  }

 private:
  capnp::MallocMessageBuilder service_, info_, stats_, ended_;
};

}  // namespace faultline::test
