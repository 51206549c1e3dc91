#include "shard/prefaulter.h"

#include <kj/debug.h>
#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <optional>

#include "process/clock.h"
#include "shard/pace.h"
#include "shard/source/content_run.h"
#include "shard/source/readers.h"

namespace faultline::shard {

using process::nowNs;
using shm::PageIndex;
using shm::PageRange;
using shm::PageState;

namespace {

constexpr std::uint64_t FREE_SECTION = 512;  // pages in one section where no removal can come
constexpr std::uint64_t WINDOW = 2u << 20;   // bytes of the source that are staged at once
constexpr long PAUSE_NS = 1'000'000;
constexpr std::uint64_t LONGEST_WAIT = 100'000'000;  // ns; then it is asked whether the limit has changed
constexpr std::uint64_t LAST_BACK_OFF = 1'000'000;   // ns; a run that has waited so long makes way for others
constexpr std::uint64_t MOST_EXPECTED = 1ull << 22;  // pages of a job that are marked so, which takes some ms
// Tries for one page, some 1 s; then the page is left to the thread that touches it.
constexpr unsigned UNCLEAR_TRIES = 1000;

void nap(long ns) {
  const timespec time{0, ns};
  nanosleep(&time, nullptr);
}

}  // namespace

struct Prefaulter::Job {
  Job(AttachmentRef r, std::uint64_t id, std::vector<PageRange> list, unsigned atOnce,
      std::function<void()> end)
      : restore(std::move(r)), number(id), ranges(std::move(list)), done(std::move(end)), tasks(atOnce) {}

  const AttachmentRef restore;
  const std::uint64_t number;
  const std::vector<PageRange> ranges;  // none: all pages, those around the latest fault first
  const std::function<void()> done;
  std::atomic<bool> cancelled{false};

  std::atomic<unsigned> unclear{0};  // tries in a row that were
  Pace pace;

  threads::Mutex mutex;
  std::size_t range GUARDED_BY(mutex) = 0;  // position
  PageIndex next GUARDED_BY(mutex) = 0;
  PageIndex followed GUARDED_BY(mutex) =
      shm::NO_PAGE;  // the first page of the last window that a fault has called for
  std::vector<PageRange> again GUARDED_BY(mutex);   // taken, and given back
  std::uint64_t window GUARDED_BY(mutex) = WINDOW;  // bytes of the source that a task takes at once
  unsigned tasks GUARDED_BY(mutex);                 // under way
  unsigned waiting GUARDED_BY(mutex) = 0;  // those of them that wait for the source or for their time
  bool ended GUARDED_BY(mutex) = false;    // `done` has been called

  bool over() const { return cancelled.load(std::memory_order_relaxed) || restore->ended(); }

  void giveBack(PageRange pages) {
    const threads::Lock lock(mutex);
    again.push_back(pages);
  }

  // The next pages to look at: of one extent that this shard owns and one window of the source, which has at most
  // `portion` bytes where a page has not more.
  std::optional<PageRange> take(std::uint64_t portion) {
    const threads::Lock lock(mutex);
    if (over()) return std::nullopt;
    window = std::min(WINDOW, portion);
    if (!again.empty()) {
      const PageRange first = again.back();
      again.pop_back();
      return first;
    }
    if (const auto latest = windowOfLatestFault()) return latest;
    const PageRange all{0, restore->segment().pages().pageCount()};
    while (range < std::max<std::size_t>(1, ranges.size())) {
      const PageRange whole = ranges.empty() ? all : ranges[range];
      const PageIndex first = std::max(next, whole.first);
      if (first >= whole.end()) {
        range++;
        next = 0;
        continue;
      }
      const PageRange extent = extentOf(first);
      const PageIndex end = std::min({whole.end(), extent.end(), first + windowAt(first)});
      next = restore->owns(first) ? end : std::min(whole.end(), extent.end());
      if (restore->owns(first)) return PageRange{first, end - first};
    }
    return std::nullopt;
  }

