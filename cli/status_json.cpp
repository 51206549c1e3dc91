#include "cli/status_json.h"

#include <nlohmann/json.hpp>

#include "rpc/refusal.h"

namespace faultline::cli {

namespace {

using nlohmann::json;

json latencyJson(rpc::Latency::Reader latency) {
  return {{"samples", latency.getSamples()},
          {"p50_ns", latency.getP50()},
          {"p99_ns", latency.getP99()},
          {"p999_ns", latency.getP999()}};
}

json fetcherJson(rpc::FetcherInfo::Reader fetcher) {
  json engines = json::array();
  for (auto engine : fetcher.getEngines())
    engines.push_back({{"name", engine.getName().cStr()},
                       {"requests", engine.getRequests()},
                       {"bytes", engine.getBytes()},
                       {"errors", engine.getErrors()},
                       {"reconnects", engine.getReconnects()},
                       {"given_up", engine.getGivenUp()},
                       {"latency", latencyJson(engine.getLatency())}});
  return {{"pid", fetcher.getPid() == 0 ? json() : json(fetcher.getPid())},
          {"restarts", fetcher.getRestarts()},
          {"hits", fetcher.getHits()},
          {"misses", fetcher.getMisses()},
          {"not_kept", fetcher.getNotKept()},
          {"cached_bytes", fetcher.getCachedBytes()},
          {"cache_limit_bytes", fetcher.getCacheLimit()},
          {"evicted", fetcher.getEvicted()},
          {"fetch_rate", fetcher.getFetchRate()},
          {"saved_bytes", fetcher.getSavedBytes()},
          {"engines", engines}};
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
                             {"out_of_memory", s.getOutOfMemory()},
                             {"prefaulted", s.getPrefaulted()},
                             {"around", s.getAround()},
                             {"cold_reads", s.getColdReads()},
                             {"source_bytes", s.getSourceBytes()},
                             {"source_errors", s.getSourceErrors()},
                             {"extents", s.getExtents()},
                             {"event_to_done", latencyJson(s.getEventToDone())},
                             {"gate_wait", latencyJson(s.getGateWait())},
                             {"source", latencyJson(s.getStaging())},
                             {"copy", latencyJson(s.getCopying())}});
  return out;
}

json restoreJson(rpc::RestoreInfo::Reader r) {
  const bool failed = r.getPhase() == rpc::Phase::FAILED;
  return {{"name", r.getName().cStr()},
          {"phase", phaseName(r.getPhase())},
          {"source", r.getSourceName().cStr()},
          {"target_pid", r.getTargetPid()},
          {"pages", r.getPages()},
          {"missing", r.getMissing()},
          {"faulted", r.getFaulted()},
          {"removed", r.getRemoved()},
          {"released", r.getReleased()},
          {"failure", r.getFailureText().cStr()},
          {"failure_reason", failed ? rpc::nameOf(r.getFailure()) : ""},
          {"prefaulting", r.getPrefaulting()},
          {"population_held", r.getPopulationHeld().cStr()},
          {"waiting_threads", r.getWaitingThreads()},
          {"segment_bytes", r.getSegmentBytes()},
          {"remove_negotiated", r.getRemoveNegotiated()},
          {"age_ns", r.getAgeNs()}};
}

json shardJson(rpc::ShardInfo::Reader s) {
  return {{"index", s.getIndex()},           {"pid", s.getPid()},    {"alive", s.getAlive()},
          {"restarts", s.getRestarts()},     {"up_ns", s.getUpNs()}, {"restores", s.getRestores()},
          {"version", s.getVersion().cStr()}};
}

}  // namespace

json StatusHistory::look(rpc::ServiceInfo::Reader service, const std::vector<RestoreFigures>& restores) {
  json out{{"version", service.getVersion().cStr()},
           {"coordinator_pid", service.getCoordinatorPid()},
           {"incarnation", service.getIncarnation()},
           {"workers_per_shard", service.getWorkersPerShard()},
           {"lock_deadline_ns", service.getLockDeadlineNs()},
           {"test_hooks", service.getTestHooks()},
           {"shards", json::array()},
           {"restores", json::array()},
           {"events", json::array()}};
  for (auto shard : service.getShards()) out["shards"].push_back(shardJson(shard));
  out["fetcher"] = fetcherJson(service.getFetcher());
  std::map<std::string, RestoreView> views;
  for (auto info : service.getRestores()) {
    const RestoreFigures* found = nullptr;
    for (const RestoreFigures& each : restores)
      if (each.info.getId() == info.getId()) found = &each;
    out["restores"].push_back(lookAt(info, found, views));
  }
  before_ = std::move(views);
  for (auto event : service.getEvents())
    out["events"].push_back({{"unix_ns", event.getUnixNs()}, {"text", event.getText().cStr()}});
  return out;
}

json StatusHistory::lookAt(rpc::RestoreInfo::Reader info, const RestoreFigures* figures,
                           std::map<std::string, RestoreView>& views) const {
  json restore = restoreJson(info);
  if (figures == nullptr) return restore;
  const std::string name = info.getName().cStr();
  RestoreView& view = views[name];
  view.take(info);
  view.take(figures->stats);
  const auto before = before_.find(name);
  const Rates rates = ratesBetween(before == before_.end() ? nullptr : &before->second, view);
  restore["stats"] = statsJson(figures->stats);
  restore["faults_per_second"] = rates.faults;
  restore["pages_per_second"] = rates.pages;
  restore["bytes_per_second"] = rates.bytes;
  restore["fault_p50_ns"] = view.latency.quantile(0.5);
  restore["fault_p99_ns"] = view.latency.quantile(0.99);
  return restore;
}

}  // namespace faultline::cli
