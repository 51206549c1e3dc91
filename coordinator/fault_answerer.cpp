#include "coordinator/fault_answerer.h"

#include <kj/io.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cerrno>
#include <deque>
#include <exception>
#include <thread>
#include <utility>

#include "process/duplicate.h"
#include "process/process.h"
#include "shmtracker/pages.h"
#include "threads/mutex.h"
#include "uffd/registration.h"
#include "uffd/uffd.h"

namespace faultline::coordinator {

namespace {

// Only where its page is there.
void letThrough(int uffd, const uffd_msg& fault) {
  // The range may be of either size, and only its own is accepted.
  for (const std::uint64_t pageSize : {shm::SMALL_PAGE, shm::HUGE_PAGE}) {
    const std::uint64_t page = fault.arg.pagefault.address & ~(pageSize - 1);
    const int error = uffd::unprotect(uffd, page, pageSize);
    if (error == EINVAL) continue;
    // A removal is under way, or the page is not there any more: the thread looks again.
    if (error != 0) uffd::wake(uffd, page, pageSize);
    return;
  }
}

}  // namespace

struct FaultAnswerer::Shared {
  kj::AutoCloseFd uffd, target;
  std::string name;
  threads::Mutex mutex;
  threads::Condition changed;
  std::deque<uffd_msg> queue GUARDED_BY(mutex);
  bool dropped GUARDED_BY(mutex) = false, ending GUARDED_BY(mutex) = false;
};

FaultAnswerer::FaultAnswerer(int uffd, int target, std::string name)
    : uffd_(uffd), target_(target), name_(std::move(name)) {}

FaultAnswerer::~FaultAnswerer() {
  if (shared_ == nullptr) return;
  const threads::Lock lock(shared_->mutex);
  shared_->ending = true;
  shared_->changed.notifyOne();
}

void FaultAnswerer::add(const uffd_msg& fault) {
  if (shared_ == nullptr) {
    try {
      begin();
    } catch (const std::exception&) {
      // Of a page of either size: the kernel compares the address that the fault has.
      uffd::wake(uffd_, fault.arg.pagefault.address & ~(shm::SMALL_PAGE - 1), shm::SMALL_PAGE);
      return;
    }
  }
  const threads::Lock lock(shared_->mutex);
  if (shared_->queue.size() < ROOM)
    shared_->queue.push_back(fault);
  else
    shared_->dropped = true;
  shared_->changed.notifyOne();
}

void FaultAnswerer::begin() {
  auto shared = std::make_shared<Shared>();
  shared->uffd = process::duplicate(uffd_);
  if (target_ >= 0) shared->target = process::duplicate(target_);
  shared->name = name_;
  std::thread([shared] { run(shared); }).detach();
  shared_ = std::move(shared);
}

void FaultAnswerer::run(const std::shared_ptr<Shared>& shared) {
  const int uffd = shared->uffd.get();
  threads::Lock lock(shared->mutex);
  for (;;) {
    while (!shared->ending && !shared->dropped && shared->queue.empty()) shared->changed.wait(shared->mutex);
    if (shared->ending) return;
    std::deque<uffd_msg> faults = std::exchange(shared->queue, {});
    const bool dropped = std::exchange(shared->dropped, false);
    lock.unlock();
    for (const uffd_msg& fault : faults) {
      if (answerWithError(uffd, fault) || shared->target.get() < 0) continue;
      spdlog::error("restore {}: this kernel cannot poison pages, so the target is killed", shared->name);
      process::sendSignal(shared->target.get(), SIGKILL);
    }
    if (dropped) uffd::wakeAll(uffd);
    lock.lock();
  }
}

bool answerWithError(int uffd, const uffd_msg& fault) {
  if ((fault.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) != 0) {
    letThrough(uffd, fault);
    return true;
  }
  // The range may be of either size, and only its own is accepted.
  for (const std::uint64_t pageSize : {shm::SMALL_PAGE, shm::HUGE_PAGE}) {
    const std::uint64_t page = fault.arg.pagefault.address & ~(pageSize - 1);
    const auto outcome = uffd::poison(uffd, page, pageSize).outcome;
    if (outcome == uffd::Outcome::unsupported) continue;
    // Populated by another, or a removal is in flight, or memory is short: the thread looks again.
    if (outcome != uffd::Outcome::done && outcome != uffd::Outcome::targetGone)
      uffd::wake(uffd, page, pageSize);
    return true;
  }
  return false;
}

}  // namespace faultline::coordinator
