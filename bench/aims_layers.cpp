// Stacks of layers, beside one file with the same bytes.
#include <fcntl.h>
#include <fmt/format.h>
#include <kj/io.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <stdexcept>

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
  // The image as a stack: its lowest layer has all of it, and each 64 KiB is also in one of the layers, at random.
  std::vector<std::string> stackOf(unsigned layers) const {
    constexpr std::uint64_t CLUSTER = 16 * PAGE;
    const BenchImage& image = table_.image();
    const std::uint64_t size = std::filesystem::file_size(image.path);
    std::vector<std::string> paths;
    std::vector<kj::AutoCloseFd> files;
    for (unsigned i = 0; i + 1 < layers; i++) {
      paths.push_back(fmt::format("{}/layer-{}-{}", table_.directory(), layers, i));
      files.emplace_back(open(paths.back().c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
      if (files.back().get() < 0 || ftruncate(files.back().get(), static_cast<off_t>(size)) != 0)
        throw std::runtime_error("cannot make " + paths.back());
    }
    std::vector<std::uint64_t> words(CLUSTER / sizeof(std::uint64_t));
    for (std::uint64_t at = 0; at < image.dataBytes; at += CLUSTER) {
      const auto layer = static_cast<unsigned>((at / CLUSTER * 0x9e3779b97f4a7c15ull) >> 32) % layers;
      if (layer + 1 == layers) continue;
      for (std::uint64_t i = 0; i < words.size(); i++) words[i] = image.word(at + 8 * i);
      if (pwrite(files[layer].get(), words.data(), CLUSTER, static_cast<off_t>(at)) != CLUSTER)
        throw std::runtime_error("cannot write " + paths[layer]);
    }
    for (const kj::AutoCloseFd& file : files) fsync(file.get());
    paths.push_back(image.path);
    return paths;
  }

  std::unique_ptr<Faultline> serving(const std::vector<std::string>& paths) const {
    return std::make_unique<Faultline>(table_.directory(), paths.front(),
                                       FaultlineOptions{.over = {paths.begin() + 1, paths.end()}});
  }

  static void remove(const std::vector<std::string>& upper) {
    for (const std::string& path : upper) std::filesystem::remove(path);
  }

  void warmFault(unsigned layers, double aim) {
    const std::string what = fmt::format("{} layers: warm 4 KiB fault, p50, 1 thread", layers);
    if (!table_.wanted(what)) return;
    auto paths = stackOf(layers);
    const auto stack = serving(paths), flat = table_.faultline({});
    const Workload workload = table_.demand(Placement::free, 1);
    const auto p50 = [&](const Faultline& server) {
      for (std::size_t i = 0; i + 1 < paths.size(); i++)
        makeWarm({paths[i], table_.image().dataBytes}, table_.image().dataBytes);
      return table_.p50(workload, server.backing());
    };
    const Comparison result = compare(
        table_.rounds(), [&] { return p50(*stack); }, [&] { return p50(*flat); });
    table_.add({what, "us", result.ours, result.theirs, "one file", result.ratio, Aim::atMost, aim});
    paths.pop_back();
    remove(paths);
  }

  // When every page has come. Each shard has an index of its own, of the parts that it owns.
  void index() {
    const std::string what = "3 layers: memory of the index, all shards";
    if (!table_.wanted(what)) return;
    auto paths = stackOf(3);
    const std::uint64_t pages = (std::filesystem::file_size(paths.back()) + PAGE - 1) / PAGE;
    const Faultline server(table_.directory(), paths.front(),
                           {.prefault = true, .over = {paths.begin() + 1, paths.end()}});
    std::uint64_t bytes = 0;
    prefault(server, {.bytes = table_.image().dataBytes}, 0, [&] {
      for (const pid_t shard : server.shardPids()) bytes += indexBytesOf(shard, pages);
    });
    const double percent = 100 * static_cast<double>(bytes) / static_cast<double>(table_.image().dataBytes);
    table_.add({what, "%", percent, 0, "", percent, Aim::atMost, 0.05});
    paths.pop_back();
    remove(paths);
  }

  // 64 GiB, extents of a page at equal distances in the two upper layers.
  void attach(std::uint64_t extents) {
    const std::string what = fmt::format("3 layers: attach to first page, 64 GiB, {} extents", extents);
    if (!table_.wanted(what)) return;
    std::vector<std::string> paths;
    for (unsigned i = 0; i < 3; i++) {
      paths.push_back(fmt::format("{}/sparse-{}", table_.directory(), i));
      makeImage(paths.back(), i == 2 ? 2 * MIB : 0, 0);
      std::filesystem::resize_file(paths.back(), 64 * GIB);
    }
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
    remove(paths);
  }

  AimTable& table_;
};

}  // namespace

void layerAims(AimTable& table) {
  LayerAims(table).measure();
}

}  // namespace faultline::bench
