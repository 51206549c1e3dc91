#include "coordinator/control_groups.h"

#include <algorithm>
#include <fstream>
#include <optional>
#include <sstream>

#include "process/pid_of.h"

namespace faultline::coordinator {

namespace {

// A limit of version 1 that is none: the largest multiple of the page size.
constexpr std::uint64_t NO_LIMIT = std::uint64_t{1} << 62;

std::string textOf(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// proc_pid_mountinfo(5): a blank is \040.
std::string unescaped(const std::string& text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); i++) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      plain += static_cast<char>(std::strtoul(text.substr(i + 1, 3).c_str(), nullptr, 8));
      i += 3;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

bool among(const std::string& word, const std::string& list) {
  std::stringstream words(list);
  for (std::string each; std::getline(words, each, ',');)
    if (each == word) return true;
  return false;
}

// The number in a file; nothing where there is no such file, or no limit in it ("max").
std::optional<std::uint64_t> numberIn(const std::string& path) {
  std::ifstream file(path);
  std::uint64_t number = 0;
  if (!(file >> number)) return std::nullopt;
  return number;
}

// The value of a key in memory.stat.
std::uint64_t statistic(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  std::uint64_t value = 0;
  for (std::string name; file >> name >> value;)
    if (name == key) return value;
  return 0;
}

struct Files {
  std::vector<const char*> limits;
  const char* usage;
  const char* reclaimed;  // in memory.stat
};

void addLimits(std::vector<MemoryLimit>& limits, const std::string& group, const Files& files) {
  for (const char* file : files.limits) {
    const auto limit = numberIn(group + "/" + file);
    const auto usage = numberIn(group + "/" + files.usage);
    if (!limit.has_value() || *limit >= NO_LIMIT || !usage.has_value()) continue;
    const std::uint64_t reclaimed = statistic(group + "/memory.stat", files.reclaimed);
    limits.push_back({group, file, *limit, *usage - std::min(*usage, reclaimed)});
  }
}

}  // namespace

ControlGroups::ControlGroups(const std::string& mounts) {
  std::stringstream lines(mounts);
  for (std::string line; std::getline(lines, line);) {
    std::stringstream fields(line);
    std::string skipped, root, path, type, source, options;
    fields >> skipped >> skipped >> skipped >> root >> path;
    while (fields >> skipped && skipped != "-") continue;
    if (!(fields >> type >> source >> options)) continue;
    if (type == "cgroup2") unified_ = {unescaped(root), unescaped(path)};
    if (type == "cgroup" && among("memory", options)) memory_ = {unescaped(root), unescaped(path)};
  }
}

ControlGroups ControlGroups::here() {
  return ControlGroups(textOf("/proc/self/mountinfo"));
}

// Empty where the group is not below what is mounted.
std::string ControlGroups::directoryOf(const Mount& mount, const std::string& group) {
  const std::string root = mount.root == "/" ? "" : mount.root;
  if (mount.path.empty() || (group + "/").find("/../") != std::string::npos) return "";
  if ((group + "/").rfind(root + "/", 0) != 0) return "";
  std::string below = group.substr(root.size());
  while (!below.empty() && below.back() == '/') below.pop_back();
  return mount.path + below;
}

std::vector<MemoryLimit> ControlGroups::memoryLimits(const std::string& groups) const {
  static const Files UNIFIED{{"memory.max", "memory.high"}, "memory.current", "inactive_file"};
  static const Files VERSION_1{{"memory.limit_in_bytes"}, "memory.usage_in_bytes", "total_inactive_file"};
  std::vector<MemoryLimit> limits;
  std::stringstream lines(groups);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool unified = line.rfind("0::", 0) == 0;
    if (!unified && !among("memory", controllers)) continue;
    const Mount& mount = unified ? unified_ : memory_;
    std::string directory = directoryOf(mount, line.substr(second + 1));
    while (directory.size() >= mount.path.size() && !directory.empty()) {
      addLimits(limits, directory, unified ? UNIFIED : VERSION_1);
      directory.resize(directory.rfind('/'));
    }
  }
  return limits;
}

// The pid is looked up again: it was this process's while its file was read.
std::vector<MemoryLimit> ControlGroups::memoryLimitsOf(int pidfd) const {
  const pid_t pid = process::pidOf(pidfd);
  if (pid == 0) return {};
  const std::string groups = textOf("/proc/" + std::to_string(pid) + "/cgroup");
  return process::pidOf(pidfd) == pid ? memoryLimits(groups) : std::vector<MemoryLimit>();
}

}  // namespace faultline::coordinator
