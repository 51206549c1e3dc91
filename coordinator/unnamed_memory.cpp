#include "coordinator/unnamed_memory.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <optional>
#include <string>

#include "shmtracker/pages.h"
#include "uffd/registration.h"
#include "uffd/uffd.h"

namespace faultline::coordinator {

namespace {

struct Range {
  std::uint64_t start, length;  // bytes
};

bool isRegistered(int uffd, Range range) {
  const auto answer = uffd::registrationOf(uffd, range.start, range.length);
  return answer == uffd::Registration::registered || answer == uffd::Registration::otherPageSize;
}

// The mapping around a page, as far as the kernel tells it: by asking for longer and longer ranges.
Range mappingAround(int uffd, Range page) {
  Range mapping = page;
  for (std::uint64_t step = page.length; step >= page.length;) {
    const bool more = isRegistered(uffd, {mapping.start, mapping.length + step});
    if (more) mapping.length += step;
    step = more ? step * 2 : step / 2;
  }
  for (std::uint64_t step = page.length; step >= page.length;) {
    const bool more =
        step <= mapping.start && isRegistered(uffd, {mapping.start - step, mapping.length + step});
    if (more) mapping = {mapping.start - step, mapping.length + step};
    step = more ? step * 2 : step / 2;
  }
  return mapping;
}

std::optional<Range> registeredAround(int uffd, std::uint64_t address) {
  // The range may be of either size. The kernel refuses a small one where pages are huge, not the other way round.
  for (const std::uint64_t size : {shm::SMALL_PAGE, shm::HUGE_PAGE}) {
    const Range page{address & ~(size - 1), size};
    if (uffd::registrationOf(uffd, page.start, size) == uffd::Registration::registered)
      return mappingAround(uffd, page);
  }
  return std::nullopt;
}

// Registers it for what it is registered for already, which changes nothing, and is refused where it is another
// userfaultfd's (fs/userfaultfd.c, userfaultfd_register). Some kernels would unregister that too.
bool isOurs(int uffd, Range range) {
  uffdio_register request{};
  request.range = {range.start, range.length};
  request.mode = UFFDIO_REGISTER_MODE_MISSING;
  return ioctl(uffd, UFFDIO_REGISTER, &request) == 0;
}

}  // namespace

std::uint64_t unregisterUnnamed(int uffd, pid_t pid, std::span<const std::uint64_t> faulted) {
  std::uint64_t letGo = 0;
  // Of one mapping.
  auto letGoOf = [&](Range range) {
    if (isOurs(uffd, range) && uffd::unregister(uffd, range.start, range.length) == 0) letGo += range.length;
  };
  for (const std::uint64_t address : faulted)
    if (const auto range = registeredAround(uffd, address)) letGoOf(*range);
  if (pid == 0) return letGo;
  std::ifstream maps("/proc/" + std::to_string(pid) + "/maps");
  for (std::string line; std::getline(maps, line);) {
    unsigned long long start = 0, end = 0;
    if (std::sscanf(line.c_str(), "%llx-%llx", &start, &end) != 2 || start >= end) continue;
    // One mapping of the address space that is asked, whatever process the pid is by now.
    if (const Range range{start, end - start}; isRegistered(uffd, range)) letGoOf(range);
  }
  return letGo;
}

}  // namespace faultline::coordinator
