#include "bench/aim_table.h"

#include <fmt/format.h>

namespace faultline::bench {

AimTable::AimTable(const AimOptions& options)
    : options_(options),
      image_(makeImage(options.directory + "/image", options.quick ? 512 * MIB : GIB, 64 * MIB)) {}

void AimTable::add(Verdict verdict) {
  print(verdict);
  verdicts_.push_back(std::move(verdict));
}

void AimTable::leaveOut(const std::string& what, const std::string& why) {
  fmt::print(stderr, "left out: {}: {}\n", what, why);
}

Workload AimTable::demand(Placement placement, unsigned threads) const {
  return {.bytes = (options_.quick ? 64 : 128) * MIB, .threads = threads, .placement = placement};
}

Measured AimTable::measure(const Workload& workload, const Backing& backing) const {
  makeWarm(image_, std::max(workload.bytes, workload.regionBytes));
  return run(workload, image_, backing);
}

double AimTable::p50(const Workload& workload, const Backing& backing) const {
  return micro(measure(workload, backing).latency.quantile(0.5));
}

double AimTable::perSecond(const Workload& workload, const Backing& backing) const {
  return measure(workload, backing).perSecond();
}

std::unique_ptr<Handler> AimTable::floorAt(Placement placement) const {
  return std::make_unique<PlainHandler>("floor", options_.directory, image_.path, placement);
}

std::unique_ptr<Handler> AimTable::around() const {
  return std::make_unique<PlainHandler>("around", options_.directory, image_.path, Placement::free);
}

std::unique_ptr<Faultline> AimTable::faultline(const FaultlineOptions& options) const {
  return std::make_unique<Faultline>(options_.directory, image_.path, options);
}

}  // namespace faultline::bench
