// How much memory the control groups of a process let it have, of version 2 and of version 1.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace faultline::coordinator {

struct MemoryLimit {
  std::string group;    // directory of the control group
  std::string file;     // the limit's: memory.max, memory.high, memory.limit_in_bytes
  std::uint64_t limit;  // bytes
  std::uint64_t used;   // bytes, without the files' pages that the kernel gives back first
};

// Any thread. Reads files of the kernel, which answers without waiting for any process.
class ControlGroups {
 public:
  // `mounts`: as /proc/self/mountinfo.
  explicit ControlGroups(const std::string& mounts);
  // The control groups of this machine.
  static ControlGroups here();

  // The limits of the group and of all groups above it, from the lowest up. `groups`: as /proc/PID/cgroup. Empty where there
  // are none, or none can be seen from here.
  std::vector<MemoryLimit> memoryLimits(const std::string& groups) const;
  // The limits of a process, by its pidfd. Empty where it has ended, too.
  std::vector<MemoryLimit> memoryLimitsOf(int pidfd) const;

 private:
  struct Mount {
    std::string root, path;  // the group that is mounted, and where
  };
  static std::string directoryOf(const Mount& mount, const std::string& group);

  Mount unified_, memory_;  // empty: not mounted
};

}  // namespace faultline::coordinator
