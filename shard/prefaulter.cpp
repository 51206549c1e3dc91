#include "shard/prefaulter.h"

#include <sched.h>

#include <algorithm>
#include <ctime>
#include <optional>

#include "process/clock.h"
#include "shard/bus_guard.h"

namespace faultline::shard {

using process::nowNs;
using shm::PageIndex;
using shm::PageRange;
using shm::PageState;

namespace {

// Pages in one section: while faults flow, while nothing else happens, and where no removal can come.
constexpr std::uint64_t SHORT_SECTION = 4;
constexpr std::uint64_t LONG_SECTION = 32;
constexpr std::uint64_t FREE_SECTION = 512;
constexpr std::uint64_t WINDOW = 2u << 20;  // bytes of the source that are staged at once
constexpr std::uint64_t LOOK_AHEAD = 8;     // pages
constexpr long PAUSE_NS = 1'000'000;
// For one page, some 1 s; then it is left to whoever touches it.
constexpr unsigned UNCLEAR_TRIES = 1000;
constexpr std::uint64_t FLOWING = 5'000'000;  // ns after a fault, in which more are expected

void nap(long ns) {
  const timespec time{0, ns};
  nanosleep(&time, nullptr);
}

}  // namespace

struct Prefaulter::Job {
  Job(AttachmentRef r, std::vector<PageRange> list, std::function<void()> end)
      : restore(std::move(r)), ranges(std::move(list)), done(std::move(end)) {}

  AttachmentRef restore;
  const std::vector<PageRange> ranges;
  const std::function<void()> done;
  std::atomic<bool> cancelled{false};
  std::uint64_t number = 0;

  std::atomic<std::uint64_t> faultsSeen{0}, quietFrom{0};  // of the restore, as makeWay() saw them; ns

  std::mutex mutex;
  std::size_t range = 0;  // position, guarded by mutex
  PageIndex next = 0;     // guarded by mutex
  unsigned tasks = 0;     // under way, guarded by mutex

  bool over() const { return cancelled.load(std::memory_order_relaxed) || restore->ended(); }

