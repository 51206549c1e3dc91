#include "coordinator/shard_pool.h"

#include <kj/debug.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "process/clock.h"
#include "process/log_about.h"
#include "process/process.h"

namespace faultline::coordinator {

using process::KeptName;

namespace {

// A shard that dies this soon after its start counts as one that cannot run.
constexpr std::uint64_t QUICK_DEATH = 20'000'000;  // ns
constexpr std::uint64_t LONGEST_BACK_OFF = 1000;   // ms
constexpr std::chrono::milliseconds LONGEST_PATIENCE{1000};
constexpr kj::Duration END_CHECK = 200 * kj::MICROSECONDS;
// Time for a process that was just started to answer, on a busy machine.
constexpr std::uint64_t START_LIMIT = 15'000;  // ms

// How long to wait before the next start: none after a first death, then doubling.
kj::Duration backOff(std::uint32_t quickDeaths) {
  if (quickDeaths < 2) return 0 * kj::MILLISECONDS;
  return std::min<std::uint64_t>(10ull << std::min(quickDeaths - 2, 10u), LONGEST_BACK_OFF) *
         kj::MILLISECONDS;
}

std::string milliseconds(std::uint64_t ns) {
  char text[32];
  snprintf(text, sizeof text, "%.1f ms", static_cast<double>(ns) / 1e6);
  return text;
}

}  // namespace

ShardPool::ShardPool(kj::AsyncIoContext& io, SupervisorLink& link, EventLog& log,
                     failpoints::Failpoints& failpoints, const Options& options, ServiceTotals& totals,
                     ShardPoolEvents& owner)
    : io_(io),
      link_(link),
      log_(log),
      failpoints_(failpoints),
      options_(options),
      totals_(totals),
      owner_(owner),
      tasks_(*this) {}

kj::Promise<void> ShardPool::begin(Inheritance& inherited) {
  std::uint32_t count = options_.shards;
  for (std::uint32_t i = count; i < shm::MAX_SHARDS; i++)
    if (inherited.fds.count(KeptName::shard(i, KeptName::Part::channel)) != 0) count = i + 1;
  auto ready = kj::heapArrayBuilder<kj::Promise<void>>(count);
  for (std::uint32_t index = 0; index < count; index++) {
    size_++;
    auto channel = inherited.take(KeptName::shard(index, KeptName::Part::channel));
    auto pidfd = inherited.take(KeptName::shard(index, KeptName::Part::pidfd));
    seats_[index].handle = ShardHandle::adopt(io_, index, kj::mv(channel), kj::mv(pidfd));
    auto up = seats_[index].handle == nullptr ? startSeat(index) : bringUp(index);
    // Eagerly: joined, the last step of each would wait until all are ready, and until that is asked for.
    ready.add(up.eagerlyEvaluate(nullptr));
  }
  tasks_.add(pingAll());
  return kj::joinPromises(ready.finish());
}

kj::Promise<void> ShardPool::grow(std::uint32_t count) {
  KJ_REQUIRE(count <= shm::MAX_SHARDS, "too many shards", count, shm::MAX_SHARDS);
  auto ready = kj::Vector<kj::Promise<void>>();
  while (size_ < count) ready.add(startSeat(size_++));
  return kj::joinPromises(ready.releaseAsArray());
}

void ShardPool::shrink(std::uint32_t count) {
  const std::uint32_t before = size_;
  while (size_ > count && seats_[size_ - 1].up && seats_[size_ - 1].diedAt == 0) {
    const std::uint32_t index = size_ - 1;
    Seat& seat = seats_[index];
    const pid_t pid = process(index)->pid();
    process::sendSignal(process(index)->pidfd(), SIGKILL);
    KJ_IF_MAYBE (handle, seat.handle) {
      retired_[pid] = kj::mv(*handle);
    }
    link_.drop(KeptName::shard(index, KeptName::Part::channel));
    link_.drop(KeptName::shard(index, KeptName::Part::pidfd));
    seat.handle = nullptr;
    seat.up = false;
    size_--;
  }
  if (size_ < before) spdlog::info("{} shards, not {}: the others own nothing any more", size_, before);
}

ShardHandle* ShardPool::process(std::uint32_t index) {
  if (index >= size_) return nullptr;
  KJ_IF_MAYBE (handle, seats_[index].handle) {
    return handle->get();
  }
  return nullptr;
}

ShardHandle* ShardPool::up(std::uint32_t index) {
  return isUp(index) ? process(index) : nullptr;
}

kj::Promise<void> ShardPool::startSeat(std::uint32_t index) {
  Seat& seat = seats_[index];
  return io_.provider->getTimer()
      .afterDelay(backOff(seat.quickDeaths))
      .then([this, index]() -> kj::Promise<void> {
        Seat& seat = seats_[index];
        auto failure = kj::runCatchingExceptions([&] {
          seat.handle = ShardHandle::start(io_, link_, failpoints_, options_, index, seat.diedAt != 0);
        });
        KJ_IF_MAYBE (e, failure) {
          log_.add("shard " + std::to_string(index) + " cannot be started: " + e->getDescription().cStr());
          seat.quickDeaths++;
          return startSeat(index);
        }
        return bringUp(index);
      });
}

kj::Promise<void> ShardPool::bringUp(std::uint32_t index) {
  watch(index);
  ShardHandle& handle = *process(index);
  auto late = greetingLimit(handle).then(
      []() -> std::vector<std::uint64_t> { KJ_FAIL_REQUIRE("it does not answer"); });
  return handle.greet(owner_.eventsFor(index))
      .exclusiveJoin(kj::mv(late))
      .then([this, index, &handle](std::vector<std::uint64_t> has) {
        // Before the owner attaches what it has now: what begins meanwhile attaches itself.
        seats_[index].up = true;
        return owner_.shardUp(handle, std::move(has));
      })
      .then([this, index] {
        Seat& seat = seats_[index];
        if (seat.diedAt == 0) return;
        seat.recoveryNs = process::nowNs() - seat.diedAt;
        totals_.shardRecovery.record(seat.recoveryNs);
        const process::LogAbout about({.shard = index});
        log_.add("shard " + std::to_string(index) + " " + seat.death + "; its successor " +
                 std::to_string(process(index)->pid()) + " serves again after " +
                 milliseconds(seat.recoveryNs));
        seat.diedAt = 0;
      })
      .catch_([this, index, pid = handle.pid()](kj::Exception&& e) {
        spdlog::warn("shard {} did not come up: {}", index, e.getDescription().cStr());
        // A shard that died on the way up is replaced by watch(). A live shard that cannot be used has to die
        // for it.
        if (lives(index, pid) && !seats_[index].up)
          fence(index, std::string("it did not come up: ") + e.getDescription().cStr());
      });
}

void ShardPool::watch(std::uint32_t index) {
  tasks_.add(process(index)->ended().then([this, index, pid = process(index)->pid()] {
    const auto retired = retired_.find(pid);
    if (retired == retired_.end()) return died(index);
    process::describeExit(retired->second->pidfd());  // reaps it, where it was our child
    // Not from within one of its own promises.
    tasks_.add(kj::evalLater([gone = kj::mv(retired->second)] {}));
    retired_.erase(retired);
  }));
}

// --- replacing one that lives ---

kj::Promise<void> ShardPool::replace(std::uint32_t index) {
  const pid_t former = process(index)->pid();
  auto fresh = std::make_shared<kj::Own<ShardHandle>>(ShardHandle::startBeside(io_, options_, index));
  auto greeted = (*fresh)->greet(owner_.eventsFor(index)).ignoreResult();
  return greeted.exclusiveJoin(limit().then([] { KJ_FAIL_REQUIRE("the new shard does not answer"); }))
      .then([this, index, former]() -> kj::Promise<void> {
        if (!lives(index, former)) return kj::READY_NOW;
        // A restore that begins now waits for the new process.
        seats_[index].up = false;
        // A shard that cannot let go is killed all the same: that costs its faults some milliseconds.
        return owner_.shardLeaves(*process(index)).exclusiveJoin(limit()).catch_([](kj::Exception&&) {});
      })
      .then([this, index, former, fresh] { return putIn(index, former, kj::mv(*fresh)); },
            [this, fresh](kj::Exception&& e) -> kj::Promise<void> {
              process::endChild((*fresh)->pidfd(), patience());
              return kj::mv(e);
            });
}

kj::Promise<void> ShardPool::putIn(std::uint32_t index, pid_t former, kj::Own<ShardHandle> fresh) {
  if (!lives(index, former)) {
    // The old process died meanwhile, and its successor is of our build as well.
    process::endChild(fresh->pidfd(), patience());
    return kj::READY_NOW;
  }
  Seat& seat = seats_[index];
  if (!process::killAndWait(process(index)->pidfd(), patience())) {
    process::endChild(fresh->pidfd(), patience());
    KJ_FAIL_REQUIRE("a shard that is to be replaced does not die", index, former);
  }
  KJ_IF_MAYBE (old, seat.handle) {
    retired_[former] = kj::mv(*old);
  }
  seat.handle = kj::mv(fresh);
  ShardHandle& handle = *process(index);
  handle.keep(link_);
  watch(index);
  seat.up = true;
  return owner_.shardUp(handle, {}).then([index, former, pid = handle.pid()] {
    spdlog::info("shard {} (pid {}) is replaced by {}", index, former, pid);
  });
}

bool ShardPool::lives(std::uint32_t index, pid_t pid) {
  const ShardHandle* handle = process(index);
  return handle != nullptr && handle->pid() == pid && !process::hasEnded(handle->pidfd());
}

kj::Promise<void> ShardPool::limit() {
  return io_.provider->getTimer().afterDelay(static_cast<std::uint64_t>(options_.watchdog.count()) *
                                             kj::MILLISECONDS);
}

kj::Promise<void> ShardPool::greetingLimit(const ShardHandle& handle) {
  if (handle.adopted()) return limit();
  const auto watchdog = static_cast<std::uint64_t>(options_.watchdog.count());
  return io_.provider->getTimer().afterDelay(std::max(watchdog, START_LIMIT) * kj::MILLISECONDS);
}

// Less than the supervisor's, which hears nothing of us meanwhile.
std::chrono::milliseconds ShardPool::patience() const {
  return std::min(LONGEST_PATIENCE, options_.watchdog / 2);
}

kj::Promise<void> ShardPool::pingAll() {
  for (std::uint32_t index = 0; index < size(); index++)
    if (up(index) != nullptr && !seats_[index].pinging) tasks_.add(pingOne(index));
  const auto quarter = static_cast<std::uint64_t>(options_.watchdog.count()) / 4 * kj::MILLISECONDS;
  return io_.provider->getTimer().afterDelay(quarter).then([this] { return pingAll(); });
}

kj::Promise<void> ShardPool::pingOne(std::uint32_t index) {
  const pid_t pid = process(index)->pid();
  seats_[index].pinging = true;
  return process(index)
      ->rpc()
      .pingRequest()
      .send()
      .ignoreResult()
      .exclusiveJoin(limit().then([this, index, pid] {
        if (process(index) != nullptr && process(index)->pid() == pid)
          fence(index, "it has stopped answering");
      }))
      .then([this, index] { seats_[index].pinging = false; },
            [this, index](kj::Exception&&) {
              seats_[index].pinging = false;
            });  // a death is watch()'s to handle
}

void ShardPool::died(std::uint32_t index) {
  Seat& seat = seats_[index];
  ShardHandle& handle = *process(index);
  const std::uint64_t now = process::nowNs();
  seat.death = "(pid " + std::to_string(handle.pid()) + ") " + process::describeExit(handle.pidfd());
  const process::LogAbout about({.shard = index});
  spdlog::warn("shard {} {}", index, seat.death);
  seat.quickDeaths = now - handle.startedAt() < QUICK_DEATH ? seat.quickDeaths + 1 : 0;
  shm::count(totals_.shardRestarts[index]);
  seat.diedAt = now;
  seat.up = false;
  const Death death = seat.killed == handle.pid() ? Death::byUs : Death::ofItself;
  seat.killed = 0;
  link_.drop(KeptName::shard(index, KeptName::Part::channel));
  link_.drop(KeptName::shard(index, KeptName::Part::pidfd));
  owner_.shardDied(index, death);
  // The handle goes only now: calls under way on it may still be failing.
  auto old = kj::mv(seat.handle);
  seat.handle = nullptr;
  tasks_.add(startSeat(index).attach(kj::mv(old)));
}

bool ShardPool::fence(std::uint32_t index, const std::string& why) {
  ShardHandle* handle = process(index);
  // Dead already, which is all a fence wants.
  if (handle == nullptr || process::hasEnded(handle->pidfd())) return true;
  if (seats_[index].killed == handle->pid()) return false;
  kill(index, why);
  return process::killAndWait(handle->pidfd(), patience());
}

void ShardPool::kill(std::uint32_t index, const std::string& why) {
  ShardHandle& handle = *process(index);
  seats_[index].killed = handle.pid();
  const process::LogAbout about({.shard = index});
  log_.add("shard " + std::to_string(index) + " (pid " + std::to_string(handle.pid()) +
           ") is killed: " + why);
  process::sendSignal(handle.pidfd(), SIGKILL);
}

kj::Promise<void> ShardPool::endAll(const std::string& why) {
  std::vector<std::pair<std::uint32_t, pid_t>> dying;
  for (std::uint32_t index = 0; index < size(); index++) {
    ShardHandle* handle = process(index);
    if (handle == nullptr || process::hasEnded(handle->pidfd())) continue;
    if (seats_[index].killed != handle->pid()) kill(index, why);
    dying.emplace_back(index, handle->pid());
  }
  return whenEnded(std::move(dying));
}

// Their successors are not meant, and one that hangs in the kernel must not make us hang as well.
kj::Promise<void> ShardPool::whenEnded(std::vector<std::pair<std::uint32_t, pid_t>> dying) {
  std::erase_if(dying, [this](const auto& shard) { return !lives(shard.first, shard.second); });
  if (dying.empty()) return kj::READY_NOW;
  return io_.provider->getTimer().afterDelay(END_CHECK).then(
      [this, dying = std::move(dying)]() mutable { return whenEnded(std::move(dying)); });
}

void ShardPool::taskFailed(kj::Exception&& exception) {
  spdlog::error("shard pool: {}", exception.getDescription().cStr());
}

}  // namespace faultline::coordinator
