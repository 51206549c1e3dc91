#include <ctime>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/errors.h"
#include "cli/format.h"
#include "cli/restore_options.h"
#include "cli/restore_view.h"
#include "cli/session.h"
#include "process/plain_text.h"
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

// Looks at a service, again and again: rates are between two looks.
class Observer {
 public:
  explicit Observer(const std::string& control) : session_(control) {}

  Session& session() { return session_; }

  json look() {
    auto response = session_.wait(session_.coordinator().statusRequest().send());
    auto service = response.getService();
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
    std::map<std::string, RestoreView> views;
    for (auto info : service.getRestores()) out["restores"].push_back(lookAt(info, views));
    before_ = std::move(views);
    for (auto event : service.getEvents())
      out["events"].push_back({{"unix_ns", event.getUnixNs()}, {"text", event.getText().cStr()}});
    return out;
  }

 private:
  json lookAt(rpc::RestoreInfo::Reader info, std::map<std::string, RestoreView>& views) {
    json restore = restoreJson(info);
    const std::string name = info.getName().cStr();
    try {
      auto response = session_.wait(session_.restore(name).statsRequest().send());
      RestoreView& view = views[name];
      view.take(info);
      view.take(response.getStats());
      const auto before = before_.find(name);
      const Rates rates = ratesBetween(before == before_.end() ? nullptr : &before->second, view);
      restore["stats"] = statsJson(response.getStats());
      restore["faults_per_second"] = rates.faults;
      restore["pages_per_second"] = rates.pages;
      restore["bytes_per_second"] = rates.bytes;
      restore["fault_p50_ns"] = view.latency.quantile(0.5);
      restore["fault_p99_ns"] = view.latency.quantile(0.99);
    } catch (const kj::Exception& error) {
      if (error.getType() == kj::Exception::Type::DISCONNECTED) throw;
      // The restore ended between the two calls: there are no figures any more.
    }
    return restore;
  }

  Session session_;
  std::map<std::string, RestoreView> before_;
};

// --- for people ---

unsigned long long number(const json& object, const char* key) {
  return object[key].get<unsigned long long>();
}
std::string text(const json& object, const char* key) {
  return process::plainText(object[key].get<std::string>());
}
std::string duration(const json& object, const char* key) {
  return humanNs(object[key].get<std::uint64_t>());
}

void printShard(const json& s) {
  printf("  shard %-2llu %s pid %-8llu up %-10s restarts %llu, serves %llu restores\n", number(s, "index"),
         s["alive"].get<bool>() ? "up  " : "DOWN", number(s, "pid"), duration(s, "up_ns").c_str(),
         number(s, "restarts"), number(s, "restores"));
}

void printFigures(const json& r) {
  const json& stats = r["stats"];
  printf("    %.0f pages/s, %s/s, %.0f faults/s, fault p50 %s p99 %s\n", r["pages_per_second"].get<double>(),
         humanBytes(static_cast<std::uint64_t>(r["bytes_per_second"].get<double>())).c_str(),
         r["faults_per_second"].get<double>(), duration(r, "fault_p50_ns").c_str(),
         duration(r, "fault_p99_ns").c_str());
  printf("    %llu faults in %llu batches, %llu removals, %llu shards fenced, %llu coordinators survived\n",
         number(stats, "faults"), number(stats, "batches"), number(stats, "removes"), number(stats, "fences"),
         number(stats, "adoptions"));
  for (const auto& s : stats["shards"])
    printf(
        "    shard %llu: %llu copied, %llu zero, %llu zero since removed, %llu in the background; fault p50 "
        "%s "
        "p99 %s\n",
        number(s, "shard"), number(s, "copied"), number(s, "zeroed"), number(s, "zeroed_removed"),
        number(s, "prefaulted"), duration(s["event_to_done"], "p50_ns").c_str(),
        duration(s["event_to_done"], "p99_ns").c_str());
}

