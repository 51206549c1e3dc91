// The figures of a service in Prometheus's text format (version 0.0.4). docs/metrics.md explains each.
#pragma once

#include <string>
#include <vector>

#include "rpc/control.capnp.h"

namespace faultline::cli {

struct RestoreFigures {
  rpc::RestoreInfo::Reader info;
  rpc::RestoreStats::Reader stats;
};

// The answers of a service.
struct ServiceFigures {
  rpc::ServiceInfo::Reader service;
  std::vector<RestoreFigures> restores;          // that are served
  std::vector<rpc::EndedRestore::Reader> ended;  // that are over
};

// How finely the work on each restore is told.
//   restores: one sample a restore, for all of its shards together. Durations that are parts of a fault's have
//     their sum and number alone. A restore has less than 90 samples, however many shards there are.
//   shards: one for each shard that owns or owned a part of the restore, and each histogram whole.
enum class Detail { restores, shards };

// Every metric of the service, sorted by metric, each with its help and type.
std::string metricsText(const ServiceFigures& figures, Detail detail);

// The text where no coordinator answers.
std::string metricsTextOfNobody();

}  // namespace faultline::cli
