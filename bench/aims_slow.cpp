// Sources whose every read takes long: as many reads are under way as threads wait.
#include <fmt/format.h>

#include <optional>

#include "bench/aim_table.h"
#include "bench/slow_file.h"

namespace faultline::bench {

namespace {

constexpr unsigned THREADS = 16, READ_MS = 50;
constexpr std::uint64_t REGION = 64 * MIB;

class SlowAims {
 public:
  explicit SlowAims(AimTable& table) : table_(table) {}

  void measure() {
    fuse("FUSE", SlowFile::Cache::pages);
    fuse("FUSE direct_io", SlowFile::Cache::none);
    disk();
  }

 private:
  static std::string named(const std::string& where) {
    return fmt::format("single pages/s, {} threads, {}, {} ms a read", THREADS, where, READ_MS);
  }

  void fuse(const std::string& where, SlowFile::Cache cache) {
    const std::string what = named(where);
    if (!table_.wanted(what)) return;
    if (const std::string why = SlowFile::whyNot(); !why.empty()) return AimTable::leaveOut(what, why);
    const SlowFile file(table_.directory(), table_.image().path, cache, READ_MS);
    compareAt(what, file.path(), true, cache == SlowFile::Cache::pages);
  }

  void disk() {
    const std::string what = named("ext4, no io_uring");
    if (!table_.wanted(what)) return;
    if (const std::string why = SlowDisk::whyNot(); !why.empty()) return AimTable::leaveOut(what, why);
    std::optional<SlowDisk> disk;
    try {
      disk.emplace(table_.directory(), REGION, READ_MS);
    } catch (const std::runtime_error& error) {
      return AimTable::leaveOut(what, error.what());
    }
    compareAt(what, disk->path(), false, true);
  }

  // Both read the same pages, one at a time in each thread, each time from the store.
  void compareAt(const std::string& what, const std::string& path, bool ioUring, bool cached) {
    const BenchImage image{path, REGION};
    const Faultline ours(table_.directory(), path, {.around = "off", .ioUring = ioUring});
    const std::uint64_t reads = table_.quick() ? 10 : 30;  // of each thread
    const Workload workload{
        .bytes = THREADS * reads * 4096, .regionBytes = REGION, .threads = THREADS, .restoreBegun = true};
    const auto cold = [&] {
      if (cached) makeCold(image);
    };
    const Comparison result = compare(
        table_.rounds(),
        [&] {
          cold();
          return run(workload, image, ours.backing()).touchesPerSecond();
        },
        [&] {
          cold();
          return readsPerSecond(workload, image);
        });
    table_.add({what, "/s", result.ours, result.theirs, "16 plain readers", result.ratio, Aim::atLeast, 0.9});
  }

  AimTable& table_;
};

}  // namespace

void slowAims(AimTable& table) {
  SlowAims(table).measure();
}

}  // namespace faultline::bench
