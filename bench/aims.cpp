#include "bench/aims.h"

#include <fmt/format.h>
#include <kj/exception.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#include "bench/aim_table.h"
#include "bench/bulk.h"
#include "bench/cold.h"
#include "bench/handler.h"
#include "bench/huge_pages.h"
#include "bench/image.h"
#include "bench/resident.h"

namespace faultline::bench {

namespace {

constexpr std::array PLACEMENTS = {Placement::oneCpu, Placement::across, Placement::free};

double mebibytes(std::uint64_t bytes) {
  return static_cast<double>(bytes) / static_cast<double>(MIB);
}

// Aims of single faults, and of prefault, attach and memory.
class Aims : public AimTable {
 public:
  using AimTable::AimTable;

  std::vector<Verdict> measureAll() {
    requireEarlierBuild();
    printHead();
    oneThread();
    manyThreads();
    cpuTime();
    hugePages();
    patternAims(*this);
    populationAims(*this);
    holeAims(*this);
    layerAims(*this);
    packedAims(*this);
    nbdAims(*this);
    remoteAims(*this);
    slowAims(*this);
    beforeAims(*this);
    prefault();
    faultsDuringPrefault();
    beside5000Removals();
    cold();
    gate();
    attach();
    shardMemory();
    memory();
    for (const bool allOwn : {false, true}) manyShards(allOwn);
    return verdicts();
  }

 private:
  // An earlier build may have another control interface: that is said before the first minute has passed.
  void requireEarlierBuild() const {
    if (before().empty()) return;
    try {
      faultline({.build = before()})->shardPids();
    } catch (const kj::Exception& error) {
      throw std::runtime_error("the programs in " + before() + " cannot be measured by this bench (" +
                               error.getDescription().cStr() + "): name those of a later build");
    }
  }

  void oneThread() {
    for (const Placement placement : PLACEMENTS) oneThread(placement, false);
    if (mayPollIdle()) oneThread(Placement::free, true);
  }

  static bool mayPollIdle() { return access("/dev/cpu_dma_latency", W_OK) == 0; }
  static std::string placed(Placement placement, bool pollIdle) {
    return nameOf(placement) + (pollIdle ? ", idle CPUs poll for us" : "");
  }

  void oneThread(Placement placement, bool pollIdle) {
    const std::string what = "4 KiB fault, p50, 1 thread, " + placed(placement, pollIdle);
    if (!wanted(what)) return;
    const auto floor = floorAt(placement);
    const auto ours = faultline({.placement = placement, .pollIdle = pollIdle, .around = "off"});
    const Workload workload = demand(placement, 1);
    const Comparison result = compare(
        rounds(), [&] { return p50(workload, ours->backing()); },
        [&] { return p50(workload, floor->backing()); });
    if (placement == Placement::oneCpu) floorOnOneCpu_ = result.theirs;
    const bool crosses = placement == Placement::across || (!pollIdle && floorCrosses(result.theirs));
    add({what, "us", result.ours, result.theirs, "floor", result.ratio, Aim::atMost, crosses ? 1.5 : 2.0});
  }

  // Whether the floor, left free, has to wake another CPU: half of its time is that, and ours has no more of
  // it.
  bool floorCrosses(double freely) {
    if (floorOnOneCpu_ == 0)
      floorOnOneCpu_ = p50(demand(Placement::oneCpu, 1), floorAt(Placement::oneCpu)->backing());
    return freely > 2 * floorOnOneCpu_;
  }

  void manyThreads() {
    for (const unsigned threads : {8u, 32u}) {
      manyThreads(threads, Placement::free, false);
      if (mayPollIdle()) manyThreads(threads, Placement::free, true);
      manyThreads(threads, Placement::oneCpu, false);
    }
  }

