#include "shard/committer.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "failpoints/mistakes.h"
#include "shmtracker/error.h"

namespace faultline::shard {

using failpoints::made;
using failpoints::Mistake;
using shm::count;
using shm::PageIndex;
using shm::PageRange;
using shm::PageState;
using uffd::Outcome;

namespace {

constexpr Content ZEROS{Content::Kind::zero, nullptr};

void countPopulated(Attachment& restore, Content content, PageState state, std::uint64_t pages,
                    std::uint64_t pageSize, Origin origin) {
  auto& counters = restore.counters();
  if (content.kind == Content::Kind::poison) return count(counters.poisoned, pages);
  if (state != PageState::missing) return count(counters.zeroedRemoved, pages);
  count(content.kind == Content::Kind::bytes ? counters.copied : counters.zeroed, pages);
  if (content.kind == Content::Kind::bytes) count(counters.sourceBytes, pages * pageSize);
  if (origin == Origin::prefault) count(counters.prefaulted, pages);
}

// True where EEXIST is ambiguous: on hugetlb, unless the tracker says faulted, it may mean a lack of huge
// pages, and the page would be lost.
bool isUnclear(const uffd::Result& result, const shm::PageLocation& at, PageState state, Content content) {
  return result.outcome == Outcome::present && at.pageSize != shm::SMALL_PAGE &&
         state != PageState::faulted && content.kind != Content::Kind::poison;
}

// A thread that faults on a faulted page waits like any other, until it is woken. To take its fault for answered
// is a known mistake.
bool needsNoAnswer(PageState state) {
  return made(Mistake::faultedIsDone) && state == PageState::faulted;
}

// The page was there already. Its threads may have begun to wait after it was put in place, so they are woken;
// not to is a known mistake.
Commit answeredByAnother() {
  return made(Mistake::noWakeAfterPresent) ? Commit::dropped : Commit::done;
}

// Pages at the front of `most` that are in the first one's state. Around a fault all of them were, before the lock; to
// go by that is a known mistake.
std::uint64_t alike(const Section& section, std::uint64_t most, Origin origin) {
  return made(Mistake::aroundDecidesBefore) && origin == Origin::around ? most : section.alike(most);
}

Commit noHugePage(Attachment& restore) {
  count(restore.counters().outOfMemory);
  return Commit::unclear;
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
                            Content content, Origin origin, Progress& progress) const {
  try {
    return advance(restore, worker, run, limit, content, origin, progress);
  } catch (const shm::SegmentError& error) {
    restore.fail(rpc::EndReason::SEGMENT_DAMAGED, error.what());
    return Commit::dropped;
  }
}

Commit Committer::answer(Attachment& restore, unsigned worker, PageIndex page, Content content) const {
  const shm::PageLocation at = restore.segment().regions().locate(page);
  PageState state = PageState::missing;
  uffd::Result result{Outcome::unsupported};
  bool unclear = false;
  {
    Section section(restore, worker, page, at, failpoints_);
    if (!section.servable()) return Commit::dropped;
    if (!section.entered()) return Commit::retry;
    state = section.state();
    if (needsNoAnswer(state)) return Commit::done;
    const bool gone = state == PageState::released && !restore.segment().pages().zeroForGood(page);
    if (gone && content.kind != Content::Kind::poison) return Commit::gone;
    if (state != PageState::missing && !gone) content = ZEROS;
    result = section.copy(at.pageSize, content, uffd::Waiters::leave);
    unclear = isUnclear(result, at, state, content);
    const bool there = result.outcome == Outcome::done || (result.outcome == Outcome::present && !unclear);
    section.store(there ? 1 : 0, result.outcome == Outcome::rangeGone);
  }
  if (unclear) return noHugePage(restore);
  switch (result.outcome) {
    case Outcome::done:
      countPopulated(restore, content, state, 1, at.pageSize, Origin::fault);
      return content.kind == Content::Kind::poison ? Commit::poisoned : Commit::done;
    case Outcome::present:
      count(restore.counters().alreadyPresent);
      return answeredByAnother();
    default:
      return judge(restore, result.outcome, result.error, content);
  }
}

Commit Committer::advance(Attachment& restore, unsigned worker, PageRange run, std::uint64_t limit,
                          Content content, Origin origin, Progress& progress) const {
  const shm::PageLocation at = restore.segment().regions().locate(run.first);
  uffd::Result result{Outcome::unsupported};
  bool unclear = false, gone = false;
  progress = {};
  {
    Section section(restore, worker, run.first, at, failpoints_);
    if (!section.servable()) return Commit::dropped;
    if (!section.entered()) return Commit::retry;
    const std::uint64_t same = alike(section, std::min(run.count, limit), origin);
    if (section.state() != PageState::missing) {
      progress.pages = same;
      return Commit::done;
    }
    result = section.copy(same * at.pageSize, content,
                          origin == Origin::around ? uffd::Waiters::leave : uffd::Waiters::wake);
    gone = result.outcome == Outcome::rangeGone;
    // The kernel refuses a run as a whole where it crosses the border of a mapping.
    if (gone && same > 1) return Commit::parted;
    if (result.outcome == Outcome::done || result.outcome == Outcome::partial)
      progress.populated = result.bytes / at.pageSize;
    // The first page was there already: a thread populated it and did not live to say so.
    unclear = isUnclear(result, at, PageState::missing, content);
    progress.pages = result.outcome == Outcome::present && !unclear ? 1 : progress.populated;
    section.store(progress.pages, gone);
  }
  countPopulated(restore, content, PageState::missing, progress.populated, at.pageSize, origin);
  if (unclear) return noHugePage(restore);
  if (result.outcome == Outcome::present || gone) uffd::wake(restore.uffd(), at.address, at.pageSize);
  if (progress.pages > 0) return Commit::done;
  if (gone) progress.pages = 1;
  return judge(restore, result.outcome, result.error, content);
}

void Committer::wake(Attachment& restore, PageRange pages) {
  const shm::PageLocation at = restore.segment().regions().locate(pages.first);
  uffd::wake(restore.uffd(), at.address, pages.count * at.pageSize);
}

}  // namespace faultline::shard
