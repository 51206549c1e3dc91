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

// Every metric of the service, sorted by metric, each with its help and type.
std::string metricsText(rpc::ServiceInfo::Reader service, const std::vector<RestoreFigures>& restores);

// The text where no coordinator answers.
std::string metricsTextOfNobody();

}  // namespace faultline::cli
