// With the background population, which is the default.
#include <fmt/format.h>

#include "bench/aim_table.h"
#include "bench/bulk.h"

namespace faultline::bench {

namespace {

class PopulationAims {
 public:
  explicit PopulationAims(AimTable& table) : table_(table) {}

  void measure() {
    all();
    rareFaults();
    for (const unsigned restores : {1u, 4u, 16u}) atOnce(restores);
    workingSets();
  }

 private:
  static constexpr std::uint64_t EACH = 128 * MIB;
  static constexpr unsigned MANY = 16;

  double bulkSeconds(std::uint64_t bytes) const {
    const std::uint64_t call = 2 * MIB;
    return static_cast<double>(bytes) / static_cast<double>(GIB) /
           bulkCopy(2, call, std::max(call, bytes / call * call), 4096, Placement::free);
  }

  void all() {
    const std::uint64_t bytes = table_.image().dataBytes;
    const std::string what =
        fmt::format("{} MiB touched by 4 threads, with population, handshake to end", bytes / MIB);
    if (!table_.wanted(what)) return;
    const auto ours = table_.faultline({.prefault = true});
    const Comparison result = compare(
        table_.rounds(),
        [&] { return table_.measure({.bytes = bytes, .threads = 4}, ours->backing()).wholeSeconds; },
        [&] { return bulkSeconds(bytes); });
    table_.add({what, "s", result.ours, result.theirs, "bulk, 2 threads", result.ratio, Aim::atMost, 3.0});
  }

  // Touches until the population is through: 500 us apart, so that it takes turns with them.
  void rareFaults() {
    const std::string what = "rare faults (4 threads, 500 us apart), p99, with population";
    if (!table_.wanted(what)) return;
    const Workload workload{
        .bytes = 8 * MIB, .regionBytes = table_.image().dataBytes, .threads = 4, .pauseUs = 500};
    const auto p99 = [&](const Faultline& server) {
      return micro(table_.measure(workload, server.backing()).latency.quantile(0.99));
    };
    const auto ours = table_.faultline({.prefault = true});
    if (table_.before().empty()) {
      std::vector<double> times;
      for (unsigned round = 0; round < table_.rounds(); round++) times.push_back(p99(*ours));
      return table_.add({what, "us", median(times), 0, "", median(times), Aim::none, 0});
    }
    const auto earlier = table_.faultline({.prefault = true, .build = table_.before()});
    const Comparison result = compare(
        table_.rounds(), [&] { return p99(*ours); }, [&] { return p99(*earlier); });
    table_.add({what, "us", result.ours, result.theirs, "the build before", result.ratio, Aim::atMost, 1.2});
  }

  // Against the time that the kernel alone takes to map the same, and the time that its bytes take to be
  // copied.
  void atOnce(const std::string& what, unsigned restores, const Workload& workload, std::uint64_t bytes,
              const Faultline& ours, Aim aim, double bound) {
    const auto seconds = [&](const Backing& backing) {
      makeWarm(table_.image(), EACH);
      return secondsOfRestoresAtOnce(restores, workload, table_.image(), backing);
    };
    const Comparison result = compare(
        table_.rounds(), [&] { return seconds(ours.backing()); },
        [&] { return seconds({.kind = Backing::Kind::file}) + bulkSeconds(bytes); });
    table_.add({what, "s", result.ours, result.theirs, "mapped file + bulk", result.ratio, aim, bound});
  }

  void atOnce(unsigned restores) {
    const std::string what = fmt::format("{} restore{} of 128 MiB{}, until all is touched", restores,
                                         restores == 1 ? "" : "s", restores == 1 ? "" : " at once");
    if (!table_.wanted(what)) return;
    const auto ours = table_.faultline({.prefault = true});
    atOnce(what, restores, {.bytes = EACH}, restores * EACH, *ours, restores == 1 ? Aim::none : Aim::atMost,
           restores == MANY ? 1.8 : 2.0);
  }

  void workingSets() {
    const std::string what = fmt::format("{} restores at once, each with a working set of 5 %", MANY);
    if (!table_.wanted(what)) return;
    const Workload workload{.bytes = EACH, .pattern = Pattern::runs};
    const std::string file = table_.directory() + "/working-set";
    std::uint64_t touched = 0;
    {
      const auto recording = table_.faultline({.around = "off", .recordWorkingSet = true});
      touched = run(workload, table_.image(), recording->backing(),
                    {.whileThere = [&] { recording->saveWorkingSet(file); }})
                    .touches;
    }
    const auto ours = table_.faultline({.prefault = true, .workingSet = file});
    atOnce(what, MANY, workload, MANY * touched * 4096, *ours, Aim::atMost, 1.5);
  }

  AimTable& table_;
};

}  // namespace

void populationAims(AimTable& table) {
  PopulationAims(table).measure();
}

}  // namespace faultline::bench
