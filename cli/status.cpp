#include <sys/ioctl.h>
#include <unistd.h>

#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cli/commands.h"
#include "cli/errors.h"
#include "cli/format.h"
#include "cli/listeners.h"
#include "cli/restore_options.h"
#include "cli/session.h"
#include "cli/status_json.h"
#include "cli/status_screen.h"
#include "process/plain_text.h"
#include "rpc/refusal.h"

namespace faultline::cli {

namespace {

using nlohmann::json;

// Asks a service, again and again.
class Observer {
 public:
  explicit Observer(const std::string& control) : session_(control) {}

  Session& session() { return session_; }

  json look() {
    auto response = session_.wait(session_.coordinator().statusRequest().send());
    auto service = response.getService();
    std::vector<capnp::Response<rpc::Restore::StatsResults>> stats;
    std::vector<RestoreFigures> figures;
    for (auto info : service.getRestores()) {
      try {
        stats.push_back(session_.wait(session_.restore(info.getName().cStr()).statsRequest().send()));
        figures.push_back({info, stats.back().getStats()});
      } catch (const kj::Exception& error) {
        if (error.getType() == kj::Exception::Type::DISCONNECTED) throw;
        // The restore ended between the two calls: there are no figures any more.
      }
    }
    return history_.look(service, figures);
  }

 private:
  Session session_;
  StatusHistory history_;
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

void printFetcher(const json& f) {
  if (f["pid"].is_null()) return;
  unsigned long long fetched = 0;
  for (const json& engine : f["engines"]) fetched += number(engine, "bytes");
  printf("  fetcher     pid %-8llu restarts %llu, %s fetched, %s saved, cache %s of %s\n", number(f, "pid"),
         number(f, "restarts"), humanBytes(fetched).c_str(), humanBytes(number(f, "saved_bytes")).c_str(),
         humanBytes(number(f, "cached_bytes")).c_str(), humanBytes(number(f, "cache_limit_bytes")).c_str());
}

void printRestore(const json& r) {
  const double pages = r["pages"].get<double>();
  printf("%s: %s, %.1f %% of %.0f pages, %llu missing, %llu given back, pid %llu, from %s\n",
         text(r, "name").c_str(), text(r, "phase").c_str(),
         100 * (pages - r["missing"].get<double>()) / pages, pages, number(r, "missing"),
         number(r, "removed"), number(r, "target_pid"), text(r, "source").c_str());
  if (!text(r, "failure").empty()) printf("    %s\n", text(r, "failure").c_str());
  if (!text(r, "population_held").empty())
    printf("    not populated in the background: %s\n", text(r, "population_held").c_str());
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

void printListener(const json& l) {
  std::string layers;
  for (const json& layer : l["layers"]) layers += (layers.empty() ? "" : " over ") + layer.get<std::string>();
  printf("  listener %s (%s) at %s, from %s: %llu begun, %llu refused\n", text(l, "listener").c_str(),
         text(l, "origin").c_str(), text(l, "socket").c_str(), process::plainText(layers).c_str(),
         number(l, "begun"), number(l, "refused"));
}

void printPeople(const json& status) {
  printf("faultline %s, coordinator %llu (number %llu)\n", text(status, "version").c_str(),
         number(status, "coordinator_pid"), number(status, "incarnation"));
  for (const auto& shard : status["shards"]) printShard(shard);
  printFetcher(status["fetcher"]);
  for (const auto& listener : status["listeners"]) printListener(listener);
  if (status["restores"].empty()) printf("no restores\n");
  for (const auto& restore : status["restores"]) printRestore(restore);
  if (!status["events"].empty()) printf("latest events\n");
  for (const auto& event : status["events"]) printEvent(event);
}

// --- the command ---

struct StatusOptions {
  std::string control = DEFAULT_CONTROL, name;
  RestoreChoice choice;
  bool asJson = false;
  double watch = 0;  // seconds; 0: once
};

// A build before this one shows none.
json listenersOf(Session& session) {
  try {
    return listenersJson(session.wait(session.coordinator().listenersRequest().send()).getListeners());
  } catch (const kj::Exception& error) {
    if (error.getType() != kj::Exception::Type::UNIMPLEMENTED) throw;
    return json::array();
  }
}

// The restores that are asked for, in their order.
json narrowed(json look, const StatusOptions& options) {
  look["restores"] = chosenOf(look, options.choice);
  if (options.name.empty()) return look;
  json named = json::array();
  for (json& restore : look["restores"])
    if (restore["name"] == options.name) named.push_back(std::move(restore));
  if (named.empty()) rpc::refuse(rpc::Reason::NOT_FOUND, "no restore is called " + options.name);
  look["restores"] = std::move(named);
  return look;
}

// Rewrites the lines of the one before, so that nothing flickers.
void printScreen(const json& before, const json& now, const StatusOptions& options) {
  winsize size{};
  const bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 && size.ws_row > 2;
  std::istringstream screen(
      screenOf(before, now, options.choice, known ? size.ws_col : 80u, known ? size.ws_row - 1u : 23u));
  std::string text = "\033[H";
  for (std::string line; std::getline(screen, line);) text += line + "\033[K\n";
  fputs((text + "\033[J").c_str(), stdout);
}

void print(const json& before, const json& now, const StatusOptions& options) {
  if (options.asJson)
    printf("%s\n", now.dump(options.watch > 0 ? -1 : 2, ' ', true, json::error_handler_t::replace).c_str());
  else if (options.watch > 0 && isTerminal())
    printScreen(before, now, options);
  else
    printPeople(now);
  fflush(stdout);
}

int status(const StatusOptions& options) {
  Interrupts::capture();
  Observer observer(options.control);
  Session& session = observer.session();
  const std::chrono::milliseconds interval(static_cast<std::int64_t>(options.watch * 1000));
  json before;
  for (;;) {
    try {
      json now = narrowed(observer.look(), options);
      now["listeners"] = listenersOf(session);
      print(before, now, options);
      before = std::move(now);
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
      "  faultline status vm1\n"
      "  faultline status --watch 5 --sort p99      # a screen: stalls by cause first, then a table\n"
      "  faultline status --json | jq '.restores[] | {name, missing, fault_p99_ns}'");
  command->add_option("RESTORE", options->name, "Only this restore");
  addControl(*command, options->control);
  command->add_option("--filter", options->choice.filter, "Only restores whose names have this in them");
  command->add_option("--sort", options->choice.sort, "By name, or by a figure, from the highest down")
      ->check(CLI::IsMember(SORTS))
      ->capture_default_str();
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
