#include "shard/committer.h"

#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>

#include "failpoints/mistakes.h"
#include "process/clock.h"
#include "shmtracker/error.h"

namespace faultline::shard {

using failpoints::made;
using failpoints::Mistake;
using failpoints::Point;
using process::nowNs;
using shm::count;
using shm::PageIndex;
using shm::PageRange;
using shm::PageState;
using uffd::Outcome;

namespace {

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

constexpr Content ZEROS{Content::Kind::zero, nullptr};

// A batch is read and published in less. A gate that stays closed has its pages come back later: the thread that would
// wait for it has pages of other restores as well.
constexpr std::uint64_t GATE_PATIENCE = 50'000;  // ns

std::optional<shm::SharedGuard> enter(Attachment& restore, unsigned worker) {
  const std::uint64_t before = nowNs();
  for (;;) {
    auto guard = restore.segment().lock().tryLockShared(restore.slot(worker));
    const std::uint64_t waited = nowNs() - before;
    if (!guard.has_value() && waited < GATE_PATIENCE) {
      sched_yield();
      continue;
    }
    restore.counters().gateWait.record(waited);
    if (guard.has_value() && guard->ownerDied) count(restore.counters().slotsRecovered);
    return guard;
  }
}

void countPopulated(Attachment& restore, Content content, PageState state, std::uint64_t pages,
                    Origin origin) {
  auto& counters = restore.counters();
  if (content.kind == Content::Kind::poison) return count(counters.poisoned, pages);
  if (state != PageState::missing) return count(counters.zeroedRemoved, pages);
  count(content.kind == Content::Kind::bytes ? counters.copied : counters.zeroed, pages);
  if (origin == Origin::prefault) count(counters.prefaulted, pages);
}

// True where EEXIST is ambiguous: on hugetlb, unless the tracker says faulted, it may mean a lack of huge
// pages, and the page would be lost.
bool isUnclear(const uffd::Result& result, const shm::PageLocation& at, PageState state, Content content) {
  return result.outcome == Outcome::present && at.pageSize != shm::SMALL_PAGE &&
         state != PageState::faulted && content.kind != Content::Kind::poison;
}

// The outcome after an answer that put nothing in place.
Commit judge(Attachment& restore, Outcome outcome, int error, Content content) {
  auto& counters = restore.counters();
  switch (outcome) {
    case Outcome::refused:
      count(counters.refused);
      return Commit::retry;
    case Outcome::noMemory:
      count(counters.outOfMemory);
      return Commit::retry;
    case Outcome::sourceLost:
      return Commit::lost;
    case Outcome::rangeGone:
      count(counters.dropped);
      return Commit::unregistered;
    case Outcome::targetGone:
      restore.targetGone();
      return Commit::dropped;
    default:
      if (content.kind == Content::Kind::poison) return Commit::unpoisonable;
      restore.fail(rpc::EndReason::KERNEL_REFUSED,
                   std::string("the kernel does not populate its pages: ") + std::strerror(error) +
                       "; are the page sizes that the target named those of its memory?");
      return Commit::dropped;
  }
}

}  // namespace

uffd::Result Committer::populate(Attachment& restore, const shm::PageLocation& at, std::uint64_t bytes,
                                 Content content, uffd::Waiters waiters) const {
  const int fd = restore.uffd();
  const std::uint64_t before = process::nowNs();
  uffd::Result result{Outcome::unsupported};
  switch (content.kind) {
    case Content::Kind::poison:
      result = uffd::poison(fd, at.address, bytes);
      break;
    case Content::Kind::bytes:
      result = uffd::copy(fd, at.address, content.data, bytes, restore.protect(), waiters);
      break;
    case Content::Kind::zero:
      // UFFDIO_ZEROPAGE knows neither hugetlb nor write protection; a copy of zeros does.
      if (at.pageSize == shm::SMALL_PAGE && restore.protect() == uffd::Protect::no)
        result = uffd::zero(fd, at.address, bytes, waiters);
      else
        result = uffd::copy(fd, at.address, zeros(), bytes, restore.protect(), waiters);
      break;
  }
  restore.counters().copy.record(process::nowNs() - before);
  if (result.outcome == Outcome::unsupported && restore.protect() == uffd::Protect::yes) {
    // Registered MISSING only: nothing to protect there.
    restore.stopProtecting();
    return populate(restore, at, bytes, content, waiters);
  }
  return result;
}

// A lock word that makes no sense costs its restore, not the shard.
Commit Committer::commitFault(Attachment& restore, unsigned worker, PageIndex page, Content content) const {
  try {
    return answer(restore, worker, page, content);
  } catch (const shm::SegmentError& error) {
    restore.fail(rpc::EndReason::SEGMENT_DAMAGED, error.what());
    return Commit::dropped;
  }
}

Commit Committer::commitRun(Attachment& restore, unsigned worker, PageRange run, std::uint64_t limit,
                            Content content, Origin origin, std::uint64_t& advanced) const {
  try {
    return advance(restore, worker, run, limit, content, origin, advanced);
  } catch (const shm::SegmentError& error) {
    restore.fail(rpc::EndReason::SEGMENT_DAMAGED, error.what());
    return Commit::dropped;
  }
}

Commit Committer::answer(Attachment& restore, unsigned worker, PageIndex page, Content content) const {
  const shm::PageLocation at = restore.segment().regions().locate(page);
  shm::PageTable& pages = restore.segment().pages();
  uffd::Result result{Outcome::unsupported};
  PageState state =
      pages.state(page);  // NOLINT(clang-analyzer-deadcode.DeadStores): for Mistake::stateBeforeLock
  do {
    failpoints_.hit(Point::beforeReadLock, page);
    const auto entered = enter(restore, worker);
    if (!restore.segment().servable()) return Commit::dropped;
    if (!entered.has_value()) return Commit::retry;
    const shm::SharedGuard& guard = *entered;
    if (!made(Mistake::stateBeforeLock) &&
        (!made(Mistake::keepDecision) || result.outcome != Outcome::refused))
      state = pages.state(page);
    if (made(Mistake::faultedIsDone) && state == PageState::faulted) return Commit::done;
    const bool gone = state == PageState::released && !pages.zeroForGood(page);
    if (gone && content.kind != Content::Kind::poison) return Commit::gone;
    if (state != PageState::missing && !gone) content = ZEROS;
    failpoints_.hit(Point::beforeCopy, page);
    do {
      result = populate(restore, at, at.pageSize, content, uffd::Waiters::leave);
    } while (made(Mistake::retryInsideLock) && result.outcome == Outcome::refused);
    failpoints_.hit(Point::afterCopy, page);
    if (result.outcome == Outcome::done ||
        (result.outcome == Outcome::present && !isUnclear(result, at, state, content)))
      pages.markFaulted(guard, {page, 1});
    if (result.outcome == Outcome::rangeGone) pages.markGone(guard, page);
    failpoints_.hit(Point::afterStore, page);
  } while (made(Mistake::keepDecision) && result.outcome == Outcome::refused);
  switch (result.outcome) {
    case Outcome::done:
      countPopulated(restore, content, state, 1, Origin::fault);
      return content.kind == Content::Kind::poison ? Commit::poisoned : Commit::done;
    case Outcome::present:
      if (isUnclear(result, at, state, content)) {
        count(restore.counters().outOfMemory);
        return Commit::unclear;
      }
      count(restore.counters().alreadyPresent);
      return made(Mistake::noWakeAfterPresent) ? Commit::dropped : Commit::done;
    default:
      return judge(restore, result.outcome, result.error, content);
  }
}

Commit Committer::advance(Attachment& restore, unsigned worker, PageRange run, std::uint64_t limit,
                          Content content, Origin origin, std::uint64_t& advanced) const {
  const shm::PageLocation at = restore.segment().regions().locate(run.first);
  shm::PageTable& pages = restore.segment().pages();
  uffd::Result result{Outcome::unsupported};
  advanced = 0;
  std::uint64_t populated = 0;
  bool unclear = false, gone = false;
  {
    failpoints_.hit(Point::beforeReadLock, run.first);
    const auto entered = enter(restore, worker);
    if (!restore.segment().servable()) return Commit::dropped;
    if (!entered.has_value()) return Commit::retry;
    const shm::SharedGuard& guard = *entered;
    const std::uint64_t same = pages.runLength(run.first, std::min(run.count, limit));
    if (pages.state(run.first) != PageState::missing) {
      advanced = same;
      return Commit::done;
    }
    failpoints_.hit(Point::beforeCopy, run.first);
    result = populate(restore, at, same * at.pageSize, content,
                      origin == Origin::around ? uffd::Waiters::leave : uffd::Waiters::wake);
    failpoints_.hit(Point::afterCopy, run.first);
    if (result.outcome == Outcome::done || result.outcome == Outcome::partial)
      populated = result.bytes / at.pageSize;
    // The first page was there already: a thread populated it and did not live to say so.
    unclear = isUnclear(result, at, PageState::missing, content);
    advanced = result.outcome == Outcome::present && !unclear ? 1 : populated;
    if (advanced > 0) pages.markFaulted(guard, {run.first, advanced});
    // The kernel refuses a run as a whole where it crosses the border of a mapping.
    if (result.outcome == Outcome::rangeGone && same > 1) return Commit::parted;
    gone = result.outcome == Outcome::rangeGone;
    if (gone) pages.markGone(guard, run.first);
    failpoints_.hit(Point::afterStore, run.first);
  }
  countPopulated(restore, content, PageState::missing, populated, origin);
  if (unclear) {
    count(restore.counters().outOfMemory);
    return Commit::unclear;
  }
  if (result.outcome == Outcome::present || gone) uffd::wake(restore.uffd(), at.address, at.pageSize);
  if (gone) advanced = 1;
  if (advanced > 0 && !gone) return Commit::done;
  return judge(restore, result.outcome, result.error, content);
}

void Committer::wake(Attachment& restore, PageRange pages) {
  const shm::PageLocation at = restore.segment().regions().locate(pages.first);
  uffd::wake(restore.uffd(), at.address, pages.count * at.pageSize);
}

}  // namespace faultline::shard
