// Memory that lies in Ceph, in S3, or on a web server: beside Ceph's own `rbd bench`, and beside curl. The cluster is one that
// tests/remote/ceph has started, in the folder FAULTLINE_CEPH (./scripts/bench --remote does).
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>

#include "bench/aim_table.h"
#include "bench/bulk.h"
#include "bench/fetched.h"

namespace faultline::bench {

namespace {

constexpr const char* BUCKET = "bench";
constexpr unsigned PORT = 8097;

std::string outputOf(const std::string& command) {
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command.c_str(), "r"), pclose);
  std::string all;
  std::array<char, 4096> some;
  if (pipe == nullptr) throw std::runtime_error(command);
  while (const std::size_t got = fread(some.data(), 1, some.size(), pipe.get())) all.append(some.data(), got);
  return all;
}

double secondsOf(const std::string& command) {
  const auto begin = std::chrono::steady_clock::now();
  finish({"bash", "-ec", command});
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// What tests/remote/ceph says of its cluster.
std::string setting(const std::string& name) {
  const char* const folder = getenv("FAULTLINE_CEPH");
  std::ifstream file(folder == nullptr ? "" : std::string(folder) + "/env");
  for (std::string line; std::getline(file, line);)
    if (line.rfind(name + "=", 0) == 0) return line.substr(name.size() + 1);
  return "";
}

// nginx with the files of a folder. Goes with the object.
class WebServer {
 public:
  explicit WebServer(const std::string& folder) {
    const std::string conf = folder + "/nginx.conf",
                      place = "daemon off; master_process off; pid " + folder + "/nginx.pid";
    std::ofstream(conf) << place << "; error_log " << folder
                        << "/nginx.err;\nevents {}\nhttp { access_log off; "
                        << "keepalive_requests 1000000; server { listen 127.0.0.1:" << PORT << "; root "
                        << folder << "; } }\n";
    std::string words[] = {"nginx", "-p", folder, "-c", conf};
    char* argv[] = {words[0].data(), words[1].data(), words[2].data(),
                    words[3].data(), words[4].data(), nullptr};
    if (posix_spawnp(&pid_, "nginx", nullptr, nullptr, argv, environ) != 0) throw std::runtime_error("nginx");
    finish({"bash", "-c",
            fmt::format("for i in $(seq 100); do curl -s -o /dev/null http://127.0.0.1:{}/ && exit; sleep "
                        "0.1; done; exit 1",
                        PORT)});
  }
  ~WebServer() {
    kill(pid_, SIGTERM);
    waitpid(pid_, nullptr, 0);
  }
  WebServer(const WebServer&) = delete;

 private:
  pid_t pid_ = -1;
};

class RemoteAims {
 public:
  explicit RemoteAims(AimTable& table) : table_(table) {}

  void measure() {
    if (table_.wanted(MISS) || table_.wanted(DEPTH) || wanted(RBD) || wanted(RADOSGW)) {
      if (setting("CEPH_CONF").empty())
        for (const char* what : {MISS, DEPTH, RBD.first, RADOSGW.first})
          AimTable::leaveOut(what, "no Ceph cluster (./scripts/bench --remote)");
      else
        overCeph();
    }
    if (!wanted(NGINX)) return;
    if (access("/usr/sbin/nginx", X_OK) != 0)
      return AimTable::leaveOut(NGINX.first, "nginx is missing (./scripts/deps --remote)");
    overNginx();
  }

 private:
  static constexpr const char* MISS = "RBD: miss, one of each 64 KiB, 1 thread, p50";
  static constexpr const char* DEPTH = "RBD: misses/s, 32 threads";
  // Lines of populations: beside a program that throws away what it reads; beside that and what becomes of the bytes here, one
  // after the other; and what a second restore fetches.
  struct Populations {
    const char *first, *series, *again;
  };
  static constexpr Populations RBD{"RBD: first restore, population", "RBD: first restore, all of it",
                                   "RBD: bytes fetched by a second restore, to the data"};
  static constexpr Populations RADOSGW{"S3 (radosgw): first restore, population",
                                       "S3 (radosgw): first restore, all of it",
                                       "S3 (radosgw): bytes fetched by a second restore, to the data"};
  static constexpr Populations NGINX{"HTTP (nginx): first restore, population",
                                     "HTTP (nginx): first restore, all of it",
                                     "HTTP (nginx): bytes fetched by a second restore, to the data"};

  bool wanted(const Populations& lines) const {
    return table_.wanted(lines.first) || table_.wanted(lines.series) || table_.wanted(lines.again);
  }
  std::uint64_t bytes() const { return std::min(table_.image().dataBytes, 256 * MIB); }
  double mib() const { return static_cast<double>(bytes()) / static_cast<double>(MIB); }
  // So much of the image, in a file of its own.
  std::string part() const {
    std::string path = table_.directory() + "/remote.mem";
    finish({"bash", "-ec", fmt::format("head -c {} '{}' >'{}'", bytes(), table_.image().path, path)});
    return path;
  }

  static double rbdBench(const std::string& what, const char* field) {
    const std::string said = outputOf("CEPH_CONF=" + setting("CEPH_CONF") +
                                      " timeout 300 rbd --rbd-cache=false bench --io-type read " + what +
                                      " p/bench 2>/dev/null | tail -1");
    const std::size_t at = said.find(field);
    if (at == std::string::npos) throw std::runtime_error("rbd bench: " + said);
    return std::stod(said.substr(at + std::string(field).size()));
  }

  // `bare`: seconds in which another program reads all of it, 2 MiB each, 8 at once.
  void populations(const Populations& lines, const std::string& uri, const std::string& program,
                   const std::function<double()>& bare) {
    const auto restored = [&](const Faultline& ours) { return prefault(ours, {.bytes = bytes()}).seconds; };
    if (table_.wanted(lines.first) || table_.wanted(lines.series)) {
      const std::string written = table_.directory() + "/written";
      const auto results = compareWithEach(
          table_.rounds(), 2,
          [&] { return mib() / restored(Faultline(table_.directory(), uri, {.prefault = true})); },
          [&](std::size_t which) {
            double seconds = bare();
            if (which == 1) {
              seconds += secondsOfWriting(written, bytes());
              seconds += mib() / 1024 /
                         bulkCopy(static_cast<unsigned>(cpus()), 2 * MIB, bytes() / (2 * MIB) * (2 * MIB),
                                  4096, Placement::free);
              std::filesystem::remove(written);
            }
            return mib() / seconds;
          });
      const auto add = [&](const char* what, const Comparison& result, const std::string& against,
                           double bound) {
        if (table_.wanted(what))
          table_.add({what, "MiB/s", result.ours, result.theirs, against, result.ratio, Aim::atLeast, bound});
      };
      add(lines.first, results[0], program + ", 8 of 2 MiB", 0.7);
      add(lines.series, results[1], program + ", pwrite, bulk", 0.8);
    }
    if (table_.wanted(lines.again)) {
      const Faultline ours(table_.directory(), uri, {.prefault = true});
      restored(ours);
      const std::uint64_t before = fetchedBytes(ours);
      restored(ours);
      const double fetched = static_cast<double>(fetchedBytes(ours) - before);
      table_.add({lines.again, "MiB", fetched / MIB, mib(), "data", fetched / MIB / mib(), Aim::atMost, 0});
    }
  }

  void overCeph() {
    const std::string path = part(), ceph = "export CEPH_CONF=" + setting("CEPH_CONF") + "; ";
    finish({"bash", "-ec",
            ceph + "rbd import --no-progress " + path +
                " p/bench; rbd snap create --no-progress p/bench@s; "
                "rbd snap protect p/bench@s"});
    const std::string uri = "rbd:p/bench@s?conf=" + setting("CEPH_CONF");
    const BenchImage image{path, bytes()};
    Workload sparse{.bytes = bytes(), .regionBytes = bytes(), .threads = 1, .pattern = Pattern::sparse};
    if (table_.wanted(MISS)) {
      const Comparison result = compare(
          table_.rounds(),
          [&] {
            const Faultline ours(table_.directory(), uri, {});
            return micro(run(sparse, image, ours.backing()).latency.quantile(0.5));
          },
          [&] {
            return 1e6 /
                   rbdBench("--io-size 64K --io-threads 1 --io-pattern rand --io-total 128M", "ops/sec: ");
          });
      table_.add({MISS, "us", result.ours, result.theirs, "rbd bench", result.ratio, Aim::atMost, 1.3});
    }
    if (table_.wanted(DEPTH)) {
      sparse.threads = 32;
      const Comparison result = compare(
          table_.rounds(),
          [&] {
            const Faultline ours(table_.directory(), uri, {});
            return run(sparse, image, ours.backing()).perSecond();
          },
          [&] {
            return rbdBench("--io-size 64K --io-threads 32 --io-pattern rand --io-total 256M", "ops/sec: ");
          });
      table_.add({DEPTH, "/s", result.ours, result.theirs, "rbd bench", result.ratio, Aim::atLeast, 0.8});
    }
    if (wanted(RBD))
      populations(RBD, uri, "rbd bench", [&] {
        return mib() / 2 /
               rbdBench(fmt::format("--io-size 2M --io-threads 8 --io-pattern seq --io-total {}", bytes()),
                        "ops/sec: ");
      });
    if (wanted(RADOSGW)) {
      setenv("AWS_ENDPOINT_URL", setting("S3").c_str(), 1);
      setenv("AWS_ACCESS_KEY_ID", setting("KEY").c_str(), 1);
      setenv("AWS_SECRET_ACCESS_KEY", setting("SECRET").c_str(), 1);
      const std::string signature =
          "-H x-amz-content-sha256:UNSIGNED-PAYLOAD --aws-sigv4 aws:amz:us-east-1:s3 -u " + setting("KEY") +
          ":" + setting("SECRET");
      const std::string place = setting("S3") + "/" + BUCKET;
      finish({"bash", "-ec",
              "curl -sSf " + signature + " -X PUT " + place + "; curl -sSf " + signature + " -T " + path +
                  " " + place + "/vm.mem"});
      byCurl(RADOSGW, std::string("s3://") + BUCKET + "/vm.mem", place + "/vm.mem", signature);
    }
    finish({"bash", "-ec",
            ceph + "rbd snap unprotect p/bench@s; rbd snap purge --no-progress p/bench; rbd rm --no-progress "
                   "p/bench"});
    std::filesystem::remove(path);
  }

  // Beside curl, which throws all of it away: 2 MiB each, 8 at once.
  void byCurl(const Populations& lines, const std::string& uri, const std::string& url,
              const std::string& more) {
    const std::string list = table_.directory() + "/remote.curl";
    {
      std::ofstream file(list);
      for (std::uint64_t at = 0; at < bytes(); at += 2 * MIB)
        file << (at == 0 ? "" : "next\n") << "url = \"" << url << "\"\nrange = " << at << "-"
             << std::min(at + 2 * MIB, bytes()) - 1 << "\noutput = /dev/null\n"
             << optionsOf(more);
    }
    populations(lines, uri, "curl", [&] {
      return secondsOf("curl -f --no-progress-meter --parallel --parallel-max 8 -K " + list);
    });
    std::filesystem::remove(list);
  }
  // As a file of curl's has them.
  static std::string optionsOf(const std::string& more) {
    if (more.empty()) return "";
    return "header = \"x-amz-content-sha256: UNSIGNED-PAYLOAD\"\naws-sigv4 = \"aws:amz:us-east-1:s3\"\nuser "
           "= \"" +
           setting("KEY") + ":" + setting("SECRET") + "\"\n";
  }

  void overNginx() {
    const std::string path = part();
    const WebServer server(table_.directory());
    const std::string url = fmt::format("http://127.0.0.1:{}/remote.mem", PORT);
    byCurl(NGINX, url, url, "");
    std::filesystem::remove(path);
  }

  AimTable& table_;
};

}  // namespace

void remoteAims(AimTable& table) {
  RemoteAims(table).measure();
}

}  // namespace faultline::bench
