#include "bench/breakdown.h"

#include <algorithm>
#include <stdexcept>

namespace faultline::bench {

namespace {

double mean(rpc::Latency::Reader latency) {
  return latency.getSamples() == 0
             ? 0
             : static_cast<double>(latency.getSum()) / static_cast<double>(latency.getSamples());
}

// Empty: more or fewer faults were read than pages were touched (one of them twice), so their wait is
// unknown.
std::vector<Part> measureParts(const Faultline& server, const BenchImage& image, const Workload& workload) {
  double closing = 0, closed = 0, served = 0, gate = 0, source = 0, copy = 0;
  std::uint64_t read = 0, readTimes = 0;
  const auto client = server.connect();
  const std::uint64_t before = newestRestore(*client);
  const Measured measured =
      run(workload, image, server.backing(), {.whileThere = [&] {
            auto response = client->wait(restoreAfter(*client, before).statsRequest().send());
            const auto stats = response.getStats();
            read = stats.getFaults();
            readTimes = stats.getReadTimes();
            closing = mean(stats.getDrain());
            closed = std::max(closing, mean(stats.getClosed()));
            double samples = 0;
            for (auto shard : stats.getShards()) {
              const auto weight = static_cast<double>(shard.getEventToDone().getSamples());
              samples += weight;
              served += weight * mean(shard.getEventToDone());
              gate += weight * mean(shard.getGateWait());
              source += weight * mean(shard.getStaging());
              copy += weight * mean(shard.getCopying());
            }
            for (double* sum : {&served, &gate, &source, &copy}) *sum /= std::max(samples, 1.0);
          }});
  if (read != measured.faults) return {};
  const double faults = static_cast<double>(std::max<std::uint64_t>(measured.faults, 1));
  const double whole = 1e9 * measured.seconds / faults;
  const double untilRead = static_cast<double>(readTimes - measured.touchTimes) / faults;
  return {{"kernel queue", untilRead - closing},
          {"coordinator", closed},
          // The coordinator has it from closing the gate to opening it: what passes before read() returns is
          // not in what the shard saw of it, the rest is.
          {"hand-over", std::max(0.0, served - (closed - closing) - gate - source - copy)},
          {"wait for the gate", gate},
          {"source", source},
          {"copy", copy},
          {"wake", whole - untilRead - served}};
}

}  // namespace

std::vector<Part> breakDown(const Faultline& server, const BenchImage& image, const Workload& workload) {
  for (unsigned tries = 0; tries < 5; tries++)
    if (auto parts = measureParts(server, image, workload); !parts.empty()) return parts;
  throw std::runtime_error("faults were read that are no touches of the target: no breakdown");
}

}  // namespace faultline::bench