 private:
  PageRange extentOf(PageIndex page) const {
    const shm::RegionTable& regions = restore->segment().regions();
    return regions.pagesOfExtent(regions.extentOf(page));
  }
  // Pages of a window of the source.
  std::uint64_t windowAt(PageIndex page) const REQUIRES(mutex) {
    return std::max<std::uint64_t>(1, window / restore->segment().regions().locate(page).pageSize);
  }
  // What is missing there is likely to be touched next. Given once, until a fault comes from another window. The slot of
  // the fault thread names the pages that it was busy with last.
  std::optional<PageRange> windowOfLatestFault() REQUIRES(mutex) {
    const shm::Slot& slot = restore->segment().slot(restore->slot(WorkerPool::FAULT_THREAD));
    const PageIndex page = slot.inflightPage.load(std::memory_order_relaxed);
    if (!ranges.empty() || page >= restore->segment().pages().pageCount() || !restore->owns(page))
      return std::nullopt;
    const PageRange extent = extentOf(page);
    const std::uint64_t pages = windowAt(page);
    const PageIndex first = page - (page - extent.first) % pages;
    if (first == followed) return std::nullopt;
    followed = first;
    const PageRange around{first, std::min(extent.end(), first + pages) - first};
    const PageIndex missing = restore->segment().pages().find(around, PageState::missing);
    if (missing == around.end()) return std::nullopt;
    return PageRange{missing, around.end() - missing};
  }
};

// By which reader threads come back: they may outlive the Prefaulter, where a source hangs.
struct Prefaulter::Door {
  explicit Door(Prefaulter& p) : prefaulter(&p) {}
  threads::Mutex mutex;
  Prefaulter* prefaulter GUARDED_BY(mutex);  // null: gone
};

Prefaulter::Prefaulter(const Committer& committer, WorkerPool& workers, unsigned parallel)
    : committer_(committer), workers_(workers), parallel_(parallel), door_(std::make_shared<Door>(*this)) {}

Prefaulter::~Prefaulter() {
  {
    const threads::Lock lock(door_->mutex);
    door_->prefaulter = nullptr;
  }
  std::vector<JobRef> jobs;
  {
    const threads::Lock lock(mutex_);
    for (auto& [key, job] : jobs_) jobs.push_back(job);
  }
  for (auto& job : jobs) job->cancelled.store(true);
  later_.stop();
  for (auto& job : jobs) {
    for (;;) {
      {
        const threads::Lock lock(job->mutex);
        if (job->tasks == job->waiting) break;
      }
      nap(PAUSE_NS);
    }
  }
}

void Prefaulter::start(AttachmentRef restore, std::uint64_t number, std::vector<PageRange> ranges,
                       std::function<void()> done) {
  std::uint64_t expected = 0;
  for (const PageRange& range : ranges)
    if ((expected += range.count) <= MOST_EXPECTED) restore->expect(range);
  const unsigned tasks = std::max(parallel_, restore->source().populatedAtOnce());
  const auto job =
      std::make_shared<Job>(std::move(restore), number, std::move(ranges), tasks, std::move(done));
  {
    const threads::Lock lock(mutex_);
    jobs_[{job->restore->id(), number}] = job;
  }
  for (unsigned i = 0; i < tasks; i++) workers_.enqueue([this, job](unsigned worker) { work(job, worker); });
}

void Prefaulter::cancel(std::uint64_t restore, std::uint64_t number) {
  std::vector<JobRef> jobs;
  {
    const threads::Lock lock(mutex_);
    const auto found = jobs_.find({restore, number});
    if (found != jobs_.end()) jobs.push_back(found->second);
  }
  stop(jobs);
}

void Prefaulter::cancelAll(std::uint64_t restore) {
  std::vector<JobRef> jobs;
  {
    const threads::Lock lock(mutex_);
    for (auto& [key, job] : jobs_)
      if (key.first == restore) jobs.push_back(job);
  }
  stop(jobs);
}

// A job all of whose tasks wait ends at once: what they bring is dropped.
void Prefaulter::stop(const std::vector<JobRef>& jobs) {
  for (const JobRef& job : jobs) {
    job->cancelled.store(true);
    {
      const threads::Lock lock(job->mutex);
      if (job->ended || job->tasks != job->waiting) continue;
      job->ended = true;
    }
    end(job);
  }
}

// A task does one window, so that workers come by the arena's other work in between.
void Prefaulter::work(const JobRef& job, unsigned worker) {
  if (const std::uint64_t ns = job->over() ? 0 : rate_.wait(nowNs()); ns > 0) {
    if (goOnAfter(job, std::min(ns, LONGEST_WAIT))) return;
    nap(PAUSE_NS);
  } else if (const auto range = job->take(rate_.portion())) {
    if (!populate(job, worker, *range)) return;  // continued in brought()
  } else {
    return finish(job);
  }
  workers_.enqueue([this, job](unsigned next) { work(job, next); });
}

// False where there is no thread that could call it.
bool Prefaulter::goOnAfter(const JobRef& job, std::uint64_t ns) {
  {
    const threads::Lock lock(job->mutex);
    job->waiting++;
  }
  if (later_.after(ns, [this, weak = std::weak_ptr<Job>(job)] {
        if (const JobRef waited = comesBack(weak))
          workers_.enqueue([this, waited](unsigned worker) { work(waited, worker); });
      }))
    return true;
  const threads::Lock lock(job->mutex);
  job->waiting--;
  return false;
}

// A task has waited. Null where its job has ended meanwhile, and so has the task.
Prefaulter::JobRef Prefaulter::comesBack(const std::weak_ptr<Job>& waiting) {
  JobRef job = waiting.lock();
  if (job == nullptr) return job;
  const threads::Lock lock(job->mutex);
  job->waiting--;
  return job->ended ? nullptr : job;
}

void Prefaulter::finish(const JobRef& job) {
  {
    const threads::Lock lock(job->mutex);
    const bool last = job->tasks == 1 || (job->over() && job->tasks - 1 == job->waiting);
    if (!last || job->ended) {
      job->tasks--;
      return;
    }
    job->ended = true;
  }
  end(job);
  // Last of all: from then on ~Prefaulter() waits for this task no more.
  const threads::Lock lock(job->mutex);
  job->tasks--;
}

// Forgotten once `done` has been called, since ~Prefaulter() waits for the jobs that it knows.
void Prefaulter::end(const JobRef& job) {
  job->done();
  const threads::Lock lock(mutex_);
  jobs_.erase({job->restore->id(), job->number});
}

// False where the source has to be waited for first.
bool Prefaulter::populate(const JobRef& job, unsigned worker, PageRange range) {
  Attachment& restore = *job->restore;
  const auto& pages = restore.segment().pages();
  const PageIndex first = pages.find(range, PageState::missing);
  if (first == range.end()) return true;
  const PageRange rest{first, range.end() - first};
  const Inflight inflight(restore, worker, rest);
  const auto at = restore.segment().regions().locate(first);
  committer_.failpoints().hit(failpoints::Point::beforeStage, first);
  const std::uint64_t before = nowNs();
  const Staged staged = restore.source().tryView(at.offset, rest.count * at.pageSize);
  if (staged.kind == Staged::Kind::cold) return !handOver(job, rest);
  restore.counters().source.record(nowNs() - before);
  place(*job, worker, rest, staged);
  return true;
}

// False where no reader thread could be started: the run is tried again later.
bool Prefaulter::handOver(const JobRef& job, PageRange run) {
  const auto at = job->restore->segment().regions().locate(run.first);
  {
    const threads::Lock lock(job->mutex);
    job->waiting++;
  }
  const auto source = job->restore->source().shared_from_this();
  const bool begun = source->readFrom(at.offset, run.count * at.pageSize)
                         .readers()
                         .run(Readers::For::population, [door = door_, weak = std::weak_ptr<Job>(job), source,
                                                         run, at, length = run.count * at.pageSize] {
                           Brought what = bring(*source, at.offset, length, run);
                           const threads::Lock lock(door->mutex);
                           if (door->prefaulter != nullptr) door->prefaulter->brought(weak, std::move(what));
                         });
  if (begun) return true;
  {
    const threads::Lock lock(job->mutex);
    job->waiting--;
  }
  job->giveBack(run);
  nap(PAUSE_NS);
  return false;
}

// In a reader thread.
Prefaulter::Brought Prefaulter::bring(const PageSource& source, std::uint64_t offset, std::uint64_t length,
                                      PageRange run) {
  const std::uint64_t before = nowNs();
  Brought what;
  what.run = run;
  what.staged = source.readInPlace(offset, length);
  if (what.staged.kind == Staged::Kind::cold) {
    try {
      what.buffer = std::make_shared<StagingBuffer>(length);
      do what.staged = source.readFrom(offset, length).readToPopulate(offset, length, what.buffer->data());
      while (what.staged.kind == Staged::Kind::cold);
    } catch (const kj::Exception&) {
      what.staged = {Staged::Kind::lost, nullptr, ENOMEM};
    }
  }
  what.took = nowNs() - before;
  return what;
}

// In a reader thread; the task that waited goes on in a worker.
void Prefaulter::brought(const std::weak_ptr<Job>& waiting, Brought what) {
  const JobRef job = comesBack(waiting);
  if (job == nullptr) return;
  workers_.enqueue([this, job, what = std::move(what)](unsigned worker) {
    if (!job->over()) {
      const Inflight inflight(*job->restore, worker, what.run);
      job->restore->counters().source.record(what.took);
      place(*job, worker, what.run, what.staged);
    }
    work(job, worker);
  });
}

void Prefaulter::place(Job& job, unsigned worker, PageRange run, const Staged& staged) {
  Attachment& restore = *job.restore;
  const auto at = restore.segment().regions().locate(run.first);
  if (auto why = restore.source().whatChanged(at.offset, run.count * at.pageSize)) {
    restore.fail(rpc::EndReason::SOURCE_CHANGED, *std::move(why));
    return restore.source().release(at.offset, run.count * at.pageSize);
  }
  switch (staged.kind) {
    case Staged::Kind::zero:
      if (commitRun(job, worker, run, {Content::Kind::zero}) == Run::later) job.giveBack(run);
      break;
    case Staged::Kind::bytes:
      commitRuns(job, worker, run, static_cast<const char*>(staged.data));
      restore.source().release(at.offset, run.count * at.pageSize);
      break;
    // Left to the faults that may come: they deliver the error, page by page, to whom it concerns.
    default:
      shm::count(restore.counters().sourceErrors);
  }
}

// Splits a staged range into runs of data and runs of zero pages.
void Prefaulter::commitRuns(Job& job, unsigned worker, PageRange range, const char* bytes) {
  Attachment& restore = *job.restore;
  const std::uint64_t pageSize = restore.segment().regions().locate(range.first).pageSize;
  for (PageIndex page = range.first; page < range.end();) {
    const char* data = bytes + (page - range.first) * pageSize;
    ContentRun alike{ContentRun::Kind::bytes, range.end() - page};
    // For huge pages a look gains nothing: there is no zero page.
    if (pageSize == shm::SMALL_PAGE) alike = contentRun(data, std::min(alike.pages, FREE_SECTION));
    if (alike.kind == ContentRun::Kind::lost) return;
    const bool zero = alike.kind == ContentRun::Kind::zero;
    const Content content = zero ? Content{Content::Kind::zero} : Content{Content::Kind::bytes, data};
    PageRange run{page, alike.pages};
    const Run how = commitRun(job, worker, run, content);
    if (how == Run::later) job.giveBack({run.first, range.end() - run.first});
    if (how != Run::done) return;
    page += alike.pages;
  }
}

// `run` becomes what is left of it. over: the job is to stop, or its source has gone. later: the kernel or the gate holds
// this restore up, and others want the worker as well.
Prefaulter::Run Prefaulter::commitRun(Job& job, unsigned worker, PageRange& run, Content content) {
  Attachment& restore = *job.restore;
  shm::RwLock& lock = restore.segment().lock();
  const std::uint64_t pageSize = restore.segment().regions().locate(run.first).pageSize;
  const auto sections = [&] {
    return restore.removeNegotiated() ? job.pace.sections(restore.removesLately(nowNs()))
                                      : Pace::Sections{FREE_SECTION, FREE_SECTION};
  };
  std::uint64_t limit = sections().shortest;
  std::uint64_t backOff = 1'000;
  while (run.count > 0) {
    if (job.over()) return Run::over;
    const std::uint64_t epoch = lock.epoch();
    Progress progress;
    Commit result = committer_.commitRun(restore, worker, run, limit, content, Origin::prefault, progress);
    if (result != Commit::unclear) {
      if (result != Commit::retry) job.unclear = 0;
    } else if (++job.unclear > UNCLEAR_TRIES) {
      job.unclear = 0;
      progress.pages = 1;
      result = Commit::done;
    }
    run.first += progress.pages;
    run.count -= progress.pages;
    if (content.kind == Content::Kind::bytes) {
      content.data = static_cast<const char*>(content.data) + progress.pages * pageSize;
      rate_.took(progress.populated * pageSize, nowNs());
    }
    if (result == Commit::retry || result == Commit::unclear) {
      nap(static_cast<long>(backOff));
      if (backOff >= LAST_BACK_OFF) return Run::later;
      backOff = std::min(backOff * 2, LAST_BACK_OFF);
    } else if (result == Commit::done || result == Commit::unregistered || result == Commit::parted) {
      backOff = 1'000;
    } else {
      return Run::over;
    }
    if (job.pace.yields(progress.pages, restore.counters().faultsTaken.load(std::memory_order_relaxed),
                        nowNs()))
      sched_yield();  // outside any section
    // What went by one page goes on so: where one is registered no more, its neighbours often are not.
    if (result == Commit::unregistered) continue;
    if (result == Commit::parted)
      limit = std::max<std::uint64_t>(1, std::min(limit, run.count) / 2);
    else if (!restore.removeNegotiated() || lock.epoch() == epoch)
      limit = std::min(limit * 2, sections().longest);
    else
      limit = sections().shortest;
  }
  return Run::done;
}

}  // namespace faultline::shard
