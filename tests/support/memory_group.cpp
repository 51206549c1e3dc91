#include "tests/support/memory_group.h"

#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

namespace faultline::test {

namespace {

bool write(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  file << text;
  file.close();
  return file.good();
}

unsigned count(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  unsigned value = 0;
  for (std::string name; file >> name >> value;)
    if (name == key) return value;
  return 0;
}

}  // namespace

MemoryGroup::MemoryGroup() {
  unified_ = access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0;
  const std::string root = unified_ ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
  if (unified_) write(root + "/cgroup.subtree_control", "+memory");
  path_ = root + "/faultline-test-" + std::to_string(getpid());
  lower_ = path_ + "/target";
  if (mkdir(path_.c_str(), 0755) != 0) return;
  if (unified_) write(path_ + "/cgroup.subtree_control", "+memory");
  const std::string limit = path_ + (unified_ ? "/memory.max" : "/memory.limit_in_bytes");
  made_ = mkdir(lower_.c_str(), 0755) == 0 && access(limit.c_str(), W_OK) == 0;
}

MemoryGroup::~MemoryGroup() {
  rmdir(lower_.c_str());
  rmdir(path_.c_str());
}

void MemoryGroup::limit(std::uint64_t bytes) const {
  write(path_ + (unified_ ? "/memory.max" : "/memory.limit_in_bytes"), std::to_string(bytes));
}

void MemoryGroup::enter() const {
  write(lower_ + "/cgroup.procs", std::to_string(getpid()));
}

unsigned MemoryGroup::killed() const {
  return count(lower_ + (unified_ ? "/memory.events" : "/memory.oom_control"), "oom_kill");
}

}  // namespace faultline::test
