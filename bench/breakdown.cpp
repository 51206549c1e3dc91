#include "bench/breakdown.h"

#include <algorithm>

namespace faultline::bench {

namespace {

double mean(rpc::Latency::Reader latency) {
  return latency.getSamples() == 0
             ? 0
             : static_cast<double>(latency.getSum()) / static_cast<double>(latency.getSamples());
}

}  // namespace

std::vector<Part> breakDown(const Faultline& server, const BenchImage& image, const Workload& workload) {
  std::vector<Part> parts;
  double closing = 0, served = 0;
  const auto client = server.connect();
  const std::uint64_t before = newestRestore(*client);
  const Measured measured = run(workload, image, server.socket(), [&] {
    auto response = client->wait(restoreAfter(*client, before).statsRequest().send());
    const auto stats = response.getStats();
    closing = mean(stats.getDrain());
    // The coordinator has it from closing the gate to opening it: what passes before read() returns is not in
    // eventToDone, the rest is.
    const double coordinator = std::max(closing, mean(stats.getClosed()));
    double gate = 0, source = 0, copy = 0, samples = 0;
    for (auto shard : stats.getShards()) {
      const auto weight = static_cast<double>(shard.getEventToDone().getSamples());
      samples += weight;
      served += weight * mean(shard.getEventToDone());
      gate += weight * mean(shard.getGateWait());
      source += weight * mean(shard.getSource());
      copy += weight * mean(shard.getCopy());
    }
    for (double* sum : {&served, &gate, &source, &copy}) *sum /= std::max(samples, 1.0);
    parts = {{"coordinator", coordinator},
             {"hand-over", std::max(0.0, served - (coordinator - closing) - gate - source - copy)},
             {"wait for the gate", gate},
             {"source", source},
             {"copy", copy}};
  });
  const double whole =
      1e9 * measured.seconds / static_cast<double>(std::max<std::uint64_t>(measured.faults, 1));
  parts.insert(parts.begin(), {"kernel queue and wakes", std::max(0.0, whole - closing - served)});
  return parts;
}

}  // namespace faultline::bench
