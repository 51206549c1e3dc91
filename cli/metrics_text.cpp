#include "cli/metrics_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "cli/restore_view.h"
#include "rpc/origins.h"
#include "rpc/refusal.h"

namespace faultline::cli {

namespace {

using Labels = std::vector<std::pair<const char*, std::string>>;

// The length of the UTF-8 character at the beginning of `text`; 0 where there is none (RFC 3629).
std::size_t utf8Length(std::string_view text) {
  const auto byte = [text](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t length = first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
  if (length == 0 || length > text.size()) return 0;
  for (std::size_t i = 1; i < length; i++)
    if ((byte(i) & 0xc0) != 0x80) return 0;
  // Overlong forms, surrogates, and what is beyond U+10FFFF.
  const bool wrong = (first == 0xe0 && byte(1) < 0xa0) || (first == 0xed && byte(1) > 0x9f) ||
                     (first == 0xf0 && byte(1) < 0x90) || (first == 0xf4 && byte(1) > 0x8f);
  return wrong ? 0 : length;
}

// A file's name may have any bytes, but of a label that is no UTF-8 Prometheus refuses the whole text.
std::string escaped(std::string_view text) {
  std::string result;
  for (std::size_t length; !text.empty(); text.remove_prefix(std::max<std::size_t>(length, 1))) {
    length = utf8Length(text);
    if (length == 0) {
      result += "\xef\xbf\xbd";  // U+FFFD
    } else if (text.front() == '\n') {
      result += "\\n";
    } else {
      if (text.front() == '\\' || text.front() == '"') result += '\\';
      result += text.substr(0, length);
    }
  }
  return result;
}

Labels withLabel(Labels labels, const char* name, std::string value) {
  labels.emplace_back(name, std::move(value));
  return labels;
}

std::string inBraces(const Labels& labels) {
  if (labels.empty()) return "";
  std::string text;
  for (const auto& [name, value] : labels)
    text += fmt::format("{}{}=\"{}\"", text.empty() ? "{" : ",", name, escaped(value));
  return text + "}";
}

std::string seconds(std::uint64_t ns) {
  return fmt::format("{:.9g}", static_cast<double>(ns) * 1e-9);
}

using Durations = shm::Histogram::Snapshot;

void addTo(Durations& durations, rpc::Latency::Reader latency) {
  const auto buckets = latency.getBuckets();
  for (unsigned i = 0; i < std::min<unsigned>(buckets.size(), shm::Histogram::BUCKETS); i++)
    durations.buckets[i] += buckets[i];
  durations.sum += latency.getSum();
}

Durations durationsOf(rpc::Latency::Reader latency) {
  Durations durations;
  addTo(durations, latency);
  return durations;
}

// Buckets of a histogram: every one, or only the one that has all, for a mean.
enum class Buckets { all, last };

// A metric: all its samples stand together, as the format wants them.
class Metric {
 public:
  Metric(const char* name, const char* type, const char* help)
      : name_(name), head_(fmt::format("# HELP {0} {2}\n# TYPE {0} {1}\n", name, type, help)) {}

  void add(const Labels& labels, std::uint64_t value) { line("", labels, std::to_string(value)); }
  void addNs(const Labels& labels, std::uint64_t ns) { line("", labels, seconds(ns)); }

  void addHistogram(const Labels& labels, const Durations& durations, Buckets wanted = Buckets::all) {
    // Powers of four: bounds of Histogram's own buckets, so that nothing is guessed.
    constexpr unsigned FIRST = 10, LAST = 34;
    if (wanted == Buckets::all) {
      std::uint64_t below = 0;
      unsigned bucket = 0;
      for (unsigned exponent = FIRST; exponent <= LAST; exponent += 2) {
        const std::uint64_t bound = 1ull << exponent;
        for (; bucket < shm::Histogram::BUCKETS && shm::Histogram::upperBound(bucket) <= bound; bucket++)
          below += durations.buckets[bucket];
        line("_bucket", withLabel(labels, "le", seconds(bound)), std::to_string(below));
      }
    }
    const std::string samples = std::to_string(durations.samples());
    line("_bucket", withLabel(labels, "le", "+Inf"), samples);
    line("_sum", labels, seconds(durations.sum));
    line("_count", labels, samples);
  }

  // Empty where there is no sample.
  std::string text() const { return samples_.empty() ? "" : head_ + samples_; }

 private:
  void line(const char* suffix, const Labels& labels, const std::string& value) {
    samples_ += fmt::format("{}{}{} {}\n", name_, suffix, inBraces(labels), value);
  }

  const char* name_;
  std::string head_, samples_;
};

constexpr const char *COUNTER = "counter", *GAUGE = "gauge", *HISTOGRAM = "histogram";

std::string upText(std::uint64_t up) {
  Metric metric("faultline_up", GAUGE, "1 if the coordinator answers.");
  metric.add({}, up);
  return metric.text();
}

// Totals that go on whatever coordinator serves, and whatever restores are over.
std::string totalsText(rpc::ServiceTotals::Reader totals) {
  Metric begun("faultline_restores_begun_total", COUNTER, "Restores that were begun.");
  Metric failed("faultline_restores_failed_total", COUNTER,
                "Restores that could not be served to their end.");
  Metric refused("faultline_targets_refused_total", COUNTER, "Handshakes that were refused.");
  Metric lost("faultline_pages_lost_total", COUNTER, "Reports of a page that its target could not be given.");
  Metric recovery("faultline_recovery_seconds", HISTOGRAM,
                  "From the death of a process, as it was noticed, to its successor serving.");
  begun.add({}, totals.getRestoresBegun());
  failed.add({}, totals.getRestoresFailed());
  refused.add({}, totals.getTargetsRefused());
  lost.add({}, totals.getPagesLost());
  recovery.addHistogram({{"process", "coordinator"}}, durationsOf(totals.getCoordinatorRecovery()));
  recovery.addHistogram({{"process", "shard"}}, durationsOf(totals.getShardRecovery()));
  return begun.text() + failed.text() + refused.text() + lost.text() + recovery.text();
}

// Figures of sources that are fetched.
std::string fetcherText(rpc::FetcherInfo::Reader fetcher) {
  Metric up("faultline_fetcher_up", GAUGE, "1 if a fetcher runs; 0 where nothing is fetched.");
  Metric restarts("faultline_fetcher_restarts_total", COUNTER, "Fetchers that died and were replaced.");
  Metric hits("faultline_fetch_hits_total", COUNTER, "Chunks that were asked for and had come by then.");
  Metric misses("faultline_fetch_misses_total", COUNTER, "Chunks that had to be fetched.");
  Metric notKept("faultline_fetch_not_kept_total", COUNTER, "Chunks that were served without being kept.");
  Metric cached("faultline_cache_bytes", GAUGE, "Bytes that what is kept takes on the disk.");
  Metric saved("faultline_cache_saved_bytes", GAUGE, "Bytes that what is kept has spared the sources.");
  Metric limit("faultline_cache_limit_bytes", GAUGE, "Bytes that it may take.");
  Metric evicted("faultline_cache_evictions_total", COUNTER, "Caches that made way for others.");
  Metric requests("faultline_fetch_requests_total", COUNTER, "Reads of a source, by its kind.");
  Metric bytes("faultline_fetch_bytes_total", COUNTER, "Bytes that they gave.");
  Metric errors("faultline_fetch_errors_total", COUNTER, "Reads that failed.");
  Metric reconnects("faultline_fetch_reconnects_total", COUNTER,
                    "Connections to a server that were made anew.");
  Metric givenUp("faultline_fetch_given_up_total", COUNTER,
                 "Reads for which a server did nothing within --source-patience.");
  Metric latency("faultline_fetch_seconds", HISTOGRAM, "Duration of a read.");
  up.add({}, fetcher.getPid() != 0 ? 1 : 0);
  restarts.add({}, fetcher.getRestarts());
  hits.add({}, fetcher.getHits());
  misses.add({}, fetcher.getMisses());
  notKept.add({}, fetcher.getNotKept());
  cached.add({}, fetcher.getCachedBytes());
  saved.add({}, fetcher.getSavedBytes());
  limit.add({}, fetcher.getCacheLimit());
  evicted.add({}, fetcher.getEvicted());
  for (auto engine : fetcher.getEngines()) {
    const Labels labels{{"engine", engine.getName().cStr()}};
    requests.add(labels, engine.getRequests());
    bytes.add(labels, engine.getBytes());
    errors.add(labels, engine.getErrors());
    reconnects.add(labels, engine.getReconnects());
    givenUp.add(labels, engine.getGivenUp());
    latency.addHistogram(labels, durationsOf(engine.getLatency()));
  }
  return up.text() + restarts.text() + hits.text() + misses.text() + notKept.text() + cached.text() +
         saved.text() + limit.text() + evicted.text() + requests.text() + bytes.text() + errors.text() +
         reconnects.text() + givenUp.text() + latency.text();
}

std::string serviceText(rpc::ServiceInfo::Reader service) {
  Metric build("faultline_build_info", GAUGE, "1; the version of the coordinator's build.");
  Metric takeovers("faultline_coordinator_takeovers_total", COUNTER,
                   "Coordinators that took over from another, by death, upgrade or restart.");
  Metric takeover("faultline_coordinator_takeover_seconds", GAUGE,
                  "From the last coordinator's death to this one serving; 0 for the first.");
  Metric up("faultline_shard_up", GAUGE, "1 if the shard answers.");
  Metric restarts("faultline_shard_restarts_total", COUNTER,
                  "Processes of the shard that died and were replaced.");
  Metric recovery("faultline_shard_recovery_seconds", GAUGE,
                  "From the shard's last death to its successor serving; 0 if none died.");
  Metric attached("faultline_shard_restores", GAUGE, "Restores that the shard serves.");
  build.add({{"version", service.getVersion().cStr()}}, 1);
  takeovers.add({}, service.getTotals().getTakeovers());
  takeover.addNs({}, service.getTakeoverNs());
  for (auto shard : service.getShards()) {
    const Labels labels{{"shard", std::to_string(shard.getIndex())}};
    up.add(labels, shard.getAlive() ? 1 : 0);
    restarts.add(labels, shard.getRestarts());
    recovery.addNs(labels, shard.getRecoveryNs());
    attached.add(labels, shard.getRestores());
  }
  return upText(1) + build.text() + takeovers.text() + takeover.text() + up.text() + restarts.text() +
         recovery.text() + attached.text() + totalsText(service.getTotals()) +
         fetcherText(service.getFetcher());
}

void addPages(Metric& metric, const Labels& labels, rpc::RestoreInfo::Reader restore) {
  metric.add(withLabel(labels, "state", "missing"), restore.getMissing());
  metric.add(withLabel(labels, "state", "faulted"), restore.getFaulted());
  metric.add(withLabel(labels, "state", "removed"), restore.getRemoved());
  metric.add(withLabel(labels, "state", "released"), restore.getReleased());
}

Labels labelsOf(const RestoreFigures& restore) {
  return {{"restore", restore.info.getName().cStr()}};
}

std::string stateText(const std::vector<RestoreFigures>& restores) {
  Metric info("faultline_restore_info", GAUGE, "1; what the restore is, and its phase.");
  Metric age("faultline_restore_age_seconds", GAUGE, "Since the restore began.");
  Metric pages("faultline_restore_pages", GAUGE, "Pages of the restore, by state.");
  Metric prefaulting("faultline_restore_prefaulting", GAUGE,
                     "1 while pages are populated in the background.");
  Metric held("faultline_restore_population_held", GAUGE,
              "1 while pages are not populated in the background though that was asked for.");
  Metric waiting("faultline_restore_waiting_threads", GAUGE, "Threads of the target that wait for a page.");
  Metric tracker("faultline_restore_tracker_bytes", GAUGE, "Memory that tracker, journal and counters take.");
  for (const RestoreFigures& restore : restores) {
    Labels labels = labelsOf(restore);
    const auto r = restore.info;
    age.addNs(labels, r.getAgeNs());
    prefaulting.add(labels, r.getPrefaulting() ? 1 : 0);
    held.add(labels, r.getPopulationHeld().size() > 0 ? 1 : 0);
    waiting.add(labels, r.getWaitingThreads());
    tracker.add(labels, r.getSegmentBytes());
    addPages(pages, labels, r);
    labels.emplace_back("id", std::to_string(r.getId()));
    labels.emplace_back("source", r.getSourceName().cStr());
    labels.emplace_back("phase", phaseName(r.getPhase()));
    info.add(labels, 1);
  }
  return info.text() + age.text() + pages.text() + prefaulting.text() + held.text() + waiting.text() +
         tracker.text();
}

// Durations that a fault's is made of.
Buckets bucketsOf(Detail detail) {
  return detail == Detail::shards ? Buckets::all : Buckets::last;
}

// Metrics of the coordinator's work on each restore.
std::string eventsText(const std::vector<RestoreFigures>& restores, Detail detail) {
  using Stats = rpc::RestoreStats::Reader;
  const struct {
    const char *name, *help;
    std::uint64_t (*value)(Stats);
  } counters[] = {
      {"faultline_fault_events_total", "Fault messages read from the userfaultfd.",
       [](Stats s) -> std::uint64_t { return s.getFaults(); }},
      {"faultline_remove_events_total", "REMOVE messages read from the userfaultfd.",
       [](Stats s) -> std::uint64_t { return s.getRemoves(); }},
      {"faultline_removed_pages_total", "Pages in them.",
       [](Stats s) -> std::uint64_t { return s.getRemovedPages(); }},
      {"faultline_batches_total", "Reads of the userfaultfd that returned something.",
       [](Stats s) -> std::uint64_t { return s.getBatches(); }},
      {"faultline_outside_faults_total", "Faults at addresses that no region covers.",
       [](Stats s) -> std::uint64_t { return s.getOutsideFaults(); }},
      {"faultline_fences_total", "Shards killed because they held the lock past its deadline.",
       [](Stats s) -> std::uint64_t { return s.getFences(); }},
      {"faultline_adoptions_total", "Coordinators that took the restore over.",
       [](Stats s) -> std::uint64_t { return s.getAdoptions(); }},
      {"faultline_replayed_events_total", "Messages that a successor found in the journal.",
       [](Stats s) -> std::uint64_t { return s.getReplayed(); }},
      {"faultline_wakes_total", "Times all waiting threads were woken after a death.",
       [](Stats s) -> std::uint64_t { return s.getWakes(); }},
  };
  std::string text;
  for (const auto& counter : counters) {
    Metric metric(counter.name, COUNTER, counter.help);
    for (const RestoreFigures& restore : restores)
      metric.add(labelsOf(restore), counter.value(restore.stats));
    text += metric.text();
  }
  Metric drain("faultline_drain_seconds", HISTOGRAM,
               "Closing the gate and waiting for the sections in flight.");
  Metric closed("faultline_gate_closed_seconds", HISTOGRAM, "From closing the gate to opening it.");
  for (const RestoreFigures& restore : restores) {
    drain.addHistogram(labelsOf(restore), durationsOf(restore.stats.getDrain()), bucketsOf(detail));
    closed.addHistogram(labelsOf(restore), durationsOf(restore.stats.getClosed()), bucketsOf(detail));
  }
  return text + drain.text() + closed.text();
}

// Shards whose figures are one sample: their sums.
using Stats = rpc::ShardStats::Reader;
struct Group {
  Labels labels;
  std::vector<Stats> shards;

  std::uint64_t sum(std::uint64_t (*figure)(Stats)) const {
    std::uint64_t total = 0;
    for (const Stats& shard : shards) total += figure(shard);
    return total;
  }
  Durations durations(rpc::Latency::Reader (*figure)(Stats)) const {
    Durations total;
    for (const Stats& shard : shards) addTo(total, figure(shard));
    return total;
  }
};

// A group for each restore; in detail one for each shard that has a part in it.
std::vector<Group> groupsOf(const std::vector<RestoreFigures>& restores, Detail detail) {
  std::vector<Group> groups;
  for (const RestoreFigures& restore : restores) {
    if (detail == Detail::restores) groups.push_back({labelsOf(restore), {}});
    for (auto shard : restore.stats.getShards()) {
      if (detail == Detail::shards) {
        groups.push_back({labelsOf(restore), {}});
        groups.back().labels.emplace_back("shard", std::to_string(shard.getShard()));
      }
      groups.back().shards.push_back(shard);
    }
  }
  return groups;
}

// Metrics of the shards' work on each restore.
std::string shardsText(const std::vector<RestoreFigures>& restores, Detail detail) {
  const struct {
    const char *name, *type, *help;
    std::uint64_t (*value)(Stats);
  } figures[] = {
      {"faultline_faults_total", COUNTER, "Faults handed to shards.",
       [](Stats s) -> std::uint64_t { return s.getFaultsTaken(); }},
      {"faultline_prefaulted_pages_total", COUNTER, "Populated pages that no fault asked for.",
       [](Stats s) -> std::uint64_t { return s.getPrefaulted(); }},
      {"faultline_around_pages_total", COUNTER, "Populated pages that came with a fault on a neighbour.",
       [](Stats s) -> std::uint64_t { return s.getAround(); }},
      {"faultline_refused_copies_total", COUNTER,
       "Tries that the kernel refused (EAGAIN) while a removal was under way.",
       [](Stats s) -> std::uint64_t { return s.getRefused(); }},
      {"faultline_deferred_faults_total", COUNTER, "Faults given back to the kernel, to be asked again.",
       [](Stats s) -> std::uint64_t { return s.getRequeued(); }},
      {"faultline_out_of_memory_total", COUNTER, "Tries that found no memory for the target's page.",
       [](Stats s) -> std::uint64_t { return s.getOutOfMemory(); }},
      {"faultline_source_bytes_total", COUNTER, "Bytes taken from the source.",
       [](Stats s) -> std::uint64_t { return s.getSourceBytes(); }},
      {"faultline_source_errors_total", COUNTER, "Failed reads of the source, each try counted.",
       [](Stats s) -> std::uint64_t { return s.getSourceErrors(); }},
      {"faultline_cold_reads_total", COUNTER, "Pages that had to wait for the source's disk.",
       [](Stats s) -> std::uint64_t { return s.getColdReads(); }},
      {"faultline_slots_recovered_total", COUNTER, "Sections that a dead thread of a shard had left.",
       [](Stats s) -> std::uint64_t { return s.getSlotsRecovered(); }},
      {"faultline_shard_extents", GAUGE, "Extents of the restore that shards own.",
       [](Stats s) -> std::uint64_t { return s.getExtents(); }},
  };
  const struct {
    const char* how;
    std::uint64_t (*value)(Stats);
  } ends[] = {
      {"copied", [](Stats s) -> std::uint64_t { return s.getCopied(); }},
      {"zero", [](Stats s) -> std::uint64_t { return s.getZeroed(); }},
      {"zero_removed", [](Stats s) -> std::uint64_t { return s.getZeroedRemoved(); }},
      {"present", [](Stats s) -> std::uint64_t { return s.getAlreadyPresent(); }},
      {"poisoned", [](Stats s) -> std::uint64_t { return s.getPoisoned(); }},
      {"gone", [](Stats s) -> std::uint64_t { return s.getDropped(); }},
  };
  const struct {
    const char *name, *help;
    Buckets buckets;
    rpc::Latency::Reader (*value)(Stats);
  } durations[] = {
      {"faultline_fault_seconds", "A fault, from its read to its page in place.", Buckets::all,
       [](Stats s) { return s.getEventToDone(); }},
      {"faultline_source_seconds", "Getting source bytes ready.", Buckets::all,
       [](Stats s) { return s.getStaging(); }},
      {"faultline_gate_wait_seconds", "A section's way into the lock.", bucketsOf(detail),
       [](Stats s) { return s.getGateWait(); }},
      {"faultline_copy_seconds", "The ioctl that puts a page in place.", bucketsOf(detail),
       [](Stats s) { return s.getCopying(); }},
  };
  const std::vector<Group> groups = groupsOf(restores, detail);
  std::string text;
  for (const auto& figure : figures) {
    Metric metric(figure.name, figure.type, figure.help);
    for (const Group& group : groups) metric.add(group.labels, group.sum(figure.value));
    text += metric.text();
  }
  Metric answered("faultline_pages_total", COUNTER, "Pages answered, by how.");
  for (const Group& group : groups)
    for (const auto& end : ends) {
      Labels labels = group.labels;
      labels.emplace_back("how", end.how);
      answered.add(labels, group.sum(end.value));
    }
  text += answered.text();
  for (const auto& duration : durations) {
    Metric metric(duration.name, HISTOGRAM, duration.help);
    for (const Group& group : groups)
      metric.addHistogram(group.labels, group.durations(duration.value), duration.buckets);
    text += metric.text();
  }
  return text;
}

// The last figures of restores that are over.
std::string endedText(const std::vector<rpc::EndedRestore::Reader>& ended) {
  Metric lasted("faultline_ended_restore_seconds", GAUGE,
                "From the begin of a restore to its end, by why it ended.");
  Metric at("faultline_ended_restore_timestamp_seconds", GAUGE, "When it ended.");
  Metric first("faultline_ended_restore_first_page_seconds", GAUGE,
               "From its begin to its first page in place for a fault; none where none was.");
  Metric pages("faultline_ended_restore_pages", GAUGE, "Its pages as it ended, by state.");
  Metric faults("faultline_ended_restore_faults", GAUGE, "Its fault messages.");
  Metric fault("faultline_ended_restore_fault_seconds", GAUGE,
               "Of its faults, from the read to the page in place: quantiles.");
  Metric bytes("faultline_ended_restore_bytes", GAUGE, "Bytes that were populated, by what.");
  for (auto each : ended) {
    const auto info = each.getInfo();
    const auto stats = each.getStats();
    const Labels labels{{"restore", info.getName().cStr()}, {"id", std::to_string(info.getId())}};
    const auto with = [&labels](const char* name, std::string value) {
      return withLabel(labels, name, std::move(value));
    };
    lasted.addNs(with("reason", rpc::nameOf(each.getReason())), info.getAgeNs());
    at.addNs(labels, each.getEndedUnixNs());
    if (stats.getFirstPageNs() != 0) first.addNs(labels, stats.getFirstPageNs());
    addPages(pages, labels, info);
    faults.add(labels, stats.getFaults());
    Durations durations;
    for (auto shard : stats.getShards()) addTo(durations, shard.getEventToDone());
    if (durations.samples() > 0) {
      fault.addNs(with("quantile", "0.5"), durations.quantile(0.5));
      fault.addNs(with("quantile", "0.99"), durations.quantile(0.99));
    }
    const rpc::Origins origins = rpc::originsOf(info, stats);
    bytes.add(with("origin", "faults"), origins.faults);
    bytes.add(with("origin", "around"), origins.around);
    bytes.add(with("origin", "background"), origins.background);
  }
  return lasted.text() + at.text() + first.text() + pages.text() + faults.text() + fault.text() +
         bytes.text();
}

}  // namespace

std::string metricsText(const ServiceFigures& figures, Detail detail) {
  return serviceText(figures.service) + stateText(figures.restores) + eventsText(figures.restores, detail) +
         shardsText(figures.restores, detail) + endedText(figures.ended);
}

std::string metricsTextOfNobody() {
  return upText(0);
}

}  // namespace faultline::cli
