// Packed images: served, beside a raw file and beside the parts of the work by themselves; one frame, and packing, beside
// zstd itself.
#include <fcntl.h>
#include <fmt/format.h>
#include <kj/io.h>
#include <unistd.h>
#include <zstd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <iterator>
#include <memory>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#include "bench/aim_table.h"
#include "bench/bulk.h"
#include "bench/fetched.h"
#include "packed/image.h"

namespace faultline::bench {

namespace {

using Clock = std::chrono::steady_clock;

double secondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

double mebibytes(std::uint64_t bytes) {
  return static_cast<double>(bytes) / static_cast<double>(MIB);
}

// All frames, by as many threads as there are CPUs, each into a buffer of its own.
double unpackAll(const packed::Image& image) {
  const auto begin = Clock::now();
  std::atomic<std::size_t> next{0};
  std::atomic<bool> failed{false};
  std::vector<std::thread> threads;
  threads.reserve(static_cast<std::size_t>(cpus()));
  for (int i = 0; i < cpus(); i++)
    threads.emplace_back([&] {
      packed::FrameReader reader;
      std::vector<std::byte> content(image.table().largest());
      try {
        for (std::size_t index; (index = next++) < image.table().frames();)
          image.read(index, reader, std::span(content).first(image.table().frame(index).bytes));
      } catch (const std::exception&) {
        failed = true;
      }
    });
  for (std::thread& thread : threads) thread.join();
  if (failed) throw std::runtime_error("a frame of " + image.name() + " cannot be read");
  return secondsSince(begin);
}

class PackedAims {
 public:
  explicit PackedAims(AimTable& table) : table_(table) {}

  void measure() {
    served();
    const bool frame = table_.wanted(FRAME), speed = table_.wanted(SPEED);
    if (!frame && !speed) return;
    if (access("/usr/bin/zstd", X_OK) != 0) {
      for (const char* what : {FRAME, SPEED}) AimTable::leaveOut(what, "zstd is missing (./scripts/deps)");
      return;
    }
    const ProgramBytes bytes(table_.directory(), table_.quick() ? 128 * MIB : 512 * MIB);
    pack(bytes.path(), bytes.packed());
    if (frame) oneFrame(bytes);
    if (speed) packSpeed(bytes);
  }

 private:
  static constexpr const char* FRAME = "packed: one frame of 64 KiB, read and checked, p50";
  static constexpr const char* SPEED = "packed: packing, level 3";

  static constexpr const char* HIT = "packed: fault on what is cached, p50, 1 thread";
  static constexpr const char* AGAIN = "packed: second restore, population";
  static constexpr const char* FIRST = "packed: first restore, population";
  static constexpr const char* COLD = "packed: cold fault, one of each frame, p50, 1 thread";
  static constexpr const char* HALF = "packed: bytes fetched where half is zero, to the data";
  static constexpr const char* NONE = "packed: bytes fetched by a second restore, to the data";
  static constexpr const char* TWO = "packed: bytes fetched by two restores at once, to the data";

  // The image of the measurements, served as it is packed.
  void served() {
    const char* const all[] = {HIT, AGAIN, FIRST, COLD, NONE, TWO};
    if (table_.wanted(HALF)) halfZero();
    if (std::none_of(std::begin(all), std::end(all), [&](const char* what) { return table_.wanted(what); }))
      return;
    const std::string packed = table_.directory() + "/served.packed";
    pack(table_.image().path, packed);
    if (table_.wanted(HIT)) hit(packed);
    if (table_.wanted(COLD)) cold(packed);
    if (table_.wanted(AGAIN)) secondRestore(packed);
    if (table_.wanted(FIRST)) firstRestore(packed);
    if (table_.wanted(NONE)) nothingTwice(packed);
    if (table_.wanted(TWO)) twoAtOnce(packed);
    std::error_code ignored;
    std::filesystem::remove(packed, ignored);
  }

  void hit(const std::string& packed) {
    const Workload workload = table_.demand(Placement::free, 1);
    const Faultline server(table_.directory(), packed, {});
    const auto raw = table_.faultline({});
    table_.p50(workload, server.backing());  // what is touched is cached from here on
    const Comparison result = compare(
        table_.rounds(), [&] { return table_.p50(workload, server.backing()); },
        [&] { return table_.p50(workload, raw->backing()); });
    table_.add({HIT, "us", result.ours, result.theirs, "raw file", result.ratio, Aim::atMost, 1.2});
  }

