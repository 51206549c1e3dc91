#include "image/file_system.h"

#include <sys/vfs.h>

#include <cstdio>
#include <fstream>
#include <sstream>

namespace faultline::image {

namespace {

// The type in a line of mountinfo: "36 35 98:0 / /mnt rw,noatime master:1 - ext3 /dev/root rw", proc_pid_mountinfo(5).
std::string typeOf(const std::string& line) {
  const auto separator = line.find(" - ");
  if (separator == std::string::npos) return "";
  std::string type;
  std::istringstream(line.substr(separator + 3)) >> type;
  return type;
}

std::string mountOf(int file) {
  std::ifstream lines("/proc/self/fdinfo/" + std::to_string(file));
  for (std::string key, value; lines >> key >> value;)
    if (key == "mnt_id:") return value;
  return "";
}

}  // namespace

std::string fileSystemOf(int file) {
  const std::string mount = mountOf(file);
  std::ifstream lines("/proc/self/mountinfo");
  for (std::string line; !mount.empty() && std::getline(lines, line);)
    if (line.starts_with(mount + " ")) return typeOf(line);
  struct statfs system {};
  if (fstatfs(file, &system) != 0) return "";
  char magic[20];
  snprintf(magic, sizeof magic, "0x%lx", static_cast<unsigned long>(system.f_type));
  return magic;
}

}  // namespace faultline::image
