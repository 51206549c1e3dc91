// One flat file, beside the build before: nothing may have got slower.
#include <algorithm>
#include <functional>

#include "bench/aim_table.h"

namespace faultline::bench {

namespace {

// The most that the noise of a run may excuse.
constexpr double MOST_LOST = 0.9;

class BeforeAims {
 public:
  explicit BeforeAims(AimTable& table) : table_(table) {}

  void measure() {
    const std::string demand = "one flat file: 4 KiB touches/s, ",
                      prefaulting = "one flat file: prefault, warm";
    for (const unsigned threads : {1u, 8u}) {
      const Workload workload = table_.demand(Placement::free, threads);
      side(demand + std::to_string(threads) + (threads == 1 ? " thread" : " threads"), "/s", false,
           [&](const Faultline& server) {
             return table_.measure(workload, server.backing()).touchesPerSecond();
           });
    }
    side(prefaulting, "GiB/s", true, [&](const Faultline& server) {
      const std::uint64_t bytes = table_.image().dataBytes;
      makeWarm(table_.image());
      return static_cast<double>(bytes) / static_cast<double>(GIB) /
             prefault(server, {.bytes = bytes}).seconds;
    });
  }

 private:
  // Two servers of the build before tell the noise: the worst that one is beside the other in a round is no loss.
  void side(const std::string& what, const std::string& unit, bool populate,
            const std::function<double(const Faultline&)>& figure) {
    if (!table_.wanted(what)) return;
    if (table_.before().empty())
      return AimTable::leaveOut(what, "needs --before, an earlier build's programs");
    const auto ours = table_.faultline({.prefault = populate});
    const auto before = table_.faultline({.prefault = populate, .build = table_.before()}),
               again = table_.faultline({.prefault = populate, .build = table_.before()});
    const auto runs = interleave<double>(
        table_.rounds(),
        {[&] { return figure(*ours); }, [&] { return figure(*before); }, [&] { return figure(*again); }});
    double noise = 1;
    for (std::size_t round = 0; round < runs[0].size(); round++)
      noise = std::min({noise, runs[1][round] / runs[2][round], runs[2][round] / runs[1][round]});
    const Comparison result = compareBy<double>(runs[0], runs[1], [](double value) { return value; });
    table_.add({what, unit, result.ours, result.theirs, "the build before", result.ratio, Aim::atLeast,
                std::max(noise, MOST_LOST)});
  }

  AimTable& table_;
};

}  // namespace

void beforeAims(AimTable& table) {
  BeforeAims(table).measure();
}

}  // namespace faultline::bench
