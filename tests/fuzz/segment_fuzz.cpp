// A segment of arbitrary bytes is refused with a message, or no value read from it leads out of it.
//
// Input: records of an offset (4 bytes), a length (1 byte) and so many bytes, which are put over a sound
// segment; where the first byte of all is odd, the checksum is made right then, so that what is behind it is
// reached, too.

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "shmtracker/error.h"
#include "shmtracker/layout.h"
#include "shmtracker/segment.h"
#include "tests/fuzz/require.h"

using namespace faultline;

namespace {

shm::Segment makeSound() {
  return shm::Segment::create({.restoreId = 7,
                               .name = "vm",
                               .sourceName = "/snapshots/vm.mem",
                               .regions = {{1 << 20, 64 * shm::SMALL_PAGE, 0, shm::SMALL_PAGE},
                                           {4 << 20, shm::HUGE_PAGE, shm::HUGE_PAGE, shm::HUGE_PAGE}},
                               .sourceBytes = 2 * shm::HUGE_PAGE,
                               .uffdFeatures = 8,
                               .workersPerShard = 2,
                               .shards = 3});
}

// The segment under test, and how it was made.
struct Subject {
  shm::Segment segment = makeSound();
  char* bytes =
      static_cast<char*>(mmap(nullptr, segment.bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, segment.fd(), 0));
  const shm::Layout layout = shm::Layout::of(2, segment.extents().count(), segment.facts().pageCount, 2);
  const std::vector<char> sound{bytes, bytes + segment.bytes()};
};

void put(Subject& subject, const std::uint8_t* input, std::size_t size) {
  while (size > 5) {
    std::uint32_t at;
    std::memcpy(&at, input, sizeof at);
    at %= static_cast<std::uint32_t>(subject.sound.size());
    const std::size_t length = std::min({std::size_t{input[4]}, size - 5, subject.sound.size() - at});
    std::memcpy(subject.bytes + at, input + 5, length);
    input += 5 + length;
    size -= 5 + length;
  }
}

void seal(Subject& subject) {
  auto* header = reinterpret_cast<shm::Header*>(subject.bytes);
  header->immutable.regionsCrc =
      shm::crc32c(subject.bytes + subject.layout.regions, 2 * sizeof(shm::RegionEntry));
  header->immutableCrc = shm::crc32c(&header->immutable, sizeof(shm::Immutable));
}

void look(shm::Segment& segment) {
  const shm::PageTable& pages = segment.pages();
  fuzz::require(segment.activeShards() >= 1 && segment.activeShards() <= shm::MAX_SHARDS,
                "shards are in bounds");
  fuzz::require(segment.activeSlots() <= shm::MAX_SHARDS * segment.facts().workersPerShard,
                "slots are in bounds");
  fuzz::require(pages.counts().total() == pages.pageCount(), "every page has one state");
  for (std::uint64_t page = 0; page < pages.pageCount(); page++) {
    const shm::PageLocation at = segment.regions().locate(page);
    fuzz::require(at.offset + at.pageSize <= 2 * shm::HUGE_PAGE, "a page lies in the source");
    fuzz::require(segment.ownerOf(page) < segment.activeShards(), "an owner is a shard");
    const std::uint64_t run = pages.runLength(page, pages.pageCount() - page);
    fuzz::require(run >= 1 && run <= pages.pageCount() - page, "a run ends with the pages");
  }
  (void)segment.name();
  (void)segment.sourceName();
  (void)segment.journal().empty();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* input, std::size_t size) {
  static Subject subject;
  std::memcpy(subject.bytes, subject.sound.data(), subject.sound.size());
  if (size == 0) return 0;
  put(subject, input + 1, size - 1);
  if ((input[0] & 1) != 0) seal(subject);
  try {
    shm::Segment attached = shm::Segment::attach(subject.segment.fd());
    look(attached);
  } catch (const shm::SegmentError& error) {
    fuzz::require(error.what()[0] != '\0', "a refusal says why");
  }
  return 0;
}
