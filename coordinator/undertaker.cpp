#include "coordinator/undertaker.h"

#include <linux/userfaultfd.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "shmtracker/pages.h"
#include "uffd/uffd.h"

namespace faultline::coordinator {

Undertaker::Undertaker(kj::AsyncIoContext& io, int uffd, int target, std::string name)
    : uffd_(uffd),
      target_(target),
      name_(std::move(name)),
      observer_(io.unixEventPort, uffd, kj::UnixEventPort::FdObserver::OBSERVE_READ) {}

kj::Promise<void> Undertaker::run() {
  // Faults that a predecessor had read come again.
  uffd::wakeAll(uffd_);
  return answerAll();
}

kj::Promise<void> Undertaker::answerAll() {
  uffd_msg messages[64];
  for (;;) {
    const ssize_t got = read(uffd_, messages, sizeof messages);
    if (got <= 0) break;
    for (std::size_t i = 0; i < static_cast<std::size_t>(got) / sizeof(uffd_msg); i++)
      if (messages[i].event == UFFD_EVENT_PAGEFAULT) answer(messages[i].arg.pagefault.address);
  }
  return observer_.whenBecomesReadable().then([this] { return answerAll(); });
}

void Undertaker::answer(std::uint64_t address) {
  for (const std::uint64_t pageSize : {shm::SMALL_PAGE, shm::HUGE_PAGE}) {
    const auto outcome = uffd::poison(uffd_, address & ~(pageSize - 1), pageSize).outcome;
    if (outcome == uffd::Outcome::done || outcome == uffd::Outcome::targetGone) return;
    // Somebody populated it, or a removal is in flight: look again.
    if (outcome == uffd::Outcome::present || outcome == uffd::Outcome::refused) {
      uffd::wake(uffd_, address & ~(pageSize - 1), pageSize);
      return;
    }
  }
  if (target_ < 0) return;
  spdlog::error("restore {}: this kernel cannot poison pages, so the target is killed", name_);
  syscall(SYS_pidfd_send_signal, target_, SIGKILL, nullptr, 0);
}

}  // namespace faultline::coordinator
