#include "bench/aims.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <memory>
#include <optional>

#include "bench/bulk.h"
#include "bench/cold.h"
#include "bench/handler.h"
#include "bench/huge_pages.h"
#include "bench/image.h"
#include "bench/resident.h"

namespace faultline::bench {

namespace {

using Aim = Verdict::Aim;

constexpr std::uint64_t MIB = 1u << 20, GIB = 1u << 30;
constexpr std::array PLACEMENTS = {Placement::oneCpu, Placement::across, Placement::free};

double mebibytes(std::uint64_t bytes) {
  return static_cast<double>(bytes) / static_cast<double>(MIB);
}

double micro(std::uint64_t ns) {
  return static_cast<double>(ns) * 1e-3;
}

class Aims {
 public:
  explicit Aims(const AimOptions& options)
      : options_(options),
        image_(makeImage(options.directory + "/image", options.quick ? 512 * MIB : GIB, 64 * MIB)) {}

  std::vector<Verdict> measure() {
    printHead();
    oneThread();
    manyThreads();
    hugePages();
    prefault();
    faultsDuringPrefault();
    cold();
    gate();
    attach();
    shardMemory();
    memory();
    for (const bool allOwn : {false, true}) manyShards(allOwn);
    return std::move(verdicts_);
  }

 private:
  bool wanted(const std::string& what) const { return what.find(options_.only) != std::string::npos; }

  void add(Verdict verdict) {
    print(verdict);
    verdicts_.push_back(std::move(verdict));
  }

  Workload demand(Placement placement, unsigned threads) const {
    return {.bytes = (options_.quick ? 64 : 128) * MIB, .threads = threads, .placement = placement};
  }

  Measured measure(const Workload& workload, const std::string& socket) const {
    makeWarm(image_);
    return run(workload, image_, socket);
  }
  double p50(const Workload& workload, const std::string& socket) const {
    return micro(measure(workload, socket).latency.quantile(0.5));
  }
  double perSecond(const Workload& workload, const std::string& socket) const {
    return measure(workload, socket).perSecond();
  }
  std::unique_ptr<Handler> floorAt(Placement placement) const {
    return std::make_unique<PlainHandler>("floor", options_.directory, image_.path, placement);
  }
  std::unique_ptr<Faultline> faultline(FaultlineOptions options) const {
    return std::make_unique<Faultline>(options_.directory, image_.path, options);
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
    const auto ours = faultline({.placement = placement, .pollIdle = pollIdle});
    const Workload workload = demand(placement, 1);
    const Comparison result = compare(
        options_.rounds, [&] { return p50(workload, ours->socket()); },
        [&] { return p50(workload, floor->socket()); });
    add({what, "us", result.ours, result.theirs, "floor", result.ratio, Aim::atMost,
         placement == Placement::oneCpu ? 2.0 : 1.5});
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
    const auto ours = faultline({.placement = placement, .pollIdle = pollIdle});
    const auto floor = floorAt(placement);
    const PlainHandler calls("calls", options_.directory, image_.path, placement);
    const std::vector<Comparison> results = compareWithEach(
        options_.rounds, 2, [&] { return perSecond(workload, ours->socket()); },
        [&](std::size_t i) { return perSecond(workload, i == 0 ? floor->socket() : calls.socket()); });
    add({what, "/s", results[0].ours, results[0].theirs, "floor", results[0].ratio, Aim::atLeast, 0.8});
    add({what, "/s", results[1].ours, results[1].theirs, "one call a fault", results[1].ratio, Aim::atLeast,
         2.5});
  }

  void hugePages() {
    const std::string what = "2 MiB faults/s, 1 thread, free";
    if (!wanted(what)) return;
    Workload workload = demand(Placement::free, 1);
    workload.pageSize = 2 * MIB;
    workload.bytes = 128 * MIB;
    if (freeHugePages() < workload.bytes / workload.pageSize + 1)
      return leaveOut(what, "needs 65 free huge pages: echo 128 > /proc/sys/vm/nr_hugepages");
    const auto ours = faultline({});
    const auto floor = floorAt(Placement::free);
    const Comparison result = compare(
        options_.rounds, [&] { return perSecond(workload, ours->socket()); },
        [&] { return perSecond(workload, floor->socket()); });
    add({what, "/s", result.ours, result.theirs, "floor", result.ratio, Aim::atLeast, 0.9});
  }

  // GiB/s.
  double prefaultOnce(const Faultline& ours, bool negotiateRemove) const {
    makeWarm(image_);
    return static_cast<double>(image_.dataBytes) / static_cast<double>(GIB) /
           bench::prefault(ours, {.bytes = image_.dataBytes, .negotiateRemove = negotiateRemove}).seconds;
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
          options_.rounds, [&] { return prefaultOnce(*ours, remove); },
          [&, size = call] { return bulkCopy(2, size, image_.dataBytes, 4096, Placement::free); });
      add({what, "GiB/s", result.ours, result.theirs, fmt::format("bulk, {} KiB calls", call >> 10),
           result.ratio, Aim::atLeast, 0.9});
      if (!remove) add({what + ", speed", "GiB/s", result.ours, 0, "", result.ours, Aim::atLeast, 2.5});
    }
  }

