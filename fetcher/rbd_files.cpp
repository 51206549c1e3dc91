#include "fetcher/rbd_files.h"

#include <cstdlib>

namespace faultline::fetcher {

std::vector<std::string> rbdFiles() {
  std::vector<std::string> files = {"/etc/ceph",        "/etc/hosts",           "/etc/host.conf",
                                    "/etc/resolv.conf", "/etc/nsswitch.conf",   "/etc/gai.conf",
                                    "/etc/services",    "/run/systemd/resolve", "/proc/cpuinfo",
                                    "/proc/meminfo",    "/proc/sys/kernel",     "/sys/devices/system",
                                    "/dev/urandom",     "/etc/localtime",       "/usr/share/zoneinfo"};
  for (const char* name : {"CEPH_CONF", "CEPH_KEYRING"})
    if (const char* path = getenv(name); path != nullptr && *path != '\0') files.emplace_back(path);
  return files;
}

}  // namespace faultline::fetcher
