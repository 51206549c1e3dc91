// Holes of the source: memory that is zero for good.
#include <fmt/format.h>

#include <filesystem>

#include "bench/aim_table.h"

namespace faultline::bench {

namespace {

class HoleAims {
 public:
  explicit HoleAims(AimTable& table) : table_(table) {}

  void measure() {
    for (const bool hugePages : {false, true}) firstWrite(hugePages);
    faultsThatReachUs();
    oneMadvise();
  }

 private:
  void firstWrite(bool hugePages) {
    const std::string what = fmt::format("first write of a hole, p50, {}", hugePages ? "THP" : "no THP");
    if (!table_.wanted(what)) return;
    const auto ours = table_.faultline({});
    const Workload workload{.bytes = 32 * MIB, .touch = Touch::zeroWrite, .hugePages = hugePages};
    const auto p50 = [&](const Backing& backing) {
      return micro(run(workload, table_.image(), backing).anyTouch.quantile(0.5));
    };
    const Comparison result = compare(
        table_.rounds(), [&] { return p50(ours->backing()); },
        [&] { return p50({.kind = Backing::Kind::anonymous}); });
    table_.add({what, "us", result.ours, result.theirs, "anonymous memory", result.ratio, Aim::atMost, 1.2});
  }

  void faultsThatReachUs() {
    const std::string what = "faults that reach us, 4/5 of the image are holes of 8 MiB";
    if (!table_.wanted(what)) return;
    const std::uint64_t bytes = 80 * MIB, dataPages = bytes / 5 / 4096;
    const BenchImage image =
        makeStripedImage(table_.directory() + "/striped", bytes, {.data = 2 * MIB, .hole = 8 * MIB});
    const Faultline ours(table_.directory(), image.path, {});
    const Workload workload{.bytes = bytes, .threads = 4};
    std::uint64_t faults = 0;
    const auto client = ours.connect();
    const std::uint64_t before = newestRestore(*client);
    run(workload, image, ours.backing(), {.whileThere = [&] {
          auto response = client->wait(restoreAfter(*client, before).statsRequest().send());
          faults = response.getStats().getFaults();
        }});
    const auto pages = static_cast<double>(dataPages), read = static_cast<double>(faults);
    table_.add({what, "", read, pages, "pages with content", read / pages, Aim::atMost, 1.01});
    std::filesystem::remove(image.path);
  }

  // An event for each registered piece of the range, and the madvise waits for all of them.
  void oneMadvise() {
    const std::string what = "one madvise of 256 MiB, half of it holes of 2 MiB";
    if (!table_.wanted(what)) return;
    const BenchImage image =
        makeStripedImage(table_.directory() + "/chequered", 256 * MIB, {.data = 2 * MIB, .hole = 2 * MIB});
    const auto seconds = [&](const Faultline& server) {
      const auto client = server.connect();
      const std::uint64_t newest = newestRestore(*client);
      const IdleTarget target({.bytes = image.dataBytes}, server.backing());
      client->wait(restoreAfter(*client, newest).waitReadyRequest().send());
      return 1e6 * target.giveAllBack();
    };
    const Faultline ours(table_.directory(), image.path, {});
    const bool compared = !table_.before().empty();
    // The image of the others is dense: there all of it is one piece, whatever is done about holes.
    const Faultline other(table_.directory(), compared ? image.path : table_.image().path,
                          {.build = table_.before()});
    const Comparison result = compare(
        3 * table_.rounds(), [&] { return seconds(ours); }, [&] { return seconds(other); });
    table_.add({what, "us", result.ours, result.theirs, compared ? "the build before" : "no holes",
                result.ratio, Aim::atMost, compared ? 1.1 : 1.2});
    std::filesystem::remove(image.path);
  }

  AimTable& table_;
};

}  // namespace

void holeAims(AimTable& table) {
  HoleAims(table).measure();
}

}  // namespace faultline::bench
