#include "coordinator/unnamed_memory.h"

#include <optional>

#include "coordinator/mappings.h"
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

}  // namespace

std::uint64_t unregisterUnnamed(int uffd, pid_t pid, std::span<const std::uint64_t> faulted) {
  std::uint64_t letGo = 0;
  // Lets go of one mapping. Some kernels would unregister what is another userfaultfd's, too.
  auto letGoOf = [&](Range range) {
    if (uffd::registeredWith(uffd, range.start, range.length) &&
        uffd::unregister(uffd, range.start, range.length) == 0)
      letGo += range.length;
  };
  for (const std::uint64_t address : faulted)
    if (const auto range = registeredAround(uffd, address)) letGoOf(*range);
  // The answers are of the address space that is asked, whatever process the pid is by now.
  for (const Mapping& mapping : mappingsOf(pid))
    if (const Range range{mapping.start, mapping.end - mapping.start}; isRegistered(uffd, range))
      letGoOf(range);
  return letGo;
}

}  // namespace faultline::coordinator
