#include "coordinator/undertaker.h"

#include <linux/userfaultfd.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "shmtracker/pages.h"
#include "uffd/uffd.h"

namespace faultline::coordinator {

Undertaker::Undertaker(kj::AsyncIoContext& io, int uffd, int target, std::string name)
    : io_(io),
      uffd_(uffd),
      target_(target),
      name_(std::move(name)),
      observer_(io.unixEventPort, uffd, kj::UnixEventPort::FdObserver::OBSERVE_READ) {}

kj::Promise<void> Undertaker::run() {
  // Faults that a predecessor had read come again.
  uffd::wakeAll(uffd_);
  return answerAll();
}

kj::Promise<void> Undertaker::answerAll() {
  if (!answerBatch()) return observer_.whenBecomesReadable().then([this] { return answerAll(); });
  // Threads that catch the error and fault again keep the uffd readable for ever, and other restores are to
  // be served. By the timer, since that has the loop look at its fds as well.
  return io_.provider->getTimer().afterDelay(0 * kj::SECONDS).then([this] { return answerAll(); });
}

// One read(). True: it brought something, and there may be more.
bool Undertaker::answerBatch() {
  uffd_msg messages[64];
  const ssize_t got = read(uffd_, messages, sizeof messages);
  for (ssize_t i = 0; i < got / static_cast<ssize_t>(sizeof(uffd_msg)); i++)
    if (messages[i].event == UFFD_EVENT_PAGEFAULT) answer(messages[i]);
  return got > 0;
}

void Undertaker::answer(const uffd_msg& fault) {
  if (answerWithError(uffd_, fault) || target_ < 0) return;
  spdlog::error("restore {}: this kernel cannot poison pages, so the target is killed", name_);
  syscall(SYS_pidfd_send_signal, target_, SIGKILL, nullptr, 0);
}

bool answerWithError(int uffd, const uffd_msg& fault) {
  const bool writeProtected = (fault.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) != 0;
  // The range may be of either size, and only its own is accepted.
  for (const std::uint64_t pageSize : {shm::SMALL_PAGE, shm::HUGE_PAGE}) {
    const std::uint64_t page = fault.arg.pagefault.address & ~(pageSize - 1);
    if (writeProtected) {
      // The page is there, and only its write tracking holds the thread up.
      const int error = uffd::unprotect(uffd, page, pageSize);
      if (error == EINVAL) continue;
      if (error != 0) uffd::wake(uffd, page, pageSize);
      return true;
    }
    const auto outcome = uffd::poison(uffd, page, pageSize).outcome;
    if (outcome == uffd::Outcome::unsupported) continue;
    // Somebody populated it, or a removal is in flight, or memory is short: the thread looks again.
    if (outcome != uffd::Outcome::done && outcome != uffd::Outcome::targetGone)
      uffd::wake(uffd, page, pageSize);
    return true;
  }
  return false;
}

}  // namespace faultline::coordinator