  double populated(const Faultline& server) const {
    return prefault(server, {.bytes = table_.image().dataBytes}).seconds;
  }

  void secondRestore(const std::string& packed) {
    const Faultline server(table_.directory(), packed, {.prefault = true});
    const auto raw = table_.faultline({.prefault = true});
    populated(server);
    const Comparison result = compare(
        table_.rounds(), [&] { return populated(server); }, [&] { return populated(*raw); });
    table_.add({AGAIN, "s", result.ours, result.theirs, "raw file", result.ratio, Aim::atMost, 1.1});
  }

  // Beside the same work in series: all of it unpacked, then written, then copied, each by all CPUs.
  void firstRestore(const std::string& packed) {
    const kj::AutoCloseFd file(open(packed.c_str(), O_RDONLY | O_CLOEXEC));
    const packed::Image image(file.get(), packed, std::filesystem::file_size(packed));
    const std::uint64_t bytes = table_.image().dataBytes;
    const std::string written = table_.directory() + "/written";
    const Comparison result = compare(
        table_.rounds(),
        [&] {
          const Faultline server(table_.directory(), packed, {.prefault = true});
          return mebibytes(bytes) / populated(server);
        },
        [&] {
          const double copying = mebibytes(bytes) / 1024 /
                                 bulkCopy(static_cast<unsigned>(cpus()), 2 * MIB,
                                          bytes / (2 * MIB) * (2 * MIB), 4096, Placement::free);
          const double all = unpackAll(image) + secondsOfWriting(written, bytes) + copying;
          std::filesystem::remove(written);
          return mebibytes(bytes) / all;
        });
    table_.add(
        {FIRST, "MiB/s", result.ours, result.theirs, "zstd, pwrite, bulk", result.ratio, Aim::atLeast, 0.8});
  }

  // Both files out of the page cache.
  void cold(const std::string& packed) {
    const Workload workload{.bytes = table_.image().dataBytes, .threads = 1, .pattern = Pattern::sparse};
    const BenchImage file{packed, std::filesystem::file_size(packed), {}};
    const auto raw = table_.faultline({});
    const auto p50 = [&](const Faultline& server) {
      return micro(run(workload, table_.image(), server.backing()).latency.quantile(0.5));
    };
    const double frame = unpackingUs(packed), over = handOver();
    const Comparison result = compare(
        table_.rounds(),
        [&] {
          const Faultline server(table_.directory(), packed, {});
          makeCold(file);
          return p50(server);
        },
        [&] {
          makeCold(table_.image());
          return p50(*raw) + 1.5 * frame + over;
        });
    table_.add(
        {COLD, "us", result.ours, result.theirs, "raw + 1.5 frames + ring", result.ratio, Aim::atMost, 1.0});
  }

  // Bare zstd, of frames at random that lie in memory; p50.
  static double unpackingUs(const std::string& packed) {
    const kj::AutoCloseFd file(open(packed.c_str(), O_RDONLY | O_CLOEXEC));
    const packed::Image image(file.get(), packed, std::filesystem::file_size(packed));
    return p50OfFrames(image, [&](const packed::Frame& at, const std::vector<std::byte>& frame,
                                  std::vector<std::byte>& content, ZSTD_DCtx& zstd) {
      const auto begin = Clock::now();
      if (ZSTD_decompressDCtx(&zstd, content.data(), at.bytes, frame.data(), at.packedBytes) != at.bytes)
        throw std::runtime_error("zstd fails");
      return secondsSince(begin);
    });
  }

  void ratioOfBytes(const char* what, std::uint64_t bytes, std::uint64_t data, double most) {
    const double ratio = static_cast<double>(bytes) / static_cast<double>(data);
    table_.add({what, "MiB", mebibytes(bytes), mebibytes(data), "the data", ratio, Aim::atMost, most});
  }