  void manyThreads(unsigned threads, Placement placement, bool pollIdle) {
    const std::string what =
        fmt::format("4 KiB faults/s, {} threads, {}", threads, placed(placement, pollIdle));
    if (!wanted(what)) return;
    const Workload workload = demand(placement, threads);
    const auto ours = faultline({.placement = placement, .pollIdle = pollIdle, .around = "off"});
    const auto floor = floorAt(placement);
    const PlainHandler calls("calls", directory(), image().path, placement);
    const std::vector<Comparison> results = compareWithEach(
        rounds(), 2, [&] { return perSecond(workload, ours->backing()); },
        [&](std::size_t i) { return perSecond(workload, i == 0 ? floor->backing() : calls.backing()); });
    add({what, "/s", results[0].ours, results[0].theirs, "floor", results[0].ratio, Aim::atLeast, 0.8});
    add({what, "/s", results[1].ours, results[1].theirs, "one call a fault", results[1].ratio, Aim::atLeast,
         2.5});
  }

  // CPU time of all processes of a server, a touched page.
  void cpuTime() {
    const std::string what = "CPU time a 4 KiB fault, all our processes, 8 threads";
    if (!wanted(what)) return;
    const auto ours = faultline({.around = "off"});
    const auto floor = floorAt(Placement::free);
    const Workload workload = demand(Placement::free, 8);
    const auto time = [&](const Handler& server) {
      return 1e6 * measure(workload, server.backing()).serverSecondsATouch();
    };
    const Comparison result = compare(
        rounds(), [&] { return time(*ours); }, [&] { return time(*floor); });
    add({what, "us", result.ours, result.theirs, "floor", result.ratio, Aim::atMost, 2.0});
  }

  void hugePages() {
    for (const unsigned threads : {1u, 4u}) hugePages(threads);
  }

  // Measures more than 1000 faults over all rounds. A restore takes a millisecond to begin, as long as some
  // faults: it has begun before the faults are counted.
  void hugePages(unsigned threads) {
    const std::string what =
        fmt::format("2 MiB faults/s, {} thread{}, free", threads, threads == 1 ? "" : "s");
    if (!wanted(what)) return;
    const std::uint64_t pages = 112;
    const Workload workload{
        .bytes = pages * 2 * MIB, .pageSize = 2 * MIB, .threads = threads, .restoreBegun = true};
    if (freeHugePages() < pages + 1)
      return leaveOut(what, "needs 113 free huge pages: echo 128 > /proc/sys/vm/nr_hugepages");
    const auto ours = faultline({});
    const auto floor = floorAt(Placement::free);
    const unsigned runs = static_cast<unsigned>(1000 / (pages * rounds())) + 1;
    const auto rate = [&](const Handler& server) {
      double faults = 0, seconds = 0;
      for (unsigned i = 0; i < runs; i++) {
        const Measured measured = measure(workload, server.backing());
        faults += static_cast<double>(measured.touches);
        seconds += measured.seconds;
      }
      return faults / seconds;
    };
    const Comparison result = compare(
        rounds(), [&] { return rate(*ours); }, [&] { return rate(*floor); });
    add({what, "/s", result.ours, result.theirs, "floor", result.ratio, Aim::atLeast, 0.9});
  }

  // GiB/s.
  double prefaultOnce(const Faultline& ours, bool negotiateRemove) const {
    makeWarm(image());
    return static_cast<double>(image().dataBytes) / static_cast<double>(GIB) /
           bench::prefault(ours, {.bytes = image().dataBytes, .negotiateRemove = negotiateRemove}).seconds;
  }

  void prefault() {
    // The calls that faultline makes: of one section (docs/performance), where removals can come and not.
    const struct {
      bool remove;
      std::uint64_t call;
    } cases[] = {{false, 2 * MIB}, {true, 128 << 10}};
    for (const auto& [remove, call] : cases) {
      const std::string what =
          fmt::format("prefault, warm, 2 shards, {} REMOVE", remove ? "with" : "without");
      if (!wanted(what)) continue;
      const auto ours = faultline({.prefault = true});
      const Comparison result = compare(
          rounds(), [&, removals = remove] { return prefaultOnce(*ours, removals); },
          [&, size = call] { return bulkCopy(2, size, image().dataBytes, 4096, Placement::free); });
      add({what, "GiB/s", result.ours, result.theirs, fmt::format("bulk, {} KiB calls", call >> 10),
           result.ratio, Aim::atLeast, 0.95});
      if (!remove) add({what + ", speed", "GiB/s", result.ours, 0, "", result.ours, Aim::atLeast, 2.5});
    }
  }