void printRestore(const json& r) {
  const double pages = r["pages"].get<double>();
  printf("%s: %s, %.1f %% of %.0f pages, %llu missing, %llu given back, pid %llu, from %s\n",
         text(r, "name").c_str(), text(r, "phase").c_str(),
         100 * (pages - r["missing"].get<double>()) / pages, pages, number(r, "missing"),
         number(r, "removed"), number(r, "target_pid"), text(r, "source").c_str());
  if (!text(r, "failure").empty()) printf("    %s\n", text(r, "failure").c_str());
  if (r.contains("stats")) printFigures(r);
}

void printEvent(const json& e) {
  const auto ns = e["unix_ns"].get<std::uint64_t>();
  const auto seconds = static_cast<std::time_t>(ns / 1'000'000'000);
  char when[32];
  std::tm local{};
  strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S", localtime_r(&seconds, &local));
  printf("  %s.%03d %s\n", when, static_cast<int>(ns / 1'000'000 % 1000), text(e, "text").c_str());
}

void printPeople(const json& status) {
  printf("faultline %s, coordinator %llu (number %llu)\n", text(status, "version").c_str(),
         number(status, "coordinator_pid"), number(status, "incarnation"));
  for (const auto& shard : status["shards"]) printShard(shard);
  if (status["restores"].empty()) printf("no restores\n");
  for (const auto& restore : status["restores"]) printRestore(restore);
  if (!status["events"].empty()) printf("latest events\n");
  for (const auto& event : status["events"]) printEvent(event);
}

// --- the command ---

struct StatusOptions {
  std::string control = DEFAULT_CONTROL;
  bool asJson = false;
  double watch = 0;  // seconds; 0: once
};

void print(const json& status, const StatusOptions& options) {
  if (options.watch > 0 && !options.asJson && isTerminal()) printf("\033[H\033[2J");
  if (options.asJson)
    printf("%s\n",
           status.dump(options.watch > 0 ? -1 : 2, ' ', true, json::error_handler_t::replace).c_str());
  else
    printPeople(status);
  fflush(stdout);
}

int status(const StatusOptions& options) {
  Interrupts::capture();
  Observer observer(options.control);
  Session& session = observer.session();
  const std::chrono::milliseconds interval(static_cast<std::int64_t>(options.watch * 1000));
  for (;;) {
    try {
      print(observer.look(), options);
    } catch (const kj::Exception& error) {
      if (options.watch <= 0 || error.getType() != kj::Exception::Type::DISCONNECTED) throw;
      session.awaitSuccessor([] { return false; });
      continue;
    }
    if (options.watch <= 0) return OK;
    auto interrupted = session.interrupts().next().then([] { return true; });
    auto pause = session.after(interval).then([] { return false; });
    if (session.wait(interrupted.exclusiveJoin(kj::mv(pause)))) return OK;
  }
}

}  // namespace

void addStatus(CLI::App& app, Result& chosen) {
  auto options = std::make_shared<StatusOptions>();
  CLI::App* command = app.add_subcommand("status", "What is being served, how fast, and what died");
  command->description(
      "Show the service, its shards, its restores (how far, how fast, how quickly faults are answered) and "
      "the "
      "latest\n"
      "events: what died, why, and how long recovery took.\n\n"
      "Examples:\n"
      "  faultline status\n"
      "  faultline status --watch 5\n"
      "  faultline status --json | jq '.restores[] | {name, missing, fault_p99_ns}'");
  addControl(*command, options->control);
  command->add_flag("--json", options->asJson, "Print one JSON object; with --watch one a line");
  command
      ->add_option(
          "--watch", options->watch,
          "Again every so many seconds (2 if none are given); rates are of that time then, else of the "
          "whole restore")
      ->expected(0, 1)
      ->default_str("2")
      ->check(CLI::Range(0.1, 3600.0));
  command->footer(EXIT_CODES);
  command->callback([options, &chosen] { chosen = [options] { return status(*options); }; });
}

}  // namespace faultline::cli
