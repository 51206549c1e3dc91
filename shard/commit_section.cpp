#include "shard/commit_section.h"

#include <sched.h>
#include <sys/mman.h>

#include <utility>

#include "failpoints/mistakes.h"
#include "process/clock.h"

namespace faultline::shard {

using failpoints::made;
using failpoints::Mistake;
using failpoints::Point;
using process::nowNs;
using shm::count;
using uffd::Outcome;

namespace {

// A batch is read and published in less. A gate that stays closed has its pages come back later: the thread that would
// wait for it has pages of other restores as well.
constexpr std::uint64_t GATE_PATIENCE = 50'000;  // ns

// A huge page of zeros, for ranges that have no zero page (hugetlb) or must come write-protected. Backed by
// the kernel's own zero page, so resident and free.
const void* zeros() {
  static const void* page = [] {
    void* start =
        mmap(nullptr, shm::HUGE_PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    madvise(start, shm::HUGE_PAGE, MADV_NOHUGEPAGE);
    madvise(start, shm::HUGE_PAGE, MADV_POPULATE_READ);
    return start;
  }();
  return page;
}

uffd::Result populateOnce(const Attachment& restore, const shm::PageLocation& at, std::uint64_t bytes,
                          Content content, uffd::Waiters waiters) {
  const int fd = restore.uffd();
  switch (content.kind) {
    case Content::Kind::poison:
      return uffd::poison(fd, at.address, bytes);
    case Content::Kind::bytes:
      return uffd::copy(fd, at.address, content.data, bytes, restore.protect(), waiters);
    case Content::Kind::zero:
      // UFFDIO_ZEROPAGE knows neither hugetlb nor write protection; a copy of zeros does.
      if (at.pageSize == shm::SMALL_PAGE && restore.protect() == uffd::Protect::no)
        return uffd::zero(fd, at.address, bytes, waiters);
      return uffd::copy(fd, at.address, zeros(), bytes, restore.protect(), waiters);
  }
  return {Outcome::unsupported};
}

uffd::Result populate(Attachment& restore, const shm::PageLocation& at, std::uint64_t bytes, Content content,
                      uffd::Waiters waiters) {
  const std::uint64_t before = nowNs();
  uffd::Result result = populateOnce(restore, at, bytes, content, waiters);
  if (result.outcome == Outcome::unsupported && restore.protect() == uffd::Protect::yes) {
    // Registered MISSING only: nothing to protect there.
    restore.stopProtecting();
    result = populateOnce(restore, at, bytes, content, waiters);
  }
  restore.counters().copy.record(nowNs() - before);
  return result;
}

}  // namespace

Section::Section(Attachment& restore, unsigned worker, shm::PageIndex first, const shm::PageLocation& at,
                 failpoints::Failpoints& failpoints)
    : restore_(restore), worker_(worker), first_(first), at_(at), failpoints_(failpoints) {
  if (made(Mistake::stateBeforeLock)) stale_ = pages().state(first);
  enter();
}

void Section::enter() {
  failpoints_.hit(Point::beforeReadLock, first_);
  const std::uint64_t before = nowNs();
  for (;;) {
    auto guard = restore_.segment().lock().tryLockShared(restore_.slot(worker_));
    const std::uint64_t waited = nowNs() - before;
    if (!guard.has_value() && waited < GATE_PATIENCE) {
      sched_yield();
      continue;
    }
    restore_.counters().gateWait.record(waited);
    if (!guard.has_value()) return;
    if (guard->ownerDied) count(restore_.counters().slotsRecovered);
    guard_.emplace(std::move(*guard));
    return;
  }
}

shm::PageState Section::state() const {
  return made(Mistake::stateBeforeLock) ? *stale_ : pages().state(first_);
}

uffd::Result Section::copy(std::uint64_t bytes, Content content, uffd::Waiters waiters) {
  failpoints_.hit(Point::beforeCopy, first_);
  uffd::Result result = populate(restore_, at_, bytes, content, waiters);
  while (made(Mistake::retryInsideLock) && result.outcome == Outcome::refused)
    result = populate(restore_, at_, bytes, content, waiters);
  failpoints_.hit(Point::afterCopy, first_);
  if (made(Mistake::keepDecision) && result.outcome == Outcome::refused) {
    guard_.reset();
    while (!entered()) enter();
    return copy(bytes, content, waiters);
  }
  return result;
}

void Section::store(std::uint64_t populated, bool gone) {
  if (populated > 0) pages().markFaulted(*guard_, {first_, populated});
  if (gone) pages().markGone(*guard_, first_);
  failpoints_.hit(Point::afterStore, first_);
}

}  // namespace faultline::shard
