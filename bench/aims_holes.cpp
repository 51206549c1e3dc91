// Holes of the source: memory that is zero for good.
#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <stdexcept>
#include <utility>

#include "bench/aim_table.h"
#include "process/clock.h"

namespace faultline::bench {

namespace {

void awaitReleased(rpc::ControlClient& client, rpc::Restore::Client& restore, std::uint64_t pages) {
  const std::uint64_t from = process::nowNs();
  while (client.wait(restore.infoRequest().send()).getInfo().getReleased() < pages) {
    if (process::nowNs() - from > 10'000'000'000)
      throw std::runtime_error(fmt::format("not {} pages are registered no more", pages));
    usleep(1000);
  }
}

// A target that has done its handshake and is served.
struct Given {
  Given(const Faultline& server, const IdleMemory& memory)
      : client(server.connect()),
        newest(newestRestore(*client)),
        target(memory, server.backing()),
        restore(restoreAfter(*client, newest)) {
    client->wait(restore.waitReadyRequest().send());
  }
  void awaitReleased(std::uint64_t pages) { bench::awaitReleased(*client, restore, pages); }

  const std::unique_ptr<rpc::ControlClient> client;
  const std::uint64_t newest;
  const IdleTarget target;
  rpc::Restore::Client restore;
};

class HoleAims {
 public:
  explicit HoleAims(AimTable& table) : table_(table) {}

  void measure() {
    for (const bool hugePages : {false, true}) firstWrite(hugePages);
    faultsThatReachUs();
    firstWriteOfWhatWasGivenBack();
    oneMadvise();
  }

 private:
  // Once it is registered no more.
  void firstWrite(bool hugePages) {
    const std::string what = fmt::format("first write of a hole, p50, {}", hugePages ? "THP" : "no THP");
    if (!table_.wanted(what)) return;
    const auto ours = table_.faultline({});
    const IdleMemory hole{.bytes = 32 * MIB, .offset = table_.image().dataBytes, .hugePages = hugePages};
    const Comparison result = compare(
        table_.rounds(),
        [&] {
          Given given(*ours, hole);
          given.awaitReleased(hole.bytes / 4096);
          return micro(given.target.writeAll().quantile(0.5));
        },
        [&] { return micro(IdleTarget(hole, {.kind = Backing::Kind::anonymous}).writeAll().quantile(0.5)); });
    table_.add({what, "us", result.ours, result.theirs, "anonymous memory", result.ratio, Aim::atMost, 1.2});
  }

  // Of a server that brings single pages, once the holes are registered no more: each fault of a hole is one too many.
  void faultsThatReachUs() {
    const std::string what = "faults that reach us, 4/5 of the image are holes of 8 MiB";
    if (!table_.wanted(what)) return;
    const std::uint64_t bytes = 80 * MIB, dataPages = bytes / 5 / 4096;
    const BenchImage image =
        makeStripedImage(table_.directory() + "/striped", bytes, {.data = 2 * MIB, .hole = 8 * MIB});
    const Faultline ours(table_.directory(), image.path, {.around = "off"});
    const Workload workload{.bytes = bytes, .threads = 4};
    std::uint64_t faults = 0;
    const auto client = ours.connect();
    const std::uint64_t before = newestRestore(*client);
    rpc::Restore::Client restore{nullptr};
    run(workload, image, ours.backing(),
        {.connected =
             [&] {
               restore = restoreAfter(*client, before);
               client->wait(restore.waitReadyRequest().send());
               awaitReleased(*client, restore, bytes / 4096 - dataPages);
             },
         .whileThere = [&] { faults = client->wait(restore.statsRequest().send()).getStats().getFaults(); }});
    const auto pages = static_cast<double>(dataPages), read = static_cast<double>(faults);
    table_.add({what, "", read, pages, "pages with content", read / pages, Aim::atMost, 1.01});
    std::filesystem::remove(image.path);
  }

  // Once it is registered no more.
  void firstWriteOfWhatWasGivenBack() {
    const std::string what = "first write of what was given back, p50, no THP";
    if (!table_.wanted(what)) return;
    const auto ours = table_.faultline({});
    const std::uint64_t bytes = 32 * MIB;
    const Comparison result = compare(
        table_.rounds(),
        [&] {
          Given given(*ours, {.bytes = bytes});
          given.target.giveAllBack();
          given.awaitReleased(bytes / 4096);
          return micro(given.target.writeAll().quantile(0.5));
        },
        [&] {
          const IdleTarget target({.bytes = bytes}, {.kind = Backing::Kind::anonymous});
          return micro(target.writeAll().quantile(0.5));
        });
    table_.add({what, "us", result.ours, result.theirs, "anonymous memory", result.ratio, Aim::atMost, 1.2});
  }

  // An event for each registered piece of the range, and the madvise waits for all of them. Then all of it has been given back,
  // so that it is one piece, and no process is told of the next madvise of it.
  void oneMadvise() {
    const std::string what = "one madvise of 256 MiB, half of it holes of 2 MiB",
                      again = what + ", once more";
    if (!table_.wanted(what) && !table_.wanted(again)) return;
    const std::uint64_t bytes = 256 * MIB, pages = bytes / 4096;
    const BenchImage image =
        makeStripedImage(table_.directory() + "/chequered", bytes, {.data = 2 * MIB, .hole = 2 * MIB});
    struct Seconds {
      double first, second;
    };
    // `holes`, `all`: pages that this build registers no more before and after the first one.
    const auto giveTwice = [&](const Faultline& server, std::uint64_t holes, std::uint64_t all) {
      Given given(server, {.bytes = image.dataBytes});
      given.awaitReleased(holes);
      const double first = given.target.giveAllBack();
      given.awaitReleased(all);
      return Seconds{1e6 * first, 1e6 * given.target.giveAllBack()};
    };
    const Faultline ours(table_.directory(), image.path, {});
    const bool compared = !table_.before().empty();
    // The image of the others is dense: there all of it is one piece, whatever is done about holes.
    const Faultline other(table_.directory(), compared ? image.path : table_.image().path,
                          {.build = table_.before()});
    const auto runs =
        interleave<Seconds>(3 * table_.rounds(), {[&] { return giveTwice(ours, pages / 2, pages); },
                                                  [&] { return giveTwice(other, 0, compared ? 0 : pages); }});
    for (const auto& [name, figure] :
         {std::pair(what, &Seconds::first), std::pair(again, &Seconds::second)}) {
      const Comparison result =
          compareBy<Seconds>(runs[0], runs[1], [&, f = figure](const Seconds& s) { return s.*f; });
      table_.add({name, "us", result.ours, result.theirs, compared ? "the build before" : "no holes",
                  result.ratio, Aim::atMost, compared ? 1.1 : 1.2});
    }
    std::filesystem::remove(image.path);
  }

  AimTable& table_;
};

}  // namespace

void holeAims(AimTable& table) {
  HoleAims(table).measure();
}

}  // namespace faultline::bench
