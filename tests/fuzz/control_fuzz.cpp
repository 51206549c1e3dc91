// What comes with calls of the control interface: refused with a message, or inside of what there is.
//
// Input: a byte that says what, and a Cap'n Proto message of it.

#include <capnp/serialize.h>
#include <kj/exception.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "coordinator/listener.h"
#include "coordinator/working_set.h"
#include "rpc/control.capnp.h"
#include "rpc/convert.h"
#include "shmtracker/region_table.h"
#include "tests/fuzz/require.h"

using namespace faultline;

namespace {

constexpr std::uint64_t SOURCE = 1u << 30;  // bytes
constexpr std::uint64_t PAGES = 100'000;

int source() {
  static const int fd = [] {
    const int made = memfd_create("source", MFD_CLOEXEC);
    fuzz::require(made >= 0 && ftruncate(made, SOURCE) == 0, "a source can be made");
    return made;
  }();
  return fd;
}

void checkWorkingSet(rpc::WorkingSet::Reader reader, const std::vector<shm::Region>& regions) {
  const coordinator::WorkingSet set = coordinator::workingSetFrom(reader, source());
  for (const auto& range : set.ranges)
    fuzz::require(range.offset <= SOURCE && range.size <= SOURCE - range.offset,
                  "a range lies in the source");
  if (regions.empty() || coordinator::whyNotUsable(set, regions).has_value()) return;
  const std::uint64_t pages = shm::RegionTable::pagesOf(regions);
  for (const shm::PageRange range : coordinator::pagesOf(set, regions))
    fuzz::require(range.count > 0 && range.end() <= pages, "its pages are the restore's");
}

void checkAttach(rpc::AttachSpec::Reader spec) {
  std::vector<shm::Region> regions = rpc::regionsFrom(spec.getRegions());
  if (shm::whyNotServable(regions, SOURCE).has_value()) regions.clear();
  std::sort(regions.begin(), regions.end(), [](const auto& a, const auto& b) { return a.base < b.base; });
  checkWorkingSet(spec.getWorkingSet(), regions);
  (void)spec.getName();
  (void)spec.getSourceName();
}

void checkRanges(capnp::List<rpc::PageRange>::Reader list) {
  for (const shm::PageRange range : rpc::rangesFrom(list, PAGES))
    fuzz::require(range.first <= PAGES && range.count <= PAGES - range.first, "a range lies in the restore");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* input, std::size_t size) {
  if (size < 1 || size > 64 * 1024) return 0;
  auto words = kj::heapArray<capnp::word>((size - 1) / sizeof(capnp::word));
  std::memcpy(words.begin(), input + 1, words.asBytes().size());
  auto failure = kj::runCatchingExceptions([&] {
    capnp::FlatArrayMessageReader message(words);
    switch (input[0] % 4) {
      case 0:
        return checkAttach(message.getRoot<rpc::AttachSpec>());
      case 1:
        return checkRanges(message.getRoot<rpc::Restore::PrefaultParams>().getRanges());
      case 2:
        (void)coordinator::listenerSpecFrom(message.getRoot<rpc::ListenSpec>(), source());
        return;
      default: {
        const auto range =
            rpc::rangeFrom(message.getRoot<rpc::Restore::PageStatesParams>().getRange(), PAGES);
        fuzz::require(range.first <= PAGES && range.count <= PAGES - range.first,
                      "a range lies in the restore");
      }
    }
  });
  KJ_IF_MAYBE (error, failure) {
    fuzz::require(error->getDescription().size() > 0, "a refusal says why");
  }
  return 0;
}
