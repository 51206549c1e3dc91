#include "cli/status_screen.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cli/format.h"
#include "cli/table.h"
#include "process/plain_text.h"

namespace faultline::cli {

namespace {

using nlohmann::json;

std::uint64_t number(const json& object, const char* key) {
  return object.value(key, std::uint64_t{0});
}

double figure(const json& restore, const std::string& sort) {
  if (sort == "missing") return restore.value("missing", 0.0);
  if (sort == "faults") return restore.value("faults_per_second", 0.0);
  if (sort == "bytes") return restore.value("bytes_per_second", 0.0);
  if (sort == "p99") return restore.value("fault_p99_ns", 0.0);
  return restore.value("waiting_threads", 0.0);
}

// Sums over all shards of a restore.
std::uint64_t sum(const json& restore, const char* key) {
  std::uint64_t total = 0;
  if (restore.contains("stats"))
    for (const json& shard : restore["stats"].value("shards", json::array())) total += number(shard, key);
  return total;
}
std::uint64_t answered(const json& restore) {
  std::uint64_t total = 0;
  if (restore.contains("stats"))
    for (const json& shard : restore["stats"].value("shards", json::array()))
      total += number(shard.value("event_to_done", json::object()), "samples");
  return total;
}

// Owns extents of it and does not answer.
bool hasDownShard(const json& restore, const json& look) {
  if (!restore.contains("stats")) return false;
  for (const json& part : restore["stats"].value("shards", json::array()))
    for (const json& shard : look["shards"])
      if (number(part, "extents") > 0 && part["shard"] == shard["index"] && !shard["alive"].get<bool>())
        return true;
  return false;
}

std::string causeOf(const json& before, const json& now, const json& look) {
  if (now["phase"] == "paused") return "paused";
  if (hasDownShard(now, look)) return "a shard is down";
  if (sum(now, "source_errors") > sum(before, "source_errors")) return "reads of the source fail";
  if (sum(now, "out_of_memory") > sum(before, "out_of_memory")) return "no memory for the target's pages";
  return "the source or a shard does not answer";
}

std::string percent(const json& restore) {
  const double pages = restore.value("pages", 0.0);
  char text[16];
  snprintf(text, sizeof text, "%.1f",
           pages == 0 ? 100 : 100 * (pages - restore.value("missing", 0.0)) / pages);
  return text;
}

std::string whole(double value) {
  char text[32];
  snprintf(text, sizeof text, "%.0f", value);
  return text;
}

std::string tableOf(const json& restores, unsigned width) {
  using Column = Table::Column;
  Table table;
  table.width(width);
  table.column("RESTORE", Column::cut);
  table.column("PHASE");
  for (const char* name : {"DONE %", "MISSING", "FAULTS/s", "BYTES/s", "P50", "P99", "WAIT"})
    table.column(name, Column::right);
  table.column("SOURCE", Column::cut);
  for (const json& r : restores) {
    table.line();
    table.cell(r["name"].get<std::string>());
    table.cell(r["phase"].get<std::string>());
    table.cell(percent(r));
    table.cell(std::to_string(number(r, "missing")));
    table.cell(whole(r.value("faults_per_second", 0.0)));
    table.cell(humanBytes(static_cast<std::uint64_t>(r.value("bytes_per_second", 0.0))));
    table.cell(humanNs(number(r, "fault_p50_ns")));
    table.cell(humanNs(number(r, "fault_p99_ns")));
    table.cell(std::to_string(number(r, "waiting_threads")));
    table.cell(r["source"].get<std::string>());
  }
  return table.text();
}

std::string headOf(const json& look, std::size_t shown) {
  std::size_t up = 0;
  for (const json& shard : look["shards"]) up += shard["alive"].get<bool>() ? 1 : 0;
  std::ostringstream text;
  text << "faultline " << look["version"].get<std::string>() << ", coordinator "
       << number(look, "coordinator_pid") << " (number " << number(look, "incarnation") << "), " << up
       << " of " << look["shards"].size() << " shards up, " << shown << " of " << look["restores"].size()
       << " restores";
  return process::plainText(text.str());
}

}  // namespace

json chosenOf(const json& look, const RestoreChoice& choice) {
  json chosen = json::array();
  for (const json& restore : look["restores"])
    if (restore["name"].get<std::string>().find(choice.filter) != std::string::npos)
      chosen.push_back(restore);
  std::stable_sort(chosen.begin(), chosen.end(), [&](const json& a, const json& b) {
    if (choice.sort != "name" && figure(a, choice.sort) != figure(b, choice.sort))
      return figure(a, choice.sort) > figure(b, choice.sort);
    return a["name"] < b["name"];
  });
  return chosen;
}

std::vector<std::string> stallsOf(const json& before, const json& now) {
  struct Stalled {
    std::uint64_t threads = 0;
    std::vector<std::string> names;
  };
  std::map<std::string, Stalled> byCause;
  std::map<std::string, const json*> former;
  if (before.is_object())
    for (const json& restore : before["restores"]) former[restore["name"]] = &restore;
  for (const json& restore : now["restores"]) {
    const auto found = former.find(restore["name"]);
    if (found == former.end() || number(restore, "waiting_threads") == 0 ||
        number(*found->second, "waiting_threads") == 0 || answered(restore) != answered(*found->second))
      continue;
    Stalled& stalled = byCause[causeOf(*found->second, restore, now)];
    stalled.threads += number(restore, "waiting_threads");
    stalled.names.push_back(restore["name"]);
  }
  std::vector<std::pair<std::string, Stalled>> causes(byCause.begin(), byCause.end());
  std::stable_sort(causes.begin(), causes.end(),
                   [](const auto& a, const auto& b) { return a.second.threads > b.second.threads; });
  std::vector<std::string> lines;
  for (const auto& [cause, stalled] : causes) {
    std::string line = "STALLED, " + cause + ": " + std::to_string(stalled.threads) + " threads of";
    for (const std::string& name : stalled.names) line += " " + name;
    lines.push_back(process::plainText(line));
  }
  return lines;
}

std::string screenOf(const json& before, const json& now, const RestoreChoice& choice, unsigned width,
                     unsigned height) {
  const json chosen = chosenOf(now, choice);
  std::vector<std::string> lines{headOf(now, chosen.size())};
  for (const std::string& stall : stallsOf(before, now)) lines.push_back(stall);
  std::istringstream table(chosen.empty() ? "no restores\n" : tableOf(chosen, width));
  for (std::string line; std::getline(table, line);) lines.push_back(line);
  // A line is left for those that do not fit.
  if (lines.size() > height) {
    const std::size_t more = lines.size() - height + 1;
    lines.resize(height - 1);
    lines.push_back("and " + std::to_string(more) + " more: --filter, or a higher window");
  }
  std::string text;
  for (std::string& line : lines) {
    // Bytes are at least as many as columns.
    if (line.size() > width) line = process::plainText(line.substr(0, width));
    text += line + "\n";
  }
  return text;
}

}  // namespace faultline::cli
