// A control group with the memory controller, of version 2 or 1, for tests of what the kernel does for want of memory.
#pragma once

#include <cstdint>
#include <string>

namespace faultline::test {

// A group of its own with one group below it, so that a limit is an ancestor's. Removed with the object, which
// processes in it must not outlive.
class MemoryGroup {
 public:
  MemoryGroup();
  ~MemoryGroup();
  MemoryGroup(const MemoryGroup&) = delete;

  // False: none can be made here (no root, or no memory controller is to be had); the test is to be skipped then.
  bool made() const { return made_; }
  const std::string& path() const { return path_; }
  // Bytes that it may have, with its lower group.
  void limit(std::uint64_t bytes) const;
  // The calling process becomes the lower group's.
  void enter() const;
  // Processes of it that the kernel has killed for want of memory.
  unsigned killed() const;

 private:
  std::string path_, lower_;
  bool unified_ = false, made_ = false;
};

}  // namespace faultline::test
