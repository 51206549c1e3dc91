#include "shard/around.h"

#include <algorithm>

#include "process/clock.h"
#include "shard/source/content_run.h"

namespace faultline::shard {

using shm::count;
using shm::PageIndex;
using shm::PageRange;

namespace {

constexpr std::uint64_t SHORT = 4;  // pages in one section while removals come

// Populates what is missing of `run`, as far as it is let at once. `bytes`: of the run's first page; null: all of them
// are zero. The commit that ended it; done: nothing is missing any more.
Commit bring(const Committer& committer, const Fault& fault, unsigned worker, PageRange run,
             const char* bytes) {
  Attachment& restore = *fault.restore;
  const shm::PageTable& pages = restore.segment().pages();
  for (PageIndex page = run.first;;) {
    page = pages.find({page, run.end() - page}, shm::PageState::missing);
    if (page >= run.end()) return Commit::done;
    const std::uint64_t most = restore.removesLately(process::nowNs()) ? SHORT : run.count;
    ContentRun alike{ContentRun::Kind::zero, pages.runLength(page, std::min(most, run.end() - page))};
    Content content{Content::Kind::zero};
    if (bytes != nullptr) {
      content.data = bytes + (page - run.first) * shm::SMALL_PAGE;
      alike = contentRun(static_cast<const char*>(content.data), alike.pages);
    }
    if (alike.kind == ContentRun::Kind::lost) return Commit::lost;
    if (alike.kind == ContentRun::Kind::bytes) content.kind = Content::Kind::bytes;
    Progress progress;
    const Commit result = committer.commitRun(restore, worker, {page, alike.pages}, alike.pages, content,
                                              Origin::around, progress);
    if (result != Commit::done) return result;
    const std::uint64_t own = page == fault.page && progress.populated > 0 ? 1 : 0;
    count(restore.counters().around, progress.populated - own);
    page += progress.pages;
  }
}

}  // namespace

Around populateAround(const Committer& committer, const Fault& fault, unsigned worker, const Staged& staged) {
  Attachment& restore = *fault.restore;
  const auto bytesOf = [&](PageIndex page) {
    return staged.kind == Staged::Kind::zero
               ? nullptr
               : static_cast<const char*>(staged.data) + (page - fault.around.first) * shm::SMALL_PAGE;
  };
  const PageRange front{fault.page, fault.around.end() - fault.page};
  const Commit result = bring(committer, fault, worker, front, bytesOf(front.first));
  if (restore.segment().pages().state(fault.page) != shm::PageState::faulted)
    return result == Commit::retry ? Around::refused : Around::alone;
  shm::countDone(restore.counters(), fault.readAt, process::nowNs());
  const PageRange behind{fault.around.first, fault.page - fault.around.first};
  bring(committer, fault, worker, behind, bytesOf(behind.first));
  return Around::inPlace;
}

}  // namespace faultline::shard
