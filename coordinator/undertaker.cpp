#include "coordinator/undertaker.h"

#include <linux/userfaultfd.h>
#include <unistd.h>

#include "shmtracker/read_now.h"
#include "uffd/uffd.h"

namespace faultline::coordinator {

Undertaker::Undertaker(kj::AsyncIoContext& io, int uffd, int target, std::string name)
    : io_(io),
      uffd_(uffd),
      answerer_(uffd, target, std::move(name)),
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
  const ssize_t got = shm::readNow(uffd_, messages, sizeof messages);
  for (ssize_t i = 0; i < got / static_cast<ssize_t>(sizeof(uffd_msg)); i++)
    if (messages[i].event == UFFD_EVENT_PAGEFAULT) answerer_.add(messages[i]);
  return got > 0;
}

}  // namespace faultline::coordinator
