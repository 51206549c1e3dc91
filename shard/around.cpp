#include "shard/around.h"

#include "process/clock.h"
#include "shard/source/content_run.h"

namespace faultline::shard {

using shm::count;
using shm::PageIndex;
using shm::PageRange;

namespace {

// `bytes`: of the first page; null: all of them are zero. Returns pages.
std::uint64_t bring(const Committer& committer, Attachment& restore, unsigned worker, PageRange run,
                    const char* bytes) {
  const shm::PageTable& pages = restore.segment().pages();
  std::uint64_t brought = 0;
  for (PageIndex page = run.first;;) {
    page = pages.find({page, run.end() - page}, shm::PageState::missing);
    if (page >= run.end()) return brought;
    ContentRun alike{ContentRun::Kind::zero, pages.runLength(page, run.end() - page)};
    Content content{Content::Kind::zero};
    if (bytes != nullptr) {
      content.data = bytes + (page - run.first) * shm::SMALL_PAGE;
      alike = contentRun(static_cast<const char*>(content.data), alike.pages);
    }
    if (alike.kind == ContentRun::Kind::lost) return brought;
    if (alike.kind == ContentRun::Kind::bytes) content.kind = Content::Kind::bytes;
    std::uint64_t advanced = 0;
    const Commit result = committer.commitRun(restore, worker, {page, alike.pages}, alike.pages, content,
                                              Origin::around, advanced);
    if (result != Commit::done) return brought;
    if (content.kind == Content::Kind::bytes)
      count(restore.counters().sourceBytes, advanced * shm::SMALL_PAGE);
    brought += advanced;
    page += advanced;
  }
}

}  // namespace

bool populateAround(const Committer& committer, const Fault& fault, unsigned worker, const Staged& staged) {
  Attachment& restore = *fault.restore;
  const auto bytesOf = [&](PageIndex page) {
    return staged.kind == Staged::Kind::zero
               ? nullptr
               : static_cast<const char*>(staged.data) + (page - fault.around.first) * shm::SMALL_PAGE;
  };
  std::uint64_t brought =
      bring(committer, restore, worker, {fault.page, fault.around.end() - fault.page}, bytesOf(fault.page));
  if (restore.segment().pages().state(fault.page) != shm::PageState::faulted) return false;
  shm::countDone(restore.counters(), fault.readAt, process::nowNs());
  const PageRange behind{fault.around.first, fault.page - fault.around.first};
  brought += bring(committer, restore, worker, behind, bytesOf(behind.first));
  if (brought > 1) count(restore.counters().around, brought - 1);
  return true;
}

}  // namespace faultline::shard