  // The next pages to look at: of one extent that this shard owns and one window of the source.
  std::optional<PageRange> take() {
    std::lock_guard lock(mutex);
    const auto& regions = restore->segment().regions();
    while (!over() && range < ranges.size()) {
      const PageRange whole = ranges[range];
      const PageIndex first = std::max(next, whole.first);
      if (first >= whole.end()) {
        range++;
        next = 0;
        continue;
      }
      const PageRange extent = regions.pagesOfExtent(regions.extentOf(first));
      const auto at = regions.locate(first);
      const std::uint64_t window = std::max<std::uint64_t>(1, WINDOW / at.pageSize);
      const PageIndex end = std::min({whole.end(), extent.end(), first + window});
      next = restore->owns(first) ? end : std::min(whole.end(), extent.end());
      if (restore->owns(first)) return PageRange{first, end - first};
    }
    return std::nullopt;
  }
};

Prefaulter::~Prefaulter() {
  std::vector<std::shared_ptr<Job>> jobs;
  {
    std::lock_guard lock(mutex_);
    for (auto& [key, job] : jobs_) jobs.push_back(job);
  }
  for (auto& job : jobs) job->cancelled.store(true);
  for (auto& job : jobs) {
    for (;;) {
      {
        std::lock_guard lock(job->mutex);
        if (job->tasks == 0) break;
      }
      nap(PAUSE_NS);
    }
  }
}

void Prefaulter::start(AttachmentRef restore, std::uint64_t number, std::vector<PageRange> ranges,
                       std::function<void()> done) {
  if (ranges.empty()) ranges.push_back({0, restore->segment().pages().pageCount()});
  auto job = std::make_shared<Job>(std::move(restore), std::move(ranges), std::move(done));
  job->number = number;
  job->tasks = parallel_;
  {
    std::lock_guard lock(mutex_);
    jobs_[{job->restore->id(), number}] = job;
  }
  for (unsigned i = 0; i < parallel_; i++)
    workers_.enqueue([this, job](unsigned worker) { work(job, worker); });
}

void Prefaulter::cancel(std::uint64_t restore, std::uint64_t number) {
  std::lock_guard lock(mutex_);
  const auto found = jobs_.find({restore, number});
  if (found != jobs_.end()) found->second->cancelled.store(true);
}

void Prefaulter::cancelAll(std::uint64_t restore) {
  std::lock_guard lock(mutex_);
  for (auto& [key, job] : jobs_)
    if (key.first == restore) job->cancelled.store(true);
}

// One window a task, so that workers come by the arena's other work in between.
void Prefaulter::work(const std::shared_ptr<Job>& job, unsigned worker) {
  if (job->restore->paused() && !job->over()) {
    nap(PAUSE_NS);
  } else if (const auto range = job->take()) {
    populate(*job, worker, *range);
  } else {
    return finish(job);
  }
  workers_.enqueue([this, job](unsigned next) { work(job, next); });
}

void Prefaulter::finish(const std::shared_ptr<Job>& job) {
  {
    std::lock_guard lock(job->mutex);
    if (--job->tasks > 0) return;
  }
  {
    std::lock_guard lock(mutex_);
    jobs_.erase({job->restore->id(), job->number});
  }
  job->done();
}

void Prefaulter::populate(Job& job, unsigned worker, PageRange range) {
  Attachment& restore = *job.restore;
  const auto& pages = restore.segment().pages();
  const PageIndex first = pages.find(range, PageState::missing);
  if (first == range.end()) return;
  const PageRange rest{first, range.end() - first};
  const Inflight inflight(restore, worker, rest);
  const auto at = restore.segment().regions().locate(first);
  committer_.failpoints().hit(failpoints::Point::beforeStage, first);
  const std::uint64_t before = process::nowNs();
  const Staged staged = restore.source().stageMappedWaiting(at.offset, rest.count * at.pageSize);
  restore.counters().source.record(process::nowNs() - before);
  switch (staged.kind) {
    case Staged::Kind::zero:
      commitRun(job, worker, rest, {Content::Kind::zero});
      break;
    case Staged::Kind::bytes:
      commitRuns(job, worker, rest, static_cast<const char*>(staged.data));
      restore.source().release(at.offset, rest.count * at.pageSize);
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
  // There is no zero page to gain by looking where pages are huge.
  const bool look = pageSize == shm::SMALL_PAGE;
  for (PageIndex page = range.first; page < range.end();) {
    const char* data = bytes + (page - range.first) * pageSize;
    const Content first = {Content::Kind::bytes, data};
    std::uint64_t length = range.end() - page;
    bool zero = false;
    if (look) {
      length = 0;
      enum class Seen { none, zero, data } seen = Seen::none;
      while (page + length < range.end()) {
        // Looking costs a cache miss a page; asked for in time, they overlap. A prefetch never faults.
        __builtin_prefetch(data + (length + LOOK_AHEAD) * pageSize);
        const auto content = contentOf(data + length * pageSize, pageSize);
        if (content == SourceContent::lost) return;
        const Seen here = content == SourceContent::zero ? Seen::zero : Seen::data;
        if (seen != Seen::none && seen != here) break;
        seen = here;
        length++;
        if (length == FREE_SECTION) break;
      }
      zero = seen == Seen::zero;
    }
    if (!commitRun(job, worker, {page, length}, zero ? Content{Content::Kind::zero} : first)) return;
    page += length;
  }
}

// Outside any section. A fault's way goes through three threads, and where each finds a worker of ours on its
// CPU it would wait for the worker's slice, some ms, to end. So while faults flow, every section ends with a
// place for them.
void Prefaulter::makeWay(Job& job) {
  const std::uint64_t faults = job.restore->segment().counters().faults.load(std::memory_order_relaxed);
  const std::uint64_t now = process::nowNs();
  if (job.faultsSeen.exchange(faults, std::memory_order_relaxed) != faults)
    job.quietFrom.store(now + FLOWING, std::memory_order_relaxed);
  if (now < job.quietFrom.load(std::memory_order_relaxed)) sched_yield();
}

// False where the job is to stop or its source has gone.
bool Prefaulter::commitRun(Job& job, unsigned worker, PageRange run, Content content) {
  Attachment& restore = *job.restore;
  shm::RwLock& lock = restore.segment().lock();
  const std::uint64_t pageSize = restore.segment().regions().locate(run.first).pageSize;
  std::uint64_t limit = restore.removeNegotiated() ? SHORT_SECTION : FREE_SECTION;
  std::uint64_t backOff = 1'000;
  unsigned unclear = 0;
  while (run.count > 0) {
    if (job.over()) return false;
    const std::uint64_t epoch = lock.epoch();
    std::uint64_t advanced = 0;
    Commit result = committer_.commitRun(restore, worker, run, limit, content, advanced);
    unclear = result == Commit::unclear ? unclear + 1 : 0;
    if (unclear > UNCLEAR_TRIES) {
      advanced = 1;
      result = Commit::done;
    }
    run.first += advanced;
    run.count -= advanced;
    if (content.kind == Content::Kind::bytes) {
      content.data = static_cast<const char*>(content.data) + advanced * pageSize;
      shm::count(restore.counters().sourceBytes, advanced * pageSize);
    }
    if (result == Commit::retry || result == Commit::unclear) {
      nap(static_cast<long>(backOff));
      backOff = std::min<std::uint64_t>(backOff * 2, 1'000'000);
    } else if (result != Commit::done) {
      return false;
    } else {
      backOff = 1'000;
    }
    makeWay(job);
    if (restore.removeNegotiated())
      limit = lock.epoch() == epoch ? std::min(limit * 2, LONG_SECTION) : SHORT_SECTION;
  }
  return true;
}

}  // namespace faultline::shard
