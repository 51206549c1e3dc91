#include "shard/loop_mailbox.h"

#include <kj/debug.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <utility>

namespace faultline::shard {

namespace {
kj::AutoCloseFd newEvent() {
  int fd;
  KJ_SYSCALL(fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  return kj::AutoCloseFd(fd);
}
}  // namespace

LoopMailbox::LoopMailbox(kj::UnixEventPort& port)
    : event_(newEvent()), observer_(port, event_.get(), kj::UnixEventPort::FdObserver::OBSERVE_READ) {}

void LoopMailbox::post(std::function<void()> action) {
  const threads::Lock lock(mutex_);
  posted_.push_back(std::move(action));
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(event_.get(), &one, sizeof one);
}

kj::Promise<void> LoopMailbox::run() {
  std::uint64_t value;
  [[maybe_unused]] const ssize_t got = read(event_.get(), &value, sizeof value);
  std::vector<std::function<void()>> actions;
  {
    const threads::Lock lock(mutex_);
    actions.swap(posted_);
  }
  for (auto& action : actions) action();
  return observer_.whenBecomesReadable().then([this] { return run(); });
}

}  // namespace faultline::shard
