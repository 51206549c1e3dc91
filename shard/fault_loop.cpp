#include "shard/fault_loop.h"

#include <kj/debug.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>

#include "process/clock.h"
#include "shard/around.h"
#include "shard/source/source_errors.h"
#include "uffd/registration.h"

namespace faultline::shard {

using process::nowNs;
using shm::count;

namespace {

// Tries of a fault whose bytes vanish from where they are mapped: then the file has been cut.
constexpr std::uint32_t VANISHED_TRIES = 4;
// Tries of a fault before its threads look for themselves whether the page is there: some 60 ms.
constexpr std::uint32_t UNCLEAR_TRIES = 64;
constexpr std::uint64_t SUBMIT_AGAIN = 1'000'000;  // ns, after the kernel took not all reads

kj::AutoCloseFd newEvent() {
  int fd;
  KJ_SYSCALL(fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  return kj::AutoCloseFd(fd);
}

// Edge-triggered: each ring of an eventfd is told once, and need not be read away.
void watch(int epoll, int fd) {
  epoll_event event{EPOLLIN | EPOLLET, {}};
  KJ_SYSCALL(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
}

kj::AutoCloseFd newEpoll() {
  int fd;
  KJ_SYSCALL(fd = epoll_create1(EPOLL_CLOEXEC));
  return kj::AutoCloseFd(fd);
}

// Pages whose threads are woken together: each of them wants a CPU at once, perhaps this one. More at once
// make the first wait.
constexpr std::size_t WOKEN_TOGETHER = 8;

// Of a page that had left its region.
bool registeredAnew(Attachment& restore, shm::PageIndex page) {
  const auto at = restore.segment().regions().locate(page);
  const auto now = uffd::registrationOf(restore.uffd(), at.address, at.pageSize);
  return now == uffd::Registration::registered || now == uffd::Registration::otherPageSize;
}

}  // namespace

FaultLoop::FaultLoop(const Committer& committer, WorkerPool& workers, FaultLoopEvents& events,
                     FaultLoopOptions options)
    : committer_(committer),
      workers_(workers),
      events_(events),
      options_(options),
      commandEvent_(newEvent()),
      epoll_(newEpoll()),
      cold_(committer.failpoints()),
      retries_(options.retries),
      careful_(options.carefulFaults) {
  if (!cold_.usesRing())
    spdlog::info("io_uring is not available here: reader threads read what is not in the page cache");
  watch(epoll_.get(), commandEvent_.get());
  watch(epoll_.get(), cold_.eventFd());
  batch_.reserve(rpc::FaultRing::PAGES_PER_MESSAGE);
  handedBack_.reserve(rpc::FaultRing::PAGES_PER_MESSAGE);
  toWake_.reserve(WOKEN_TOGETHER);
  for (unsigned i = 0; i < shm::MAX_WORKERS; i++)
    buffers_.emplace_back(Neighbourhood::WINDOW * shm::SMALL_PAGE);
  thread_ = std::thread([this] { run(); });
}

FaultLoop::~FaultLoop() {
  command([this] { stopping_ = true; });
  thread_.join();
}

void FaultLoop::command(std::function<void()> action) {
  const threads::Lock lock(mutex_);
  commands_.push_back(std::move(action));
  commanded_.store(true, std::memory_order_release);
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(commandEvent_.get(), &one, sizeof one);
}

void FaultLoop::useRing(rpc::FaultRing ring) {
  auto shared = std::make_shared<rpc::FaultRing>(std::move(ring));
  command([this, shared] {
    ring_.reset();
    ring_.emplace(std::move(*shared));
    watch(epoll_.get(), ring_->doorbellFd());
  });
}

void FaultLoop::attach(AttachmentRef restore) {
  command([this, restore = std::move(restore)] { restores_.push_back(restore); });
}

void FaultLoop::detach(std::uint64_t restore, std::function<void()> done) {
  command([this, restore, done = std::move(done)] {
    if (Attachment* found = find(restore)) {
      found->end();
      wakeAll();
      retries_.forget(found);
      cold_.forget(found->source());
      windows_.forget(found->source());
      std::erase_if(restores_, [found](const AttachmentRef& r) { return r.get() == found; });
    }
    done();
  });
}

void FaultLoop::serve(std::uint64_t restore, std::uint64_t readAt, std::vector<shm::PageIndex> pages) {
  command([this, restore, readAt, pages = std::move(pages)] {
    Attachment* found = find(restore);
    if (found == nullptr) return;
    batch_.assign(pages.begin(), pages.end());
    serveBatch(*found, readAt, pages.size());
  });
}

void FaultLoop::poison(std::uint64_t restore, std::vector<shm::PageIndex> pages, std::string reason) {
  command([this, restore, pages = std::move(pages), reason = std::move(reason)] {
    Attachment* found = find(restore);
    if (found == nullptr) return;
    for (const shm::PageIndex page : pages)
      if (page < found->segment().pages().pageCount())
        poisonNow(*found, WorkerPool::FAULT_THREAD, page, reason);
  });
}

void FaultLoop::run() {
  while (!stopping_) {
    bool worked = runCommands();
    worked |= takeBatches();
    worked |= cold_.reap([this](const Fault& fault, const Staged& staged) { readEnded(fault, staged); }) > 0;
    worked |= retryDue();
    wakeAll();
    const bool submitted = cold_.submit();
    // Looking on for a while instead would save the wake where a CPU is idle, and take the CPU from the
    // target where none is: it lost by far (docs/performance).
    if (!worked) sleep(submitted ? std::nullopt : std::optional(SUBMIT_AGAIN));
  }
}

bool FaultLoop::runCommands() {
  if (!commanded_.load(std::memory_order_acquire)) return false;
  std::vector<std::function<void()>> commands;
  {
    const threads::Lock lock(mutex_);
    commands.swap(commands_);
    commanded_.store(false, std::memory_order_relaxed);
  }
  for (auto& action : commands) action();
  windows_.age(process::nowNs());  // a ping comes twice a second
  return true;
}

bool FaultLoop::takeBatches() {
  if (!ring_.has_value()) return false;
  bool any = false;
  // Commands first: a batch may be for a restore whose attach is waiting.
  while (!commanded_.load(std::memory_order_acquire)) {
    const bool got = ring_->pop([this](rpc::FaultBatch::Reader message) {
      Attachment* restore = find(message.getRestore());
      if (restore == nullptr) return;
      batch_.clear();
      for (const std::uint64_t page : message.getPages())
        if (page < restore->segment().pages().pageCount() && batch_.size() < batch_.capacity())
          batch_.push_back(page);
      serveBatch(*restore, message.getReadAt(), batch_.size());
    });
    if (!got) break;
    any = true;
  }
  return any;
}

bool FaultLoop::retryDue() {
  if (!retries_.nextDue().has_value()) return false;
  bool any = false;
  const std::uint64_t now = process::nowNs();
  while (auto fault = retries_.popDue(now)) {
    serveFault(*fault, WorkerPool::FAULT_THREAD, buffers_[WorkerPool::FAULT_THREAD].data());
    any = true;
  }
  return any;
}

// `most`: ns, where something has to be tried again; less than a second, as a retry's delay is.
void FaultLoop::sleep(std::optional<std::uint64_t> most) {
  if (ring_.has_value() && !ring_->prepareToSleep()) return;
  if (const auto due = retries_.nextDue()) {
    const std::uint64_t now = process::nowNs();
    most = std::min(most.value_or(RetryQueue::LAST_SOURCE_DELAY), *due > now ? *due - now : 0);
  }
  const timespec timeout{0, static_cast<long>(most.value_or(0))};
  epoll_event events[3];
  epoll_pwait2(epoll_.get(), events, 3, most.has_value() ? &timeout : nullptr, nullptr);
  if (ring_.has_value()) ring_->awake();
}

Attachment* FaultLoop::find(std::uint64_t restore) {
  for (const AttachmentRef& r : restores_)
    if (r->id() == restore) return r.get();
  return nullptr;
}

void FaultLoop::serveBatch(Attachment& restore, std::uint64_t readAt, std::size_t pages) {
  if (restore.ended()) return;
  count(restore.counters().faultsTaken, pages);
  if (pages < options_.shareFrom || careful_ > 0) {
    for (std::size_t i = 0; i < pages; i++) {
      Fault fault{&restore, batch_[i], readAt};
      if (careful_ > 0) {
        careful_--;
        fault.around = {fault.page, 1};
      }
      serveFault(fault, WorkerPool::FAULT_THREAD, buffers_[WorkerPool::FAULT_THREAD].data());
    }
    return;
  }
  auto serve = [&](std::size_t i, unsigned worker) {
    serveFault({&restore, batch_[i], readAt}, worker, buffers_[worker].data());
  };
  workers_.forEach(pages, std::ref(serve));  // by reference: a std::function of this size would allocate
  takeBack();
}

void FaultLoop::serveFault(Fault fault, unsigned worker, char* buffer) {
  Attachment& restore = *fault.restore;
  if (restore.ended()) return;
  // Its bytes are not looked for again before it may have a section.
  if (fault.tries > 0 && restore.segment().lock().closed()) {
    fault.tries++;
    return later(fault, Next::retry, worker);
  }
  const auto at = restore.segment().regions().locate(fault.page);
  const shm::PageState state = restore.segment().pages().state(fault.page);
  const bool missing = state == shm::PageState::missing;
  if (fault.around.count == 0)
    fault.around = missing && at.pageSize == shm::SMALL_PAGE ? restore.around(fault.page)
                                                             : shm::PageRange{fault.page, 1};
  const Inflight inflight(restore, worker, fault.around);
  if (!missing) {
    // A wake answers for a page that is in place alone: its thread would fault on any other again.
    if (state == shm::PageState::faulted && worker == WorkerPool::FAULT_THREAD &&
        wakeIsDue(restore, fault.page))
      return count(restore.counters().alreadyPresent);
    return commit(fault, worker, {Content::Kind::zero});
  }

  committer_.failpoints().hit(failpoints::Point::beforeStage, fault.page);
  const std::uint64_t before = process::nowNs();
  if (fault.around.count > 1 && serveAround(fault, worker, buffer)) return;
  const Staged staged = stage(fault, at, worker, buffer, before);
  restore.counters().source.record(process::nowNs() - before);
  if (staged.kind == Staged::Kind::cold) return later(fault, Next::coldRead, worker);
  if (sourceChanged(restore, at.offset, at.pageSize)) return;
  switch (staged.kind) {
    case Staged::Kind::lost:
      return sourceFailed(fault, worker, staged.error);
    case Staged::Kind::cold:
      break;
    case Staged::Kind::zero:
      commit(fault, worker, {Content::Kind::zero});
      break;
    case Staged::Kind::bytes:
      commit(fault, worker, {Content::Kind::bytes, staged.data});
      break;
  }
  if (at.pageSize == shm::SMALL_PAGE || staged.kind != Staged::Kind::bytes) return;
  if (worker == WorkerPool::FAULT_THREAD) wakeAll();  // to unmap a huge page takes its time
  restore.source().release(at.offset, at.pageSize);
}

// False where the page is to be answered by itself: its neighbourhood is not all in memory, or cannot be put in place.
// Does not wait.
bool FaultLoop::serveAround(Fault& fault, unsigned worker, char* buffer) {
  if (committer_.failpoints().awaits(failpoints::Point::coldRead, fault.page)) return false;
  Attachment& restore = *fault.restore;
  const std::uint64_t before = process::nowNs();
  const auto first = restore.segment().regions().locate(fault.around.first);
  const Staged staged = restore.source().tryRead(first.offset, fault.around.count * first.pageSize, buffer);
  restore.counters().source.record(process::nowNs() - before);
  if (staged.kind == Staged::Kind::cold) return false;
  if (sourceChanged(restore, first.offset, fault.around.count * first.pageSize)) return true;
  if (staged.kind != Staged::Kind::lost) return commitAround(fault, worker, staged);
  // Which of the pages cannot be read is not known.
  fault.around = {fault.page, 1};
  return false;
}

// False where the page is to be answered by itself.
bool FaultLoop::commitAround(const Fault& fault, unsigned worker, const Staged& staged) {
  const Around own = populateAround(committer_, fault, worker, staged);
  if (own == Around::alone) return false;
  if (own == Around::refused)
    refused(fault, worker);
  else if (worker == WorkerPool::FAULT_THREAD)
    wakeLater(*fault.restore, fault.around);
  else
    Committer::wake(*fault.restore, fault.around);
  return true;
}

// Unmaps the page's window once no page of it is missing. A window across a region's end, or completed
// elsewhere, is left to age().
void FaultLoop::letGo(Attachment& restore, shm::PageIndex page, const shm::PageLocation& at) {
  if (at.pageSize != shm::SMALL_PAGE || !windows_.maps(restore.source(), at.offset)) return;
  constexpr std::uint64_t PAGES = ResidentWindows::WINDOW / shm::SMALL_PAGE;
  const std::uint64_t before = std::min(page, at.offset / shm::SMALL_PAGE % PAGES);
  const shm::PageRange window{page - before, before + std::min(PAGES - before, at.pagesBehind)};
  if (restore.segment().pages().find(window, shm::PageState::missing) != window.end()) return;
  wakeAll();  // to unmap takes its time
  windows_.release(restore.source(), at.offset);
}

// Does not wait.
Staged FaultLoop::stage(const Fault& fault, const shm::PageLocation& at, unsigned worker, char* buffer,
                        std::uint64_t now) {
  const PageSource& source = fault.restore->source();
  // A page whose read a test holds is cold, even where the page cache has it.
  if (committer_.failpoints().awaits(failpoints::Point::coldRead, fault.page))
    return {Staged::Kind::cold, nullptr, 0};
  if (at.pageSize != shm::SMALL_PAGE) return source.tryView(at.offset, at.pageSize);
  if (worker == WorkerPool::FAULT_THREAD && windows_.resident(source, at.offset, now)) {
    const Staged staged = stagedAt(source.view(at.offset), at.pageSize);
    // A mapping does not say why a page is lost. A read does.
    if (staged.kind != Staged::Kind::lost) return staged;
  }
  return source.tryRead(at.offset, at.pageSize, buffer);
}

void FaultLoop::readEnded(Fault fault, const Staged& all) {
  // Not read yet: it may be in memory, and another part of the source may have to be waited for.
  if (all.kind == Staged::Kind::cold)
    return serveFault(fault, WorkerPool::FAULT_THREAD, buffers_[WorkerPool::FAULT_THREAD].data());
  Attachment& restore = *fault.restore;
  const auto first = restore.segment().regions().locate(fault.around.first);
  if (sourceChanged(restore, first.offset, fault.around.count * first.pageSize)) return;
  Staged staged = all;
  if (fault.around.count > 1) {
    const bool read = all.kind == Staged::Kind::bytes || all.kind == Staged::Kind::zero;
    if (read && commitAround(fault, WorkerPool::FAULT_THREAD, all)) return;
    if (!read) {
      fault.around = {fault.page, 1};
      return later(fault, Next::coldRead, WorkerPool::FAULT_THREAD);
    }
    if (all.kind == Staged::Kind::bytes)
      staged =
          stagedAt(static_cast<const char*>(all.data) + (fault.page - fault.around.first) * shm::SMALL_PAGE,
                   shm::SMALL_PAGE);
  }
  switch (staged.kind) {
    case Staged::Kind::bytes:
      return commit(fault, WorkerPool::FAULT_THREAD, {Content::Kind::bytes, staged.data});
    case Staged::Kind::zero:
      return commit(fault, WorkerPool::FAULT_THREAD, {Content::Kind::zero});
    default:
      return sourceFailed(fault, WorkerPool::FAULT_THREAD, staged.error);
  }
}

// Bytes that were read may be another snapshot's: the restore has failed then, and they are not used.
bool FaultLoop::sourceChanged(Attachment& restore, std::uint64_t offset, std::uint64_t length) {
  auto why = restore.source().whatChanged(offset, length);
  if (!why.has_value()) return false;
  restore.fail(rpc::EndReason::SOURCE_CHANGED, *std::move(why));
  return true;
}

void FaultLoop::commit(Fault fault, unsigned worker, Content content) {
  Attachment& restore = *fault.restore;
  switch (committer_.commitFault(restore, worker, fault.page, content)) {
    case Commit::done: {
      shm::countDone(restore.counters(), fault.readAt, process::nowNs());
      const auto at = restore.segment().regions().locate(fault.page);
      if (worker != WorkerPool::FAULT_THREAD) return Committer::wake(restore, fault.page);
      wakeLater(restore, {fault.page, 1});
      letGo(restore, fault.page, at);
      break;
    }
    case Commit::retry:
      refused(fault, worker);
      break;
    case Commit::unclear:
      // In the end its threads look for themselves: they go on, or fault again.
      if (fault.tries >= UNCLEAR_TRIES) return requeue(restore, fault.page);
      refused(fault, worker);
      break;
    case Commit::lost:
      // From where it was mapped, which does not say why. A read does.
      if (++fault.sourceFailures >= VANISHED_TRIES) return sourceFailed(fault, worker, 0);
      return later(fault, Next::coldRead, worker);
    case Commit::gone:
      return poisonNow(restore, worker, fault.page,
                       "the target had taken it away, and has registered something else in its place");
    case Commit::unregistered:
      return Committer::wake(restore, fault.page);  // its thread looks again at what is there now
    case Commit::poisoned:
    case Commit::unpoisonable:  // of poison alone
    case Commit::parted:        // of runs alone
    case Commit::dropped:
      break;
  }
}

// Its bytes were there: what the source had failed at before has passed.
void FaultLoop::refused(Fault fault, unsigned worker) {
  fault.tries++;
  fault.sourceFailures = 0;
  fault.failingSince = 0;
  later(fault, Next::retry, worker);
}

void FaultLoop::wakeLater(Attachment& restore, shm::PageRange pages) {
  toWake_.emplace_back(&restore, pages);
  if (toWake_.size() == WOKEN_TOGETHER) wakeAll();
}

// A thread that waits for the page looks again then, whatever the page's state is.
bool FaultLoop::wakeIsDue(const Attachment& restore, shm::PageIndex page) const {
  return std::any_of(toWake_.begin(), toWake_.end(), [&](const auto& due) {
    return due.first == &restore && page >= due.second.first && page < due.second.end();
  });
}

void FaultLoop::wakeAll() {
  for (const auto& [restore, pages] : toWake_) Committer::wake(*restore, pages);
  toWake_.clear();
}

void FaultLoop::requeue(Attachment& restore, shm::PageIndex page) {
  count(restore.counters().requeued);
  Committer::wake(restore, page);
}

void FaultLoop::later(Fault fault, Next next, unsigned worker) {
  if (worker != WorkerPool::FAULT_THREAD) {
    const threads::Lock lock(mutex_);
    handedBack_.push_back({fault, next});
    return;
  }
  if (next == Next::retry) {
    if (!retries_.push(fault, process::nowNs())) requeue(*fault.restore, fault.page);
    return;
  }
  Attachment& restore = *fault.restore;
  count(restore.counters().coldReads);
  const shm::RegionTable& regions = restore.segment().regions();
  auto first = regions.locate(fault.around.first);
  // A page of a neighbourhood that the source is slow with holds up the faults that wait for it, and no other.
  if (fault.around.count > 1 &&
      cold_.reading(restore.source(), first.offset, fault.around.count * first.pageSize)) {
    fault.around = {fault.page, 1};
    first = regions.locate(fault.page);
  }
  cold_.read(fault, restore.source(), first.offset, fault.around.count * first.pageSize);
}

// Once the workers have done their shares of a batch.
void FaultLoop::takeBack() {
  const threads::Lock lock(mutex_);
  for (const HandedBack& back : handedBack_) later(back.fault, back.next, WorkerPool::FAULT_THREAD);
  handedBack_.clear();
}

void FaultLoop::sourceFailed(Fault fault, unsigned worker, int error) {
  Attachment& restore = *fault.restore;
  count(restore.counters().sourceErrors);
  const std::uint64_t now = nowNs();
  if (fault.failingSince == 0) fault.failingSince = now;
  if (mayPass(error) && now - fault.failingSince < options_.sourcePatience) {
    fault.sourceFailures++;
    return later(fault, Next::retry, worker);
  }
  poisonNow(restore, worker, fault.page, describeLoss(fault, error));
}

std::string FaultLoop::describeLoss(const Fault& fault, int error) const {
  shm::Segment& segment = fault.restore->segment();
  const auto at = segment.regions().locate(fault.page);
  const std::string file = fault.restore->source().fileOf(at.offset);
  std::string loss = "source " + (file.empty() ? segment.sourceName() : file) + " at offset " +
                     std::to_string(at.offset) + ": " +
                     (error == 0 ? "the file ends before it (truncated?)" : std::strerror(error));
  if (mayPass(error))
    loss += ", for " + std::to_string(options_.sourcePatience / 1'000'000) + " ms (--source-patience)";
  return loss;
}

void FaultLoop::poisonNow(Attachment& restore, unsigned worker, shm::PageIndex page,
                          const std::string& reason) {
  const shm::PageTable& pages = restore.segment().pages();
  const shm::PageState state = pages.state(page);
  const bool gone = state == shm::PageState::released && !pages.zeroForGood(page);
  if (restore.killsOnLost() && (gone || state == shm::PageState::missing)) {
    // A fault of before it went is no sign that it was registered anew.
    if (gone && !registeredAnew(restore, page)) return requeue(restore, page);
    // The thread that waits for the page waits until the coordinator, or its successor, has killed the target.
    return events_.pageLost(restore, page, reason);
  }
  const Commit result = committer_.commitFault(restore, worker, page, {Content::Kind::poison});
  if (result == Commit::done || result == Commit::poisoned || result == Commit::unregistered)
    Committer::wake(restore, page);
  if (result == Commit::poisoned) events_.pagePoisoned(restore, page, reason);
  if (result == Commit::unpoisonable) events_.pageLost(restore, page, reason);
  // Refused: the thread faults again, finds the source as it is then, and comes by here once more.
  if (result == Commit::retry) requeue(restore, page);
}

}  // namespace faultline::shard