  void faultsDuringPrefault() {
    const std::string what = "4 KiB fault, p99, 1 thread, while prefaulting";
    if (!wanted(what)) return;
    const auto busy = faultline({.prefault = true});
    const auto idle = faultline({});
    Workload workload = demand(Placement::free, 1);
    workload.regionBytes = image().dataBytes;  // keeps the prefault from ending before the touches
    auto p99 = [&](Faultline& server) {
      return micro(measure(workload, server.backing()).latency.quantile(0.99));
    };
    const Comparison result = compare(
        rounds(), [&] { return p99(*busy); }, [&] { return p99(*idle); });
    add({what, "us", result.ours, result.theirs, "without prefault", result.ratio, Aim::atMost, 2.0});
  }

  // The disk's rate, or where it is faster than we are at our best, ours.
  void cold() {
    const std::string what = "cold 4 KiB reads/s, 32 threads, one page in 16";
    if (!wanted(what)) return;
    if (!haveFio()) return leaveOut(what, "needs fio: ./scripts/deps --bench");
    const auto ours = faultline({});
    const Workload workload{.bytes = image().dataBytes, .threads = 32, .pattern = Pattern::sparse};
    const auto rate = [&] { return run(workload, image(), ours->backing()).perSecond(); };
    const Comparison result = compare(
        rounds(),
        [&] {
          makeCold(image());
          return rate();
        },
        [&] {
          makeCold(image());
          const double disk = fioReads(image(), 32, image().dataBytes / 16);
          makeWarm(image());
          return std::min(disk, rate());
        });
    add({what, "/s", result.ours, result.theirs, "fio direct, own warm", result.ratio, Aim::atLeast, 0.85});
  }

  // The cost of clusters of removals for threads that wait for other pages.
  void beside5000Removals() {
    const std::string what = "beside 5000 removals/s, 4 threads: ";
    if (!wanted(what + "madvise p99") && !wanted(what + "fault p99")) return;
    Workload workload = demand(Placement::free, 4);
    workload.removesPerSecond = 5000;
    const auto ours = faultline({}), single = faultline({.around = "off"});
    const auto runs = interleave<Measured>(rounds(), {[&] { return measure(workload, ours->backing()); },
                                                      [&] { return measure(workload, single->backing()); }});
    const auto line = [&](const std::string& name, target::LatencyHistogram Measured::*histogram) {
      const Comparison result = compareBy<Measured>(
          runs[0], runs[1], [&](const Measured& m) { return micro((m.*histogram).quantile(0.99)); });
      add({what + name, "us", result.ours, result.theirs, "single pages", result.ratio, Aim::atMost, 1.5});
    };
    line("madvise p99", &Measured::givingBack);
    line("fault p99", &Measured::latency);
  }

  void gate() {
    for (const unsigned threads : {1u, 8u}) {
      const std::string what = fmt::format("cost of the gate: faults/s with REMOVE, {} threads", threads);
      if (!wanted(what)) continue;
      const auto ours = faultline({});
      Workload with = demand(Placement::free, threads), without = with;
      without.negotiateRemove = false;
      const Comparison result = compare(
          rounds(), [&] { return perSecond(with, ours->backing()); },
          [&] { return perSecond(without, ours->backing()); });
      add({what, "/s", result.ours, result.theirs, "without REMOVE", result.ratio, Aim::atLeast, 0.85});
    }
  }

  void attach() {
    const std::string path = directory() + "/sparse";
    const BenchImage sparse{path, makeImage(path, 2 * MIB, 0).dataBytes};
    std::filesystem::resize_file(path, 64 * GIB);
    for (const unsigned shards : {2u, 16u}) {
      const std::string what = fmt::format("attach to first page, 64 GiB sparse, {} shards", shards);
      if (!wanted(what)) continue;
      const Faultline ours(directory(), path, {.shards = shards});
      std::vector<double> times;
      for (unsigned round = 0; round < rounds(); round++)
        times.push_back(1e3 * attachSeconds(sparse, 64 * GIB, ours.backing()));
      const double time = median(times);
      add({what, "ms", time, 0, "", time, Aim::atMost, 10});
    }
    std::filesystem::remove(path);
  }