  void faultsDuringPrefault() {
    const std::string what = "4 KiB fault, p99, 1 thread, while prefaulting";
    if (!wanted(what)) return;
    const auto busy = faultline({.prefault = true});
    const auto idle = faultline({});
    Workload workload = demand(Placement::free, 1);
    workload.regionBytes = image_.dataBytes;  // so that the prefault is not over before the touches
    auto p99 = [&](Faultline& server) {
      return micro(measure(workload, server.socket()).latency.quantile(0.99));
    };
    const Comparison result = compare(
        options_.rounds, [&] { return p99(*busy); }, [&] { return p99(*idle); });
    add({what, "us", result.ours, result.theirs, "without prefault", result.ratio, Aim::atMost, 2.0});
  }

  void cold() {
    const std::string what = "cold 4 KiB reads/s, 32 threads";
    if (!wanted(what)) return;
    const auto ours = faultline({});
    if (!haveFio()) return leaveOut(what, "needs fio: ./scripts/deps --bench");
    Workload workload = demand(Placement::free, 32);
    workload.bytes = 32 * MIB;
    const Comparison result = compare(
        options_.rounds,
        [&] {
          makeCold(image_);
          return run(workload, image_, ours->socket()).perSecond();
        },
        [&] {
          makeCold(image_);
          return fioReads(image_, 32, workload.bytes);
        });
    add({what, "/s", result.ours, result.theirs, "fio, depth 32, direct", result.ratio, Aim::atLeast, 0.9});
  }

  void gate() {
    for (const unsigned threads : {1u, 8u}) {
      const std::string what = fmt::format("cost of the gate: faults/s with REMOVE, {} threads", threads);
      if (!wanted(what)) continue;
      const auto ours = faultline({});
      Workload with = demand(Placement::free, threads), without = with;
      without.negotiateRemove = false;
      const Comparison result = compare(
          options_.rounds, [&] { return perSecond(with, ours->socket()); },
          [&] { return perSecond(without, ours->socket()); });
      add({what, "/s", result.ours, result.theirs, "without REMOVE", result.ratio, Aim::atLeast, 0.85});
    }
  }

  void attach() {
    const std::string path = options_.directory + "/sparse";
    const BenchImage sparse{path, makeImage(path, 2 * MIB, 0).dataBytes};
    std::filesystem::resize_file(path, 64 * GIB);
    for (const unsigned shards : {2u, 16u}) {
      const std::string what = fmt::format("attach to first page, 64 GiB sparse, {} shards", shards);
      if (!wanted(what)) continue;
      const Faultline ours(options_.directory, path, {.shards = shards});
      std::vector<double> times;
      for (unsigned round = 0; round < options_.rounds; round++)
        times.push_back(1e3 * attachSeconds(sparse, 64 * GIB, ours.socket()));
      const double time = median(times);
      add({what, "ms", time, 0, "", time, Aim::atMost, 10});
    }
    std::filesystem::remove(path);
  }

  // The largest, when every page of a region of that size has come, its target still there.
  Resident shardAfter(bool populated, std::uint64_t bytes) const {
    makeWarm(image_, bytes);
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
      run({.bytes = bytes, .threads = 8}, image_, ours->socket(), look);
    return largest;
  }

  void shardMemory() {
    const std::uint64_t large = image_.dataBytes, small = large / 4;
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
    const std::string path = options_.directory + "/sparse";
    makeImage(path, 2 * MIB, 0);
    std::filesystem::resize_file(path, 4 * GIB);
    const BenchImage sparse{path, 4 * GIB};
    Faultline server(options_.directory, path, {});
    const IdleTarget target({.bytes = sparse.dataBytes}, server.socket());
    const auto client = server.connect();
    auto response = client->wait(restoreAfter(*client, 0).infoRequest().send());
    const double percent =
        100 * static_cast<double>(response.getInfo().getSegmentBytes()) / static_cast<double>(4 * GIB);
    add({what, "%", percent, 0, "", percent, Aim::atMost, 0.03});
    std::filesystem::remove(path);
  }

  // A restore is dealt out to as many shards as there are CPUs: the others have nothing to do with it. What
  // the default spares is seen where each shard owns some of it.
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
        options_.rounds, few.size(), [&] { return perSecond(workload, many->socket()); },
        [&](std::size_t i) { return perSecond(workload, few[i]->socket()); });
    const Comparison& result = *std::ranges::min_element(results, {}, &Comparison::ratio);
    add({what, "/s", result.ours, result.theirs, "best of 1, 2, 4, 8", result.ratio,
         allOwn ? Aim::none : Aim::atLeast, 0.85});
  }

  static void leaveOut(const std::string& what, const std::string& why) {
    fmt::print(stderr, "left out: {}: {}\n", what, why);
  }

  const AimOptions options_;
  const BenchImage image_;
  std::vector<Verdict> verdicts_;
};

}  // namespace

std::vector<Verdict> measureAims(const AimOptions& options) {
  return Aims(options).measure();
}

}  // namespace faultline::bench
