// Lazily, without population, by the pattern of the touches: beside the handler that copies 64 KiB around
// each fault, beside our own single pages, and cold beside the mapped file.
#include <fmt/format.h>

#include "bench/aim_table.h"

namespace faultline::bench {

namespace {

std::string named(const std::string& what, Pattern pattern, unsigned threads) {
  return fmt::format("{}, {}, {} thread{}", what, nameOf(pattern), threads, threads == 1 ? "" : "s");
}

class PatternAims {
 public:
  explicit PatternAims(AimTable& table) : table_(table) {}

  void measure() {
    for (const Pattern pattern : {Pattern::random, Pattern::clusters, Pattern::sequential})
      for (const unsigned threads : {1u, 4u}) dense(pattern, threads);
    runs();
    againstSinglePages(Pattern::scattered, 0.6);
    againstSinglePages(Pattern::sparse, 0.9);
    for (const Pattern pattern : {Pattern::clusters, Pattern::sequential}) cold(pattern);
  }

 private:
  using Runs = std::vector<std::vector<Measured>>;

  Runs side(const Workload& workload, const Handler& ours, const Handler& theirs) const {
    return interleave<Measured>(table_.rounds(),
                                {[&] { return table_.measure(workload, ours.backing()); },
                                 [&] { return table_.measure(workload, theirs.backing()); }});
  }

  void addRate(const std::string& what, const Runs& runs, const std::string& against, double bound) {
    const Comparison rate =
        compareBy<Measured>(runs[0], runs[1], [](const Measured& m) { return m.touchesPerSecond(); });
    table_.add({what, "/s", rate.ours, rate.theirs, against, rate.ratio, Aim::atLeast, bound});
  }

  void dense(Pattern pattern, unsigned threads) {
    const bool random = pattern == Pattern::random;
    const std::string what = named("lazily, touches/s", pattern, threads);
    const std::string cpu = named("server CPU a page", pattern, threads);
    if (!table_.wanted(what) && !table_.wanted(cpu)) return;
    const auto ours = table_.faultline({});
    const auto around = table_.around();
    Workload workload = table_.demand(Placement::free, threads);
    workload.pattern = pattern;
    const Runs runs = side(workload, *ours, *around);
    addRate(what, runs, "64 KiB around", random ? (threads == 1 ? 0.5 : 0.6) : 0.7);
    if (threads == 1) return;
    const Comparison time = compareBy<Measured>(
        runs[0], runs[1], [](const Measured& m) { return 1e6 * m.serverSecondsATouch(); });
    table_.add({cpu, "us", time.ours, time.theirs, "64 KiB around", time.ratio,
                random ? Aim::none : Aim::atMost, 1.6});
  }

  Workload overAll(Pattern pattern) const {
    return {.bytes = table_.image().dataBytes, .threads = 4, .pattern = pattern};
  }

  void runs() {
    const std::string what = named("lazily, touches/s", Pattern::runs, 4);
    if (!table_.wanted(what)) return;
    const auto ours = table_.faultline({});
    const auto around = table_.around();
    addRate(what, side(overAll(Pattern::runs), *ours, *around), "64 KiB around", 1.0);
  }

  void againstSinglePages(Pattern pattern, double bound) {
    const std::string what = named("lazily, touches/s", pattern, 4);
    if (!table_.wanted(what)) return;
    const auto ours = table_.faultline({}), single = table_.faultline({.around = "off"});
    addRate(what, side(overAll(pattern), *ours, *single), "single pages", bound);
  }

  void cold(Pattern pattern) {
    const std::string what = named("cold, touches/s", pattern, 4);
    if (!table_.wanted(what)) return;
    const auto ours = table_.faultline({});
    const Workload workload{.bytes = (table_.quick() ? 128 : 512) * MIB, .threads = 4, .pattern = pattern};
    const auto once = [&](const Backing& backing) {
      makeCold(table_.image());
      return run(workload, table_.image(), backing);
    };
    addRate(what,
            interleave<Measured>(table_.rounds(), {[&] { return once(ours->backing()); },
                                                   [&] { return once({.kind = Backing::Kind::file}); }}),
            "mapped file, cold", 0.9);
  }

  AimTable& table_;
};

}  // namespace

void patternAims(AimTable& table) {
  PatternAims(table).measure();
}

}  // namespace faultline::bench
