#include "coordinator/door.h"

#include <fmt/format.h>

#include <memory>

#include "coordinator/own_thread.h"
#include "coordinator/shared_memory.h"
#include "process/duplicate.h"
#include "uffd/registration.h"
#include "uffd/uffd.h"

namespace faultline::coordinator {

namespace {

std::optional<std::string> whyNot(int uffd, const shm::Region& region, std::size_t index) {
  for (const std::uint64_t address : {region.base, region.base + region.size - region.pageSize}) {
    const std::string where =
        "region " + std::to_string(index) + ", at " + fmt::format("{:#x}", address) + ": ";
    switch (uffd::registrationOf(uffd, address, region.pageSize)) {
      case uffd::Registration::registered:
      case uffd::Registration::unknown:
        continue;
      case uffd::Registration::notRegistered:
        return where +
               "this memory is not registered with the userfaultfd: do UFFDIO_REGISTER with "
               "UFFDIO_REGISTER_MODE_MISSING for all of the region before the handshake";
      case uffd::Registration::otherPageSize:
        return where + "the page size is " + std::to_string(region.pageSize) +
               ", and that is not the size of this memory's pages: name the size that the memory was mapped "
               "with";
      case uffd::Registration::targetGone:
        return "the target's memory has gone";
    }
  }
  return std::nullopt;
}

}  // namespace

kj::Promise<std::optional<std::string>> whyNotRegistered(int uffd, std::vector<shm::Region> regions,
                                                         pid_t target) {
  auto own = std::make_shared<kj::AutoCloseFd>(process::duplicate(uffd));
  auto why = std::make_shared<std::optional<std::string>>();
  auto looked = lookInOwnThread([own, why, target, regions = std::move(regions)] {
    for (std::size_t i = 0; i < regions.size() && !why->has_value(); i++)
      *why = whyNot(own->get(), regions[i], i);
    if (!why->has_value()) *why = whyNotSharedHuge(target, regions);
  });
  return looked.then([why] { return *why; });
}

}  // namespace faultline::coordinator
