// Memory that an NBD server has: beside libnbd itself, and beside its bytes copied first.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <random>
#include <set>

#include "bench/aim_table.h"
#include "bench/bulk.h"
#include "bench/fetched.h"
#include "bench/nbd.h"

namespace faultline::bench {

namespace {

constexpr std::uint64_t CHUNK = 64u << 10;
constexpr unsigned DEPTH = 32, DELAY_MS = 10, SERVER_THREADS = 16;

double secondsOf(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

class NbdAims {
 public:
  explicit NbdAims(AimTable& table) : table_(table) {}

  void measure() {
    const char* const all[] = {MISS, DELAYED, FIRST, REPLAY};
    if (std::none_of(std::begin(all), std::end(all), [&](const char* what) { return table_.wanted(what); }))
      return;
    if (const std::string why = NbdKit::whyNot(); !why.empty()) {
      for (const char* what : all) AimTable::leaveOut(what, why);
      return;
    }
    if (table_.wanted(MISS)) miss();
    if (table_.wanted(DELAYED)) delayed();
    if (table_.wanted(FIRST)) firstRestore();
    if (table_.wanted(REPLAY)) replay();
  }

 private:
  static constexpr const char* MISS = "NBD: miss, one of each 64 KiB, 4 threads, p50";
  static constexpr const char* DELAYED = "NBD: misses/s where a read takes 10 ms, 32 threads";
  static constexpr const char* FIRST = "NBD: first restore, population";
  static constexpr const char* REPLAY = "NBD: working set where a read takes 10 ms, to its last page";

  // Offsets of chunks at random.
  std::vector<std::uint64_t> chunks(std::uint64_t bytes) const {
    std::vector<std::uint64_t> offsets;
    for (std::uint64_t at = 0; at + CHUNK <= bytes; at += CHUNK) offsets.push_back(at);
    std::shuffle(offsets.begin(), offsets.end(), std::mt19937(1));
    return offsets;
  }

  // One for each measurement: nbdkit 1.32 may end where a client goes.
  NbdKit serverOf(unsigned delayMs) const {
    return NbdKit(table_.directory(), table_.image().path, delayMs, SERVER_THREADS);
  }

  void miss() {
    const std::uint64_t bytes = table_.image().dataBytes;
    const Workload sparse{.bytes = bytes, .threads = 4, .pattern = Pattern::sparse};
    const auto raw = table_.faultline({});
    const Comparison result = compare(
        table_.rounds(),
        [&] {
          const NbdKit server = serverOf(0);
          const Faultline ours(table_.directory(), server.uri(), {});
          return table_.p50(sparse, ours.backing());
        },
        [&] {
          const NbdKit server = serverOf(0);
          return 2 * readBarely(server.uri(), chunks(bytes), 4).p50 +
                 table_.p50(table_.demand(Placement::free, 4), raw->backing());
        });
    table_.add(
        {MISS, "us", result.ours, result.theirs, "2 bare + warm fault", result.ratio, Aim::atMost, 1.0});
  }

  void delayed() {
    const std::uint64_t bytes = table_.image().dataBytes;
    const Workload sparse{.bytes = bytes, .regionBytes = bytes, .threads = DEPTH, .pattern = Pattern::sparse};
    const Comparison result = compare(
        table_.rounds(),
        [&] {
          const NbdKit server = serverOf(DELAY_MS);
          const Faultline ours(table_.directory(), server.uri(), {});
          return run(sparse, table_.image(), ours.backing()).perSecond();
        },
        [&] {
          const NbdKit server = serverOf(DELAY_MS);
          const auto offsets = chunks(bytes);
          return static_cast<double>(offsets.size()) / readBarely(server.uri(), offsets, DEPTH).seconds;
        });
    table_.add(
        {DELAYED, "/s", result.ours, result.theirs, "bare, 32 at once", result.ratio, Aim::atLeast, 0.8});
  }

  // Beside the same work in series: all of it copied by nbdcopy, then written, then copied to the target, by all CPUs.
  void firstRestore() {
    const std::uint64_t bytes = table_.image().dataBytes;
    const double mib = static_cast<double>(bytes) / static_cast<double>(MIB);
    const std::string written = table_.directory() + "/written";
    const Comparison result = compare(
        table_.rounds(),
        [&] {
          const NbdKit server = serverOf(0);
          const Faultline ours(table_.directory(), server.uri(), {.prefault = true});
          return mib / prefault(ours, {.bytes = bytes}).seconds;
        },
        [&] {
          const NbdKit server = serverOf(0);
          const double copied = secondsOf([&] { finish({"nbdcopy", server.uri(), "null:"}); });
          const double all = copied + secondsOfWriting(written, bytes) +
                             mib / 1024 /
                                 bulkCopy(static_cast<unsigned>(cpus()), 2 * MIB,
                                          bytes / (2 * MIB) * (2 * MIB), 4096, Placement::free);
          std::filesystem::remove(written);
          return mib / all;
        });
    table_.add({FIRST, "MiB/s", result.ours, result.theirs, "nbdcopy, pwrite, bulk", result.ratio,
                Aim::atLeast, 0.8});
  }

  // From before the handshake of a target that touches nothing, until so many of its pages are there.
  static double replaySeconds(const Faultline& server, std::uint64_t bytes, std::uint64_t pages) {
    const auto client = server.connect();
    const std::uint64_t newest = newestRestore(*client);
    return secondsOf([&] {
      const IdleTarget target({.bytes = bytes}, server.backing());
      auto restore = restoreAfter(*client, newest);
      for (;; usleep(1000)) {
        auto response = client->wait(restore.infoRequest().send());
        const auto info = response.getInfo();
        if (info.getPages() - info.getMissing() >= pages) return;
      }
    });
  }

  void replay() {
    const std::uint64_t bytes = table_.image().dataBytes;
    const Workload scattered{
        .bytes = bytes, .regionBytes = bytes, .threads = 1, .pattern = Pattern::scattered};
    const std::string file = table_.directory() + "/nbd-working-set";
    {
      const NbdKit server = serverOf(0);
      const Faultline recording(table_.directory(), server.uri(),
                                {.around = "off", .recordWorkingSet = true});
      run(scattered, table_.image(), recording.backing(),
          {.whileThere = [&] { recording.saveWorkingSet(file); }});
    }
    std::vector<std::uint64_t> offsets;
    std::set<std::uint64_t> seen;
    const std::vector<std::uint32_t> order = touchOrder(scattered, table_.image());
    for (const std::uint32_t page : order)
      if (const std::uint64_t at = page * std::uint64_t{4096} / CHUNK * CHUNK; seen.insert(at).second)
        offsets.push_back(at);
    const Comparison result = compare(
        table_.rounds(),
        [&] {
          const NbdKit server = serverOf(DELAY_MS);
          const Faultline ours(table_.directory(), server.uri(), {.workingSet = file});
          return replaySeconds(ours, bytes, order.size());
        },
        [&] {
          const NbdKit server = serverOf(DELAY_MS);
          return readBarely(server.uri(), offsets, DEPTH).seconds;
        });
    std::filesystem::remove(file);
    table_.add({REPLAY, "s", result.ours, result.theirs, "bare, 32 at once", result.ratio, Aim::atMost, 1.3});
  }

  AimTable& table_;
};

}  // namespace

void nbdAims(AimTable& table) {
  NbdAims(table).measure();
}

}  // namespace faultline::bench
