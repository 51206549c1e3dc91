#include "shmtracker/layout.h"

#include <boost/crc.hpp>
#include <boost/preprocessor/seq/for_each.hpp>
#include <boost/preprocessor/stringize.hpp>
#include <boost/preprocessor/variadic/to_seq.hpp>
#include <string>

namespace faultline::shm {

namespace {
constexpr std::size_t PART_ALIGNMENT = 4096;
}

// Adds the size of a struct, and name, place and size of each of its members. All of them have to be named, or it does
// not compile: the structured binding takes neither fewer names nor more.
#define FACTS_OF(Struct, ...)                                                      \
  add(#Struct, sizeof(Struct), alignof(Struct));                                   \
  [](const Struct& every) { [[maybe_unused]] const auto& [__VA_ARGS__] = every; }; \
  BOOST_PP_SEQ_FOR_EACH(FACT_OF_MEMBER, Struct, BOOST_PP_VARIADIC_TO_SEQ(__VA_ARGS__))
#define FACT_OF_MEMBER(again, Struct, member) \
  add(#Struct "." BOOST_PP_STRINGIZE(member), offsetof(Struct, member), sizeof(Struct::member));

Layout Layout::of(std::uint32_t regionCount, std::uint32_t extentCount, std::uint64_t pageCount,
                  std::uint32_t workersPerShard) {
  std::size_t at = 0;
  auto part = [&at](std::size_t bytes) {
    const std::size_t start = at;
    at += (bytes + PART_ALIGNMENT - 1) / PART_ALIGNMENT * PART_ALIGNMENT;
    return start;
  };
  const std::size_t words = (pageCount + 63) / 64;
  Layout layout{};
  part(sizeof(Header));
  layout.lock = part(sizeof(LockWords));
  layout.journal = part(JOURNAL_MESSAGES * sizeof(uffd_msg));
  layout.slots = part(sizeof(Slot) * MAX_SHARDS * workersPerShard);
  layout.counters = part(sizeof(RestoreCounters) + sizeof(ShardCounters) * MAX_SHARDS);
  layout.regions = part(sizeof(RegionEntry) * regionCount);
  layout.extents = part(sizeof(ExtentOwner) * extentCount);
  layout.pages = part(sizeof(PageWord) * words);
  layout.mirror = part(sizeof(PageWord) * words);
  layout.end = at;
  return layout;
}

std::string layoutFacts() {
  std::string facts;
  auto add = [&facts](const std::string& name, std::size_t first, std::size_t second) {
    facts += name + ' ' + std::to_string(first) + ' ' + std::to_string(second) + '\n';
  };
  add("pthread_mutex_t", sizeof(pthread_mutex_t), alignof(pthread_mutex_t));
  add("ExtentOwner", sizeof(ExtentOwner), alignof(ExtentOwner));
  add("uffd_msg", sizeof(uffd_msg), JOURNAL_MESSAGES);
  add("parts", PART_ALIGNMENT, MAX_SHARDS);
  FACTS_OF(Policy, prefault, keepServing, killOnLost, recordWorkingSet, around, keepRegistered)
  FACTS_OF(Immutable, magic, version, layoutHash, segmentBytes, restoreId, pageCount, sourceBytes,
           uffdFeatures, regionCount, extentCount, workersPerShard, regionsCrc, targetPid, policy, name,
           sourceName)
  FACTS_OF(Header, immutable, immutableCrc, state, activeShards, activeShardsCheck, incarnation, prefaultAll,
           paused, watchSocket, attachedAt, rangesReleased)
  FACTS_OF(LockWords, gate, epoch)
  FACTS_OF(Slot, mutex, inflightPage, inflightCount)
  FACTS_OF(RegionEntry, base, size, offset, firstPage, firstExtent, pageShift, extentShift, reserved)
  FACTS_OF(PageWord, faulted, removed, released)
  FACTS_OF(ShardCounters, faultsTaken, copied, zeroed, zeroedRemoved, alreadyPresent, refused, requeued,
           poisoned, dropped, outOfMemory, prefaulted, around, coldReads, sourceBytes, sourceErrors,
           slotsRecovered, eventToDone, gateWait, source, copy, firstDoneAt)
  FACTS_OF(RestoreCounters, batches, faults, removes, removedPages, replayed, fences, slotsRecovered,
           adoptions, wakes, outsideFaults, drain, closed, readTimes)
  return facts;
}

std::uint32_t layoutHash() {
  static const std::uint32_t hash = [] {
    const std::string facts = layoutFacts();
    return crc32c(facts.data(), facts.size());
  }();
  return hash;
}

std::uint32_t crc32c(const void* data, std::size_t bytes) {
  boost::crc_optimal<32, 0x1EDC6F41, 0xFFFFFFFF, 0xFFFFFFFF, true, true> crc;
  crc.process_bytes(data, bytes);
  return crc.checksum();
}

}  // namespace faultline::shm
