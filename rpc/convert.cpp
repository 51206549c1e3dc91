#include "rpc/convert.h"

#include <capnp/schema.h>
#include <kj/debug.h>

#include <string>

#include "rpc/refusal.h"

namespace faultline::rpc {

namespace {
std::uint64_t get(const shm::Counter& counter) {
  return counter.load(std::memory_order_relaxed);
}
}  // namespace

std::vector<shm::Region> regionsFrom(capnp::List<Region>::Reader list) {
  std::vector<shm::Region> regions;
  for (auto r : list)
    regions.push_back(
        {r.getBase(), r.getSize(), r.getOffset(), r.getPageSize() == 0 ? shm::SMALL_PAGE : r.getPageSize()});
  return regions;
}

void fill(capnp::List<Region>::Builder list, const std::vector<shm::Region>& regions) {
  for (unsigned i = 0; i < regions.size(); i++) {
    list[i].setBase(regions[i].base);
    list[i].setSize(regions[i].size);
    list[i].setOffset(regions[i].offset);
    list[i].setPageSize(regions[i].pageSize);
  }
}

shm::PageRange rangeFrom(PageRange::Reader range, std::uint64_t pages) {
  const std::uint64_t first = range.getFirst();
  if (first > pages)
    refuse(Reason::BAD_INPUT, "the page range begins past the last page: at " + std::to_string(first) +
                                  ", and there are " + std::to_string(pages));
  const std::uint64_t count = range.getCount() == 0 ? pages - first : range.getCount();
  if (count > pages - first)
    refuse(Reason::BAD_INPUT, "the page range reaches past the last page: " + std::to_string(count) +
                                  " from " + std::to_string(first) + " on, and there are " +
                                  std::to_string(pages));
  return {first, count};
}

std::vector<shm::PageRange> rangesFrom(capnp::List<PageRange>::Reader list, std::uint64_t pages) {
  std::vector<shm::PageRange> ranges;
  for (auto range : list) ranges.push_back(rangeFrom(range, pages));
  return ranges;
}

void fill(PageRange::Builder to, shm::PageRange range) {
  to.setFirst(range.first);
  to.setCount(range.count);
}

bool isFailure(EndReason reason) {
  return reason >= EndReason::PAGE_LOST &&
         static_cast<std::size_t>(reason) < capnp::Schema::from<EndReason>().getEnumerants().size();
}

PageState stateFrom(shm::PageState state) {
  switch (state) {
    case shm::PageState::missing:
      return PageState::MISSING;
    case shm::PageState::faulted:
      return PageState::FAULTED;
    case shm::PageState::removed:
      return PageState::REMOVED;
    case shm::PageState::released:
      return PageState::RELEASED;
  }
  KJ_UNREACHABLE;
}

void fill(Latency::Builder to, const shm::Histogram& histogram) {
  shm::Histogram::Snapshot snapshot;
  snapshot.add(histogram);
  to.setSamples(snapshot.samples());
  to.setP50(snapshot.quantile(0.5));
  to.setP99(snapshot.quantile(0.99));
  to.setP999(snapshot.quantile(0.999));
  to.setSum(snapshot.sum);
  unsigned used = shm::Histogram::BUCKETS;
  while (used > 0 && snapshot.buckets[used - 1] == 0) used--;
  auto buckets = to.initBuckets(used);
  for (unsigned i = 0; i < used; i++) buckets.set(i, snapshot.buckets[i]);
}

void fill(ShardStats::Builder to, const shm::ShardCounters& c) {
  to.setFaultsTaken(get(c.faultsTaken));
  to.setCopied(get(c.copied));
  to.setZeroed(get(c.zeroed));
  to.setZeroedRemoved(get(c.zeroedRemoved));
  to.setAlreadyPresent(get(c.alreadyPresent));
  to.setRefused(get(c.refused));
  to.setRequeued(get(c.requeued));
  to.setPoisoned(get(c.poisoned));
  to.setDropped(get(c.dropped));
  to.setOutOfMemory(get(c.outOfMemory));
  to.setPrefaulted(get(c.prefaulted));
  to.setAround(get(c.around));
  to.setColdReads(get(c.coldReads));
  to.setSourceBytes(get(c.sourceBytes));
  to.setSourceErrors(get(c.sourceErrors));
  to.setSlotsRecovered(get(c.slotsRecovered));
  fill(to.initEventToDone(), c.eventToDone);
  fill(to.initGateWait(), c.gateWait);
  fill(to.initStaging(), c.source);
  fill(to.initCopying(), c.copy);
}

void fill(RestoreStats::Builder to, const shm::RestoreCounters& c) {
  to.setBatches(get(c.batches));
  to.setFaults(get(c.faults));
  to.setRemoves(get(c.removes));
  to.setRemovedPages(get(c.removedPages));
  to.setReplayed(get(c.replayed));
  to.setFences(get(c.fences));
  to.setSlotsRecovered(get(c.slotsRecovered));
  to.setAdoptions(get(c.adoptions));
  to.setWakes(get(c.wakes));
  to.setOutsideFaults(get(c.outsideFaults));
  to.setReadTimes(get(c.readTimes));
  fill(to.initDrain(), c.drain);
  fill(to.initClosed(), c.closed);
}

}  // namespace faultline::rpc
