// Arguments of calls of the control interface: refused with a message, or within the bounds of the restore.
//
// Input: a byte that says what, and a Cap'n Proto message of it.

#include <capnp/serialize.h>
#include <kj/async.h>
#include <kj/exception.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/call_inputs.h"
#include "coordinator/listener.h"
#include "coordinator/page_runs.h"
#include "coordinator/source_files.h"
#include "coordinator/working_set.h"
#include "process/duplicate.h"
#include "rpc/control.capnp.h"
#include "rpc/convert.h"
#include "shmtracker/region_table.h"
#include "shmtracker/segment.h"
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

const coordinator::SourceFiles& sources() {
  static const coordinator::SourceFiles files = [] {
    coordinator::SourceFiles made;
    made.push_back(process::duplicate(source()));
    return made;
  }();
  return files;
}

// A restore of so many pages, every second one of which was populated: as many runs as there can be.
shm::Segment& restore() {
  static shm::Segment segment = [] {
    shm::Segment made =
        shm::Segment::create({.restoreId = 7,
                              .name = "vm",
                              .sourceName = "/snapshots/vm.mem",
                              .regions = {{1u << 30, PAGES * shm::SMALL_PAGE, 0, shm::SMALL_PAGE}},
                              .sourceBytes = SOURCE,
                              .uffdFeatures = 8,
                              .workersPerShard = 2,
                              .shards = 3});
    made.lock().open();
    for (shm::PageIndex page = 0; page < PAGES; page += 2)
      made.pages().markFaulted(made.lock().lockShared(0), {page, 1});
    return made;
  }();
  return segment;
}

shm::PageRange checkRange(rpc::PageRange::Reader reader) {
  const shm::PageRange range = rpc::rangeFrom(reader, PAGES);
  fuzz::require(range.first <= PAGES && range.count <= PAGES - range.first, "a range lies in the restore");
  return range;
}

template <typename Value>
void checkRuns(const std::vector<coordinator::Run<Value>>& runs, shm::PageRange range) {
  fuzz::require(runs.size() <= coordinator::MAX_RUNS, "an answer has an end");
  shm::PageIndex next = range.first;
  for (const auto& run : runs) {
    fuzz::require(run.range.first == next && run.range.count > 0, "runs follow each other");
    next = run.range.end();
  }
  fuzz::require(next == range.end() || (runs.size() == coordinator::MAX_RUNS && next < range.end()),
                "runs end with the range, or where the answer is full");
}

// The first touches of a restore that has more of them than one answer takes.
void checkRecorded(std::uint64_t from) {
  static kj::EventLoop loop;
  static kj::WaitScope scope(loop);
  static auto recorded = [] {
    auto recorder = std::make_shared<coordinator::TouchRecorder>(PAGES);
    for (shm::PageIndex page = 0; page < PAGES; page++) recorder->touched(page);
    return coordinator::makeRecordedWorkingSet(recorder, restore().regions().regions(), sources());
  }();
  auto request = recorded.pagesRequest();
  request.setFirst(from);
  const auto answer = request.send().wait(scope);
  const auto pages = answer.getPages();
  fuzz::require(answer.getRecorded() == PAGES && pages.size() <= 65536, "an answer has an end");
  fuzz::require(pages.size() > 0 || from >= PAGES, "who asks on comes to the end");
  for (unsigned i = 0; i < pages.size(); i++) fuzz::require(pages[i] == from + i, "touches come in order");
}

void checkName(const std::string& name) {
  coordinator::requireName(name);
  fuzz::require(!name.empty() && name.size() <= 50, "a name is short");
  fuzz::require(name.find_first_of("./: \n\t") == std::string::npos, "a name is one word");
}

void checkShards(std::uint32_t shards) {
  coordinator::requireShards(shards);
  fuzz::require(shards >= 1 && shards <= shm::MAX_SHARDS, "there are as many shards as can be");
}

void checkDirectory(const std::string& directory) {
  coordinator::requireBuildDirectory(directory);
  fuzz::require(directory.front() == '/' && directory.size() <= 500, "a directory fits a message of ours");
}

void checkWorkingSet(rpc::WorkingSet::Reader reader, const std::vector<shm::Region>& regions) {
  const coordinator::WorkingSet set = coordinator::workingSetFrom(reader, source());
  for (const auto& range : set.ranges)
    fuzz::require(range.offset <= SOURCE && range.size <= SOURCE - range.offset,
                  "a range lies in the source");
  if (regions.empty() || coordinator::whyNotUsable(set, regions, SOURCE).has_value()) return;
  const std::uint64_t pages = shm::RegionTable::pagesOf(regions);
  for (const shm::PageRange range : coordinator::pagesOf(set, regions))
    fuzz::require(range.count > 0 && range.end() <= pages, "its pages are the restore's");
}

void checkAttach(rpc::AttachSpec::Reader spec) {
  std::vector<shm::Region> regions = rpc::regionsFrom(spec.getRegions());
  if (shm::whyNotServable(regions, SOURCE).has_value()) regions.clear();
  std::sort(regions.begin(), regions.end(), [](const auto& a, const auto& b) { return a.base < b.base; });
  checkWorkingSet(spec.getPolicy().getWorkingSet(), regions);
  checkName(spec.getName().cStr());
}

void checkRanges(capnp::List<rpc::PageRange>::Reader list) {
  for (const shm::PageRange range : rpc::rangesFrom(list, PAGES))
    fuzz::require(range.first <= PAGES && range.count <= PAGES - range.first, "a range lies in the restore");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* input, std::size_t size) {
  if (size < 1 || size > 64ul * 1024) return 0;
  auto words = kj::heapArray<capnp::word>((size - 1) / sizeof(capnp::word));
  std::memcpy(words.begin(), input + 1, words.asBytes().size());
  auto failure = kj::runCatchingExceptions([&] {
    capnp::FlatArrayMessageReader message(words);
    switch (input[0] % 8) {
      case 0:
        return checkAttach(message.getRoot<rpc::AttachSpec>());
      case 1:
        return checkRanges(message.getRoot<rpc::Restore::PrefaultParams>().getRanges());
      case 2:
        return checkName(coordinator::listenerSpecFrom(message.getRoot<rpc::KeptListener>(), sources()).name);
      case 3: {
        const auto range = checkRange(message.getRoot<rpc::Restore::PageStatesParams>().getPages());
        return checkRuns(coordinator::stateRuns(restore().pages(), range), range);
      }
      case 4: {
        const auto range = checkRange(message.getRoot<rpc::Restore::OwnersParams>().getPages());
        return checkRuns(coordinator::ownerRuns(restore(), range), range);
      }
      case 5:
        return checkShards(message.getRoot<rpc::Coordinator::ReshardParams>().getShards());
      case 6:
        return checkDirectory(message.getRoot<rpc::Coordinator::UpgradeParams>().getDirectory().cStr());
      default:
        return checkRecorded(message.getRoot<rpc::RecordedWorkingSet::PagesParams>().getFirst());
    }
  });
  KJ_IF_MAYBE (error, failure) {
    fuzz::require(error->getDescription().size() > 0, "a refusal says why");
  }
  return 0;
}
