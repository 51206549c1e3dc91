#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/common.h"

namespace faultline::cli {

namespace {

using nlohmann::json;

const char* phaseName(rpc::Phase phase) {
  switch (phase) {
    case rpc::Phase::SERVING:
      return "serving";
    case rpc::Phase::PAUSED:
      return "paused";
    case rpc::Phase::COMPLETE:
      return "complete";
    case rpc::Phase::FAILED:
      return "failed";
  }
  return "?";
}

json latencyJson(rpc::Latency::Reader latency) {
  return {{"samples", latency.getSamples()},
          {"p50_ns", latency.getP50()},
          {"p99_ns", latency.getP99()},
          {"p999_ns", latency.getP999()}};
}

json statsJson(rpc::RestoreStats::Reader stats) {
  json out{{"batches", stats.getBatches()},
           {"faults", stats.getFaults()},
           {"removes", stats.getRemoves()},
           {"removed_pages", stats.getRemovedPages()},
           {"replayed", stats.getReplayed()},
           {"fences", stats.getFences()},
           {"adoptions", stats.getAdoptions()},
           {"wakes", stats.getWakes()},
           {"outside_faults", stats.getOutsideFaults()},
           {"slots_recovered", stats.getSlotsRecovered()},
           {"drain", latencyJson(stats.getDrain())},
           {"gate_closed", latencyJson(stats.getClosed())}};
  for (auto s : stats.getShards())
    out["shards"].push_back({{"shard", s.getShard()},
                             {"faults", s.getFaultsTaken()},
                             {"copied", s.getCopied()},
                             {"zeroed", s.getZeroed()},
                             {"zeroed_removed", s.getZeroedRemoved()},
                             {"already_present", s.getAlreadyPresent()},
                             {"refused", s.getRefused()},
                             {"requeued", s.getRequeued()},
                             {"poisoned", s.getPoisoned()},
                             {"dropped", s.getDropped()},
                             {"prefaulted", s.getPrefaulted()},
                             {"cold_reads", s.getColdReads()},
                             {"source_bytes", s.getSourceBytes()},
                             {"source_errors", s.getSourceErrors()},
                             {"extents", s.getExtents()},
                             {"event_to_done", latencyJson(s.getEventToDone())},
                             {"gate_wait", latencyJson(s.getGateWait())},
                             {"source", latencyJson(s.getSource())},
                             {"copy", latencyJson(s.getCopy())}});
  return out;
}

json restoreJson(rpc::RestoreInfo::Reader r) {
  return {{"name", r.getName().cStr()},
          {"phase", phaseName(r.getPhase())},
          {"source", r.getSource().cStr()},
          {"target_pid", r.getTargetPid()},
          {"pages", r.getPages()},
          {"missing", r.getMissing()},
          {"faulted", r.getFaulted()},
          {"removed", r.getRemoved()},
          {"failure", r.getFailure().cStr()},
          {"prefaulting", r.getPrefaulting()},
          {"segment_bytes", r.getSegmentBytes()},
          {"remove_negotiated", r.getRemoveNegotiated()},
          {"age_ns", r.getAgeNs()}};
}

json collect(rpc::ControlClient& client) {
  auto response = client.wait(client.coordinator().statusRequest().send());
  auto service = response.getService();
  json out{{"version", service.getVersion().cStr()},
           {"coordinator_pid", service.getCoordinatorPid()},
           {"incarnation", service.getIncarnation()},
           {"workers_per_shard", service.getWorkersPerShard()},
           {"shards", json::array()},
           {"restores", json::array()},
           {"events", json::array()}};
  for (auto s : service.getShards())
    out["shards"].push_back({{"index", s.getIndex()},
                             {"pid", s.getPid()},
                             {"alive", s.getAlive()},
                             {"restarts", s.getRestarts()},
                             {"up_ns", s.getUpNs()},
                             {"restores", s.getRestores()}});
  for (auto r : service.getRestores()) {
    json restore = restoreJson(r);
    auto failure = kj::runCatchingExceptions([&] {
      restore["stats"] =
          statsJson(client.wait(client.restore(r.getName().cStr()).statsRequest().send()).getStats());
    });
    (void)failure;  // it ended between the two looks
    out["restores"].push_back(restore);
  }
  for (auto e : service.getEvents())
    out["events"].push_back({{"unix_ns", e.getUnixNs()}, {"text", e.getText().cStr()}});
  return out;
}

void printPeople(const json& status) {
  printf("faultline %s, coordinator %d (number %d)\n", status["version"].get<std::string>().c_str(),
         status["coordinator_pid"].get<int>(), status["incarnation"].get<int>());
  for (const auto& s : status["shards"])
    printf("  shard %-2d %s pid %-8d up %-10s restarts %d, serves %d restores\n", s["index"].get<int>(),
           s["alive"].get<bool>() ? "up  " : "DOWN", s["pid"].get<int>(),
           humanNs(s["up_ns"].get<std::uint64_t>()).c_str(), s["restarts"].get<int>(),
           s["restores"].get<int>());
  if (status["restores"].empty()) printf("no restores\n");
  for (const auto& r : status["restores"]) {
    const double pages = r["pages"].get<double>();
    printf("%s: %s, %.1f %% of %.0f pages, %llu missing, %llu given back, pid %d, from %s\n",
           r["name"].get<std::string>().c_str(), r["phase"].get<std::string>().c_str(),
           100 * (pages - r["missing"].get<double>()) / pages, pages, r["missing"].get<unsigned long long>(),
           r["removed"].get<unsigned long long>(), r["target_pid"].get<int>(),
           r["source"].get<std::string>().c_str());
    if (!r["failure"].get<std::string>().empty()) printf("    %s\n", r["failure"].get<std::string>().c_str());
    if (!r.contains("stats")) continue;
    const auto& stats = r["stats"];
    printf("    %llu faults in %llu batches, %llu removals, %llu shards fenced, %llu coordinators survived\n",
           stats["faults"].get<unsigned long long>(), stats["batches"].get<unsigned long long>(),
           stats["removes"].get<unsigned long long>(), stats["fences"].get<unsigned long long>(),
           stats["adoptions"].get<unsigned long long>());
    for (const auto& s : stats["shards"])
      printf(
          "    shard %d: %llu copied, %llu zero, %llu zero since removed, %llu in the background; fault p50 "
          "%s p99 %s\n",
          s["shard"].get<int>(), s["copied"].get<unsigned long long>(), s["zeroed"].get<unsigned long long>(),
          s["zeroed_removed"].get<unsigned long long>(), s["prefaulted"].get<unsigned long long>(),
          humanNs(s["event_to_done"]["p50_ns"].get<std::uint64_t>()).c_str(),
          humanNs(s["event_to_done"]["p99_ns"].get<std::uint64_t>()).c_str());
  }
  if (!status["events"].empty()) printf("latest events\n");
  for (const auto& e : status["events"]) {
    const auto ns = e["unix_ns"].get<std::uint64_t>();
    const std::time_t seconds = static_cast<std::time_t>(ns / 1'000'000'000);
    char when[32];
    std::tm local{};
    strftime(when, sizeof when, "%H:%M:%S", localtime_r(&seconds, &local));
    printf("  %s.%03d %s\n", when, static_cast<int>(ns / 1'000'000 % 1000),
           e["text"].get<std::string>().c_str());
  }
}

struct StatusOptions {
  std::string control = DEFAULT_CONTROL;
  bool asJson = false;
  double watch = 0;
};

int status(const StatusOptions& options) {
  rpc::ControlClient client(options.control);
  for (;;) {
    const json now = collect(client);
    if (options.watch > 0 && isTerminal()) printf("\033[H\033[2J");
    if (options.asJson)
      printf("%s\n", now.dump(options.watch > 0 ? -1 : 2).c_str());
    else
      printPeople(now);
    fflush(stdout);
    if (options.watch <= 0) return OK;
    client.wait(client.io().provider->getTimer().afterDelay(static_cast<std::uint64_t>(options.watch * 1000) *
                                                            kj::MILLISECONDS));
  }
}

}  // namespace

void addStatus(CLI::App& app, Result& chosen) {
  auto options = std::make_shared<StatusOptions>();
  CLI::App* command = app.add_subcommand("status", "What is being served, how fast, and what died");
  addControl(*command, options->control);
  command->add_flag("--json", options->asJson, "Print one JSON object");
  command->add_option("--watch", options->watch, "Again every so many seconds")
      ->check(CLI::Range(0.1, 3600.0));
  command->footer(EXIT_CODES);
  command->callback([options, &chosen] { chosen = [options] { return status(*options); }; });
}

}  // namespace faultline::cli
