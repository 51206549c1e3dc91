// Stacks of layers, beside one file with the same bytes.
#include <fcntl.h>
#include <fmt/format.h>
#include <kj/io.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <stdexcept>
#include <system_error>

#include "bench/aim_table.h"

namespace faultline::bench {

namespace {

constexpr std::uint64_t PAGE = 4096;

// Resident bytes of mappings that are this large, are of no file and take no room until they are written to: of the
// indexes of layers (man 5 proc, smaps; "nr").
std::uint64_t indexBytesOf(pid_t process, std::uint64_t size) {
  std::ifstream smaps("/proc/" + std::to_string(process) + "/smaps");
  std::uint64_t bytes = 0, rss = 0;
  bool thatLarge = false;
  for (std::string key; smaps >> key;) {
    std::uint64_t kib = 0;
    if (key == "Size:" && smaps >> kib) thatLarge = kib << 10 == (size + PAGE - 1) / PAGE * PAGE;
    if (key == "Rss:" && smaps >> kib) rss = kib << 10;
    if (key != "VmFlags:") continue;
    std::string flags;
    std::getline(smaps, flags);
    if (thatLarge && flags.find(" nr") != std::string::npos && flags.find(" wr") != std::string::npos)
      bytes += rss;
  }
  return bytes;
}

// Files that go with the object.
class Files {
 public:
  Files() = default;
  Files(Files&&) = default;
  ~Files() {
    std::error_code ignored;
    for (const std::string& path : paths_) std::filesystem::remove(path, ignored);
  }
  const std::string& add(std::string path) { return paths_.emplace_back(std::move(path)); }
  const std::vector<std::string>& paths() const { return paths_; }

 private:
  std::vector<std::string> paths_;
};

// The first `bytes` of an image as a stack: its lowest layer is the image, and each 64 KiB is also in one of the layers,
// at random.
class Stack {
 public:
  Stack(const BenchImage& image, std::uint64_t bytes, const std::string& directory, unsigned layers)
      : bytes_(bytes), layers_(layers) {
    const std::uint64_t size = std::filesystem::file_size(image.path);
    for (unsigned i = 0; i + 1 < layers; i++) {
      const std::string& path = upper_.add(fmt::format("{}/layer-{}-{}", directory, layers, i));
      opened_.emplace_back(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
      if (opened_.back().get() < 0 || ftruncate(opened_.back().get(), static_cast<off_t>(size)) != 0)
        throw std::runtime_error("cannot make " + path);
    }
    std::vector<std::uint64_t> words(CLUSTER / sizeof(std::uint64_t));
    forEachCluster([&](unsigned layer, std::uint64_t at) {
      for (std::uint64_t i = 0; i < words.size(); i++) words[i] = image.word(at + i * sizeof words[i]);
      if (pwrite(opened_[layer].get(), words.data(), CLUSTER, static_cast<off_t>(at)) != CLUSTER)
        throw std::runtime_error("cannot write " + upper_.paths()[layer]);
    });
    for (const kj::AutoCloseFd& file : opened_) fsync(file.get());
    paths_ = upper_.paths();
    paths_.push_back(image.path);
  }

  // The newest first.
  const std::vector<std::string>& paths() const { return paths_; }

  // Reads what the layers over the lowest have, and none of their holes: those would take as much of the page cache.
  void makeWarm() const {
    std::vector<char> cluster(CLUSTER);
    forEachCluster([&](unsigned layer, std::uint64_t at) {
      if (pread(opened_[layer].get(), cluster.data(), CLUSTER, static_cast<off_t>(at)) != CLUSTER)
        throw std::runtime_error("cannot read " + upper_.paths()[layer]);
    });
  }

 private:
  static constexpr std::uint64_t CLUSTER = 16 * PAGE;

  // Calls back for each of a layer over the lowest.
  void forEachCluster(const std::function<void(unsigned layer, std::uint64_t at)>& visit) const {
    for (std::uint64_t at = 0; at < bytes_; at += CLUSTER) {
      const auto layer = static_cast<unsigned>((at / CLUSTER * 0x9e3779b97f4a7c15ull) >> 32) % layers_;
      if (layer + 1 < layers_) visit(layer, at);
    }
  }

  const std::uint64_t bytes_;
  const unsigned layers_;
  Files upper_;
  std::vector<kj::AutoCloseFd> opened_;  // of those
  std::vector<std::string> paths_;
};

class LayerAims {
 public:
  explicit LayerAims(AimTable& table) : table_(table) {}

