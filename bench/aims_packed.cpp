// Packed images: served, beside a raw file; one frame, and packing, beside zstd itself.
#include <fcntl.h>
#include <fmt/format.h>
#include <kj/io.h>
#include <sched.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zstd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <stdexcept>
#include <vector>

#include "bench/aim_table.h"
#include "packed/file.h"
#include "packed/image.h"
#include "process/process.h"

namespace faultline::bench {

namespace {

using Clock = std::chrono::steady_clock;

double secondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Bytes as memory has them: of this machine's libraries. Goes with the object.
class ProgramBytes {
 public:
  ProgramBytes(const std::string& directory, std::uint64_t bytes) : path_(directory + "/program-bytes") {
    std::ofstream out(path_, std::ios::binary);
    std::error_code error;
    std::vector<char> content;
    using Walk = std::filesystem::recursive_directory_iterator;
    for (Walk it("/usr/lib", std::filesystem::directory_options::skip_permission_denied, error), end;
         !error && it != end && bytes > 0; it.increment(error)) {
      if (!it->is_regular_file(error) || it->is_symlink(error)) continue;
      content.resize(std::min(it->file_size(error), bytes));
      std::ifstream in(it->path(), std::ios::binary);
      in.read(content.data(), static_cast<std::streamsize>(content.size()));
      out.write(content.data(), in.gcount());
      bytes -= static_cast<std::uint64_t>(in.gcount());
    }
    if (bytes > 0 || !out.flush()) throw std::runtime_error("no program bytes for " + path_);
  }
  ~ProgramBytes() {
    std::error_code ignored;
    for (const char* more : {"", ".packed", ".zst"}) std::filesystem::remove(path_ + more, ignored);
  }
  ProgramBytes(const ProgramBytes&) = delete;

  const std::string& path() const { return path_; }
  std::string packed() const { return path_ + ".packed"; }
  std::string byZstd() const { return path_ + ".zst"; }

 private:
  const std::string path_;
};

// Runs a program to its end, its output thrown away.
void finish(const std::vector<std::string>& command) {
  std::vector<char*> argv;
  argv.reserve(command.size() + 1);
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  pid_t pid = -1;
  const int error = posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  int status = 0;
  if (error != 0 || waitpid(pid, &status, 0) != pid || status != 0)
    throw std::runtime_error(command.front() + " fails");
}

// As many as this process may use, and so the threads of both.
int cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(0, sizeof set, &set);
  return std::max(CPU_COUNT(&set), 1);
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
    pack(bytes);
    if (frame) oneFrame(bytes);
    if (speed) packSpeed(bytes);
  }

 private:
  static constexpr const char* FRAME = "packed: one frame of 64 KiB, read and checked, p50";
  static constexpr const char* SPEED = "packed: packing, level 3";

  static constexpr const char* HIT = "packed: fault on what is cached, p50, 1 thread";
  static constexpr const char* AGAIN = "packed: second restore, population";
  static constexpr const char* FIRST = "packed: first restore, population";

  // The image of the measurements, served as it is packed.
  void served() {
    if (!table_.wanted(HIT) && !table_.wanted(AGAIN) && !table_.wanted(FIRST)) return;
    const std::string packed = table_.directory() + "/served.packed",
                      unpacked = table_.directory() + "/served.mem";
    finish({process::siblingExecutable("faultline"), "pack", "--force", table_.image().path, packed});
    if (table_.wanted(HIT)) hit(packed);
    if (table_.wanted(AGAIN)) secondRestore(packed);
    if (table_.wanted(FIRST)) firstRestore(packed, unpacked);
    std::error_code ignored;
    for (const std::string& path : {packed, unpacked}) std::filesystem::remove(path, ignored);
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

  // Beside unpacking it to a file first: zstd's work, the writing, and the copying, one after the other.
  void firstRestore(const std::string& packed, const std::string& unpacked) {
    const double mib = static_cast<double>(table_.image().dataBytes) / static_cast<double>(MIB);
    const Comparison result = compare(
        table_.rounds(),
        [&] {
          const Faultline server(table_.directory(), packed, {.prefault = true});
          return mib / populated(server);
        },
        [&] {
          const auto begin = Clock::now();
          finish({"zstd", "-q", "-d", "-f", packed, "-o", unpacked});
          const double unpacking = secondsSince(begin);
          const Faultline server(table_.directory(), unpacked, {.prefault = true});
          return mib / (unpacking + populated(server));
        });
    table_.add(
        {FIRST, "MiB/s", result.ours, result.theirs, "unpacked first", result.ratio, Aim::atLeast, 0.8});
  }

  static void pack(const ProgramBytes& bytes) {
    finish({process::siblingExecutable("faultline"), "pack", "--force", bytes.path(), bytes.packed()});
  }

  // Frames at random from the page cache; beside what zstd takes for the same ones, which lie in memory.
  void oneFrame(const ProgramBytes& bytes) {
    const kj::AutoCloseFd file(open(bytes.packed().c_str(), O_RDONLY | O_CLOEXEC));
    const packed::Image image(file.get(), bytes.packed(), std::filesystem::file_size(bytes.packed()));
    std::vector<std::size_t> order;
    for (std::size_t i = 0; i + 1 < image.table().frames(); i++) order.push_back(i);
    std::shuffle(order.begin(), order.end(), std::mt19937(1));
    order.resize(std::min<std::size_t>(order.size(), 2000));
    packed::FrameReader reader;
    std::vector<std::byte> content(image.table().largest()), frame(image.table().largestPacked());
    const std::unique_ptr<ZSTD_DCtx, std::size_t (*)(ZSTD_DCtx*)> zstd(ZSTD_createDCtx(), ZSTD_freeDCtx);
    const auto p50 = [&](const std::function<double(std::size_t)>& once) {
      std::vector<double> us;
      us.reserve(order.size());
      for (const std::size_t index : order) us.push_back(1e6 * once(index));
      return median(us);
    };
    const Comparison result = compare(
        table_.rounds(),
        [&] {
          return p50([&](std::size_t index) {
            const auto begin = Clock::now();
            image.read(index, reader, std::span(content).first(image.table().frame(index).bytes));
            return secondsSince(begin);
          });
        },
        [&] {
          return p50([&](std::size_t index) {
            const packed::Frame at = image.table().frame(index);
            packed::readAt(file.get(), bytes.packed(), at.at, std::span(frame).first(at.packedBytes));
            const auto begin = Clock::now();
            if (ZSTD_decompressDCtx(zstd.get(), content.data(), at.bytes, frame.data(), at.packedBytes) !=
                at.bytes)
              throw std::runtime_error("zstd fails");
            return secondsSince(begin);
          });
        });
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
          pack(bytes);
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
