#include "fetcher/rbd_files.h"

#include <kj/common.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "fetcher/rbd_library.h"

namespace faultline::fetcher {

namespace {

constexpr char BETWEEN[] = ",; \t";

// Paths where a user's key may be, as Ceph reads its configuration. Throws std::runtime_error.
std::vector<std::string> keyrings(const std::string& access) {
  const auto require = [&](int error, const char* what) {
    if (error < 0)
      throw std::runtime_error(std::string(what) + " of " + access + ": " + std::strerror(-error));
  };
  const RbdLibrary& library = RbdLibrary::loaded();
  const std::size_t at = access.find('@');
  const std::string user = "client." + access.substr(0, at), conf = access.substr(at + 1);
  rados_t cluster = nullptr;
  require(library.create(&cluster, "ceph", user.c_str(), 0), "librados");
  KJ_DEFER(library.shutdown(cluster));
  require(library.confReadFile(cluster, conf.empty() ? nullptr : conf.c_str()), "Ceph's configuration");
  std::vector<std::string> paths;
  for (const char* option : {"keyring", "keyfile"}) {
    std::array<char, 4096> value{};
    require(library.confGet(cluster, option, value.data(), value.size()), option);
    const std::string all = value.data();
    for (std::size_t begin = 0; (begin = all.find_first_not_of(BETWEEN, begin)) != std::string::npos;) {
      const std::size_t end = std::min(all.find_first_of(BETWEEN, begin), all.size());
      paths.push_back(all.substr(begin, end - begin));
      begin = end;
    }
  }
  return paths;
}

}  // namespace

std::vector<std::string> rbdFiles(const std::set<std::string>& accesses) {
  std::vector<std::string> files = {"/etc/ceph",        "/etc/hosts",           "/etc/host.conf",
                                    "/etc/resolv.conf", "/etc/nsswitch.conf",   "/etc/gai.conf",
                                    "/etc/services",    "/run/systemd/resolve", "/proc/cpuinfo",
                                    "/proc/meminfo",    "/proc/sys/kernel",     "/sys/devices/system",
                                    "/dev/urandom",     "/etc/localtime",       "/usr/share/zoneinfo"};
  for (const char* name : {"CEPH_CONF", "CEPH_KEYRING"})
    if (const char* path = getenv(name); path != nullptr && *path != '\0') files.emplace_back(path);
  for (const std::string& access : accesses) {
    try {
      for (std::string& path : keyrings(access)) files.push_back(std::move(path));
    } catch (const std::runtime_error& error) {
      spdlog::debug("{}", error.what());  // opening the source will say why it fails
    }
  }
  return files;
}

}  // namespace faultline::fetcher