  // The largest, when every page of a region of that size has come, its target still there.
  Resident shardAfter(bool populated, std::uint64_t bytes) const {
    makeWarm(image(), bytes);
    const auto ours = faultline({.prefault = populated});
    const std::vector<pid_t> shards = ours->shardPids();
    Resident largest;
    const auto look = [&] {
      for (const pid_t shard : shards)
        if (const Resident resident = residentOf(shard); resident.all > largest.all) largest = resident;
    };
    if (populated)
      bench::prefault(*ours, {.bytes = bytes}, 0, look);
    else
      run({.bytes = bytes, .threads = 8}, image(), ours->backing(), {.whileThere = look});
    return largest;
  }

  void shardMemory() {
    const std::uint64_t large = image().dataBytes, small = large / 4;
    const std::string against = fmt::format("after {} MiB", small / MIB);
    for (const bool populated : {false, true}) {
      const std::string what =
          fmt::format("memory: a shard after {} MiB by {}", large / MIB, populated ? "prefault" : "faults");
      if (!wanted(what)) continue;
      const Resident few = shardAfter(populated, small), many = shardAfter(populated, large);
      // The aim is of the whole, whatever it is made of; the parts say what it is.
      const auto row = [&](const std::string& part, std::uint64_t Resident::*figure, Aim aim) {
        const double ours = mebibytes(many.*figure), theirs = mebibytes(few.*figure);
        add({what + part, "MiB", ours, theirs, against, ours / std::max(theirs, 1e-3), aim, 1.1});
      };
      row("", &Resident::all, Aim::atMost);
      row(", its own", &Resident::anonymous, Aim::atMost);
      row(", mapped files", &Resident::mapped, Aim::none);
      row(", segments", &Resident::shared, Aim::none);
    }
  }

  void memory() {
    const std::string what = "memory: tracker and journal, 4 GiB region";
    if (!wanted(what)) return;
    const std::string path = directory() + "/sparse";
    makeImage(path, 2 * MIB, 0);
    std::filesystem::resize_file(path, 4 * GIB);
    const BenchImage sparse{path, 4 * GIB};
    Faultline server(directory(), path, {});
    const IdleTarget target({.bytes = sparse.dataBytes}, server.backing());
    const auto client = server.connect();
    auto response = client->wait(restoreAfter(*client, 0).infoRequest().send());
    const double percent =
        100 * static_cast<double>(response.getInfo().getSegmentBytes()) / static_cast<double>(4 * GIB);
    add({what, "%", percent, 0, "", percent, Aim::atMost, 0.03});
    std::filesystem::remove(path);
  }

  // A restore is dealt out to as many shards as there are CPUs: the others have nothing to do with it. The
  // saving of the default is seen where each shard owns some of it.
  void manyShards(bool allOwn) {
    const std::string what = fmt::format("16 shards, faults/s, 8 threads, {}",
                                         allOwn ? "all are owners" : "as many owners as CPUs");
    if (!wanted(what)) return;
    const Workload workload = demand(Placement::free, 8);
    auto start = [&](unsigned shards) {
      return faultline({.shards = shards, .owners = allOwn ? shards : 0});
    };
    std::vector<std::unique_ptr<Faultline>> few;
    for (const unsigned shards : {1u, 2u, 4u, 8u}) few.push_back(start(shards));
    const auto many = start(16);
    const std::vector<Comparison> results = compareWithEach(
        rounds(), few.size(), [&] { return perSecond(workload, many->backing()); },
        [&](std::size_t i) { return perSecond(workload, few[i]->backing()); });
    const Comparison& result = *std::ranges::min_element(results, {}, &Comparison::ratio);
    add({what, "/s", result.ours, result.theirs, "best of 1, 2, 4, 8", result.ratio,
         allOwn ? Aim::none : Aim::atLeast, 0.85});
  }

  double floorOnOneCpu_ = 0;  // us; 0: not measured yet
};

}  // namespace

std::vector<Verdict> measureAims(const AimOptions& options) {
  return Aims(options).measureAll();
}

}  // namespace faultline::bench