  void measure() {
    warmFault(3, 1.15);
    warmFault(32, 1.5);
    index();
    attach(100'000);
    if (!table_.quick()) attach(1'000'000);
  }

 private:
  Stack stackOf(unsigned layers, std::uint64_t bytes) const {
    return {table_.image(), bytes, table_.directory(), layers};
  }

  std::unique_ptr<Faultline> serving(const std::vector<std::string>& paths) const {
    return std::make_unique<Faultline>(table_.directory(), paths.front(),
                                       FaultlineOptions{.over = {paths.begin() + 1, paths.end()}});
  }

  void warmFault(unsigned layers, double aim) {
    const std::string what = fmt::format("{} layers: warm 4 KiB fault, p50, 1 thread", layers);
    if (!table_.wanted(what)) return;
    const Workload workload = table_.demand(Placement::free, 1);
    const Stack files = stackOf(layers, workload.bytes);
    const auto stack = serving(files.paths()), flat = table_.faultline({});
    const auto p50 = [&](const Faultline& server) {
      files.makeWarm();
      return table_.p50(workload, server.backing());
    };
    const Comparison result = compare(
        table_.rounds(), [&] { return p50(*stack); }, [&] { return p50(*flat); });
    table_.add({what, "us", result.ours, result.theirs, "one file", result.ratio, Aim::atMost, aim});
  }

  // When every page has come. Each shard has an index of its own, of the parts that it owns.
  void index() {
    const std::string what = "3 layers: memory of the index, all shards";
    if (!table_.wanted(what)) return;
    const std::uint64_t bytes = table_.image().dataBytes;
    const Stack files = stackOf(3, bytes);
    const std::vector<std::string>& paths = files.paths();
    const std::uint64_t pages = (std::filesystem::file_size(paths.back()) + PAGE - 1) / PAGE;
    const Faultline server(table_.directory(), paths.front(),
                           {.prefault = true, .over = {paths.begin() + 1, paths.end()}});
    const std::vector<pid_t> shards = server.shardPids();
    std::uint64_t resident = 0;
    prefault(server, {.bytes = bytes}, 0, [&] {
      for (const pid_t shard : shards) resident += indexBytesOf(shard, pages);
    });
    const double percent = 100 * static_cast<double>(resident) / static_cast<double>(bytes);
    table_.add({what, "%", percent, 0, "", percent, Aim::atMost, 0.05});
  }

  // 64 GiB, extents of a page at equal distances in the two upper layers.
  void attach(std::uint64_t extents) {
    const std::string what = fmt::format("3 layers: attach to first page, 64 GiB, {} extents", extents);
    if (!table_.wanted(what)) return;
    Files files;
    for (unsigned i = 0; i < 3; i++) {
      const std::string& path = files.add(fmt::format("{}/sparse-{}", table_.directory(), i));
      makeImage(path, i == 2 ? 2 * MIB : 0, 0);
      std::filesystem::resize_file(path, 64 * GIB);
    }
    const std::vector<std::string>& paths = files.paths();
    const std::uint64_t distance = 64 * GIB / extents / PAGE * PAGE;
    const std::vector<char> page(PAGE, 1);
    for (unsigned i = 0; i < 2; i++) {
      const kj::AutoCloseFd file(open(paths[i].c_str(), O_RDWR | O_CLOEXEC));
      for (std::uint64_t extent = 1 + i; extent < extents; extent += 2)
        if (pwrite(file.get(), page.data(), PAGE, static_cast<off_t>(extent * distance)) != PAGE)
          throw std::runtime_error("cannot write " + paths[i]);
      fsync(file.get());
    }
    const auto stack = serving(paths), flat = serving({paths.back()});
    const BenchImage image{paths.back(), 2 * MIB};
    const auto attached = [&](const Faultline& server) {
      return 1e3 * attachSeconds(image, 64 * GIB, server.backing());
    };
    const Comparison result = compare(
        3 * table_.rounds(), [&] { return attached(*stack); }, [&] { return attached(*flat); });
    table_.add({what, "ms", result.ours, result.theirs, "one file", result.ratio, Aim::atMost, 2.0});
  }

  AimTable& table_;
};

}  // namespace

void layerAims(AimTable& table) {
  LayerAims(table).measure();
}

}  // namespace faultline::bench
