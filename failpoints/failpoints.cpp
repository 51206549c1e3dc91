#include "failpoints/failpoints.h"

#include <kj/debug.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>

namespace faultline::failpoints {

namespace {

constexpr std::array<std::string_view, 28> NAMES = {
    "beforeStage",       "coldRead",      "beforeReadLock",   "beforeCopy",    "afterCopy",
    "afterStore",        "gateClosed",    "beforeRead",       "afterRead",     "midMark",
    "beforeOpen",        "beforeHandout", "beforeUnregister", "unregistered",  "midRelease",
    "handshakeAccepted", "handshakeRead", "targetRefused",    "restoreStored", "shardStarting",
    "adoptClaimed",      "adoptDrained",  "adoptReplayed",    "adoptChecking", "adoptOpened",
    "listenerNamed",     "endNoted",      "listenerChanging"};
static_assert(NAMES.size() == static_cast<std::size_t>(Point::listenerChanging) + 1);

void signalEvent(int fd) {
  const std::uint64_t one = 1;
  if (fd < 0) return;
  KJ_SYSCALL(write(fd, &one, sizeof one));
}

// Waits until the eventfd `fd` is signalled; for ever where it is -1.
void waitForEvent(int fd) {
  std::uint64_t value;
  while (fd < 0) pause();
  KJ_SYSCALL(read(fd, &value, sizeof value));
}

}  // namespace

std::optional<Point> pointNamed(std::string_view name) {
  const auto found = std::find(NAMES.begin(), NAMES.end(), name);
  if (found == NAMES.end()) return std::nullopt;
  return static_cast<Point>(found - NAMES.begin());
}

std::string_view nameOf(Point point) {
  return NAMES[static_cast<std::size_t>(point)];
}

std::uint64_t Failpoints::arm(Arm arm) {
  const threads::Lock lock(mutex_);
  armed_.push_back({++last_, std::move(arm)});
  armedCount_.store(static_cast<std::uint32_t>(armed_.size()));
  return last_;
}

void Failpoints::disarm(std::uint64_t number) {
  const threads::Lock lock(mutex_);
  std::erase_if(armed_, [number](const Armed& a) { return a.number == number; });
  armedCount_.store(static_cast<std::uint32_t>(armed_.size()));
}

std::vector<Failpoints::Armed>::iterator Failpoints::findArmed(Point point, std::uint64_t page) {
  return std::find_if(armed_.begin(), armed_.end(), [&](const Armed& a) {
    return a.arm.point == point && (a.arm.page == ANY_PAGE || a.arm.page == page);
  });
}

bool Failpoints::awaitsArmed(Point point, std::uint64_t page) {
  const threads::Lock lock(mutex_);
  return findArmed(point, page) != armed_.end();
}

std::optional<Failpoints::Arm> Failpoints::arrive(Point point, std::uint64_t page) {
  Arm arm;
  {
    const threads::Lock lock(mutex_);
    const auto found = findArmed(point, page);
    if (found == armed_.end()) return std::nullopt;
    if (found->arm.skip > 0) {
      found->arm.skip--;
      return std::nullopt;
    }
    arm = std::move(found->arm);
    armed_.erase(found);
    armedCount_.store(static_cast<std::uint32_t>(armed_.size()));
  }
  signalEvent(arm.reached.get());
  signalEvent(arm.reached2.get());
  return arm;
}

kj::AutoCloseFd Failpoints::holdArmed(Point point, std::uint64_t page) {
  auto arm = arrive(point, page);
  return arm.has_value() ? kj::mv(arm->resume) : kj::AutoCloseFd();
}

void Failpoints::hitArmed(Point point, std::uint64_t page) {
  const auto arm = arrive(point, page);
  if (!arm.has_value()) return;
  switch (arm->action) {
    case Action::park:
      waitForEvent(arm->resume.get());
      break;
    case Action::kill:
      kill(getpid(), SIGKILL);
      break;
    case Action::stop:
      raise(SIGSTOP);  // to this thread: sent to the process, it might stop somewhat behind the place
      break;
    case Action::pass:
      break;
  }
}

}  // namespace faultline::failpoints