  void halfZero() {
    const std::string memory = table_.directory() + "/half", packed = memory + ".packed";
    const BenchImage image = makeStripedImage(memory, 256 * MIB, {.data = MIB, .hole = MIB});
    pack(memory, packed);
    {
      const Faultline server(table_.directory(), packed, {.prefault = true});
      prefault(server, {.bytes = image.dataBytes});
      ratioOfBytes(HALF, fetchedBytes(server), image.dataBytes / 2, 1.05);
    }
    for (const std::string& path : {memory, packed}) std::filesystem::remove(path);
  }

  void nothingTwice(const std::string& packed) {
    const Faultline server(table_.directory(), packed, {.prefault = true});
    populated(server);
    const std::uint64_t before = fetchedBytes(server);
    populated(server);
    ratioOfBytes(NONE, fetchedBytes(server) - before, table_.image().dataBytes, 0);
  }

  void twoAtOnce(const std::string& packed) {
    const Faultline server(table_.directory(), packed, {.prefault = true});
    const Workload workload{.bytes = table_.image().dataBytes, .pattern = Pattern::sparse};
    secondsOfRestoresAtOnce(2, workload, table_.image(), server.backing());
    // Their targets may have ended before all was populated.
    populated(server);
    ratioOfBytes(TWO, fetchedBytes(server), table_.image().dataBytes, 1.02);
  }

  // Frames at random. `once(frame, its packed bytes, room for its content, a context)` gives seconds.
  template <typename Once>
  static double p50OfFrames(const packed::Image& image, Once once) {
    std::vector<std::size_t> order;
    for (std::size_t i = 0; i + 1 < image.table().frames(); i++) order.push_back(i);
    std::shuffle(order.begin(), order.end(), std::mt19937(1));
    order.resize(std::min<std::size_t>(order.size(), 2000));
    std::vector<std::byte> content(image.table().largest()), frame(image.table().largestPacked());
    const std::unique_ptr<ZSTD_DCtx, std::size_t (*)(ZSTD_DCtx*)> zstd(ZSTD_createDCtx(), ZSTD_freeDCtx);
    std::vector<double> us;
    us.reserve(order.size());
    for (const std::size_t index : order) {
      const packed::Frame at = image.table().frame(index);
      image.file().read(at.at, std::span(frame).first(at.packedBytes));
      us.push_back(1e6 * once(at, frame, content, *zstd));
    }
    return median(us);
  }

  // From the page cache; beside what zstd takes for the same ones, which lie in memory.
  void oneFrame(const ProgramBytes& bytes) {
    const kj::AutoCloseFd file(open(bytes.packed().c_str(), O_RDONLY | O_CLOEXEC));
    const packed::Image image(file.get(), bytes.packed(), std::filesystem::file_size(bytes.packed()));
    packed::FrameReader reader;
    const Comparison result = compare(
        table_.rounds(),
        [&] {
          return p50OfFrames(image, [&](const packed::Frame& at, const std::vector<std::byte>&,
                                        std::vector<std::byte>& content, ZSTD_DCtx&) {
            const auto begin = Clock::now();
            image.read(image.table().indexAt(at.offset), reader, std::span(content).first(at.bytes));
            return secondsSince(begin);
          });
        },
        [&] { return unpackingUs(bytes.packed()); });
    table_.add({FRAME, "us", result.ours, result.theirs, "bare zstd", result.ratio, Aim::atMost, 1.25});
  }

  // Both until the bytes are on the disk.
  void packSpeed(const ProgramBytes& bytes) {
    const double mib =
        static_cast<double>(std::filesystem::file_size(bytes.path())) / static_cast<double>(MIB);
    const Comparison result = compare(
        table_.rounds(),
        [&] {
          const auto begin = Clock::now();
          pack(bytes.path(), bytes.packed());
          return mib / secondsSince(begin);
        },
        [&] {
          const auto begin = Clock::now();
          finish({"zstd", "-q", "-f", "-3", fmt::format("-T{}", cpus()), bytes.path(), "-o", bytes.byZstd()});
          const kj::AutoCloseFd file(open(bytes.byZstd().c_str(), O_RDONLY | O_CLOEXEC));
          fsync(file.get());
          return mib / secondsSince(begin);
        });
    table_.add({SPEED, "MiB/s", result.ours, result.theirs, "zstd -3", result.ratio, Aim::atLeast, 0.8});
  }

  AimTable& table_;
};

}  // namespace

void packedAims(AimTable& table) {
  PackedAims(table).measure();
}

}  // namespace faultline::bench
