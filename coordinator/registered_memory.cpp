#include "coordinator/registered_memory.h"

#include <bit>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <thread>

#include "coordinator/own_thread.h"
#include "process/duplicate.h"
#include "process/pid_of.h"
#include "uffd/registration.h"

namespace faultline::coordinator {

namespace {

constexpr std::chrono::milliseconds PAUSE{1};  // while an event is in flight

// The target may have changed its mappings since they were listed, and may have another userfaultfd.
bool isOf(int uffd, const shm::RegionEntry& mapping) {
  const auto told = [&] {
    return uffd::registrationOf(uffd, mapping.base, std::uint64_t{1} << mapping.pageShift);
  };
  uffd::Registration registration = told();
  for (; registration == uffd::Registration::unknown; registration = told())
    std::this_thread::sleep_for(PAUSE);
  return registration == uffd::Registration::registered &&
         uffd::registeredWith(uffd, mapping.base, mapping.size);
}

}  // namespace

// proc(5), /proc/PID/smaps: a mapping begins with a line "BEGIN-END ...", its page size is in the line
// "KernelPageSize:", and its last line is "VmFlags:", with "um" where it is registered for missing faults.
std::optional<std::vector<shm::RegionEntry>> registeredMemory(int uffd, int pidfd) {
  const pid_t pid = process::pidOf(pidfd);
  std::ifstream maps("/proc/" + std::to_string(pid) + "/smaps");
  std::string line;
  if (pid == 0 || !std::getline(maps, line)) return std::nullopt;
  std::vector<shm::RegionEntry> found;
  shm::RegionEntry mapping{};
  do {
    unsigned long begin = 0, end = 0, kib = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &begin, &end) == 2) {
      mapping = {};
      mapping.base = begin;
      mapping.size = end - begin;
    } else if (std::sscanf(line.c_str(), "KernelPageSize: %lu kB", &kib) == 1 && std::has_single_bit(kib)) {
      mapping.pageShift = static_cast<std::uint32_t>(std::countr_zero(kib)) + 10;
    } else if (line.starts_with("VmFlags:") && (line + " ").find(" um ") != std::string::npos &&
               mapping.pageShift != 0 && isOf(uffd, mapping)) {
      found.push_back(mapping);
    }
  } while (std::getline(maps, line));
  return found;
}

kj::Promise<std::optional<std::vector<shm::RegionEntry>>> lookForRegisteredMemory(int uffd, int pidfd) {
  struct Look {
    kj::AutoCloseFd uffd, pidfd;
    std::optional<std::vector<shm::RegionEntry>> found;
  };
  auto look = std::make_shared<Look>(Look{process::duplicate(uffd), process::duplicate(pidfd), std::nullopt});
  return inOwnThread("a target's memory cannot be looked at",
                     [look] { look->found = registeredMemory(look->uffd.get(), look->pidfd.get()); })
      .then([look] { return std::move(look->found); });
}

}  // namespace faultline::coordinator
