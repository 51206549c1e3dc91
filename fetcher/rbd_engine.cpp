#include "fetcher/rbd_engine.h"

#include <spdlog/spdlog.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "fetcher/rbd_session.h"
#include "fetcher/sampled_fingerprint.h"
#include "process/clock.h"
#include "threads/mutex.h"

namespace faultline::fetcher {

using process::nowNs;

namespace {

constexpr std::uint64_t SECOND = 1'000'000'000;  // ns
constexpr std::uint64_t OPEN_LIMIT = 10 * SECOND, AGAIN = SECOND;
// Between looks at whether the snapshot is there still, while it is read: who removes its protection may remove it as well, and
// what is read then may be anything.
constexpr std::uint64_t LOOK = 5 * SECOND;

}  // namespace

class RbdEngine::State : public std::enable_shared_from_this<State> {
 public:
  State(const rpc::RbdUri& uri, std::uint64_t patience, EngineCounters& counters)
      : uri_(uri), patience_(patience), counters_(counters) {
    const threads::Lock lock(mutex_);
    session_ = RbdSession::open(uri_, patience_, nowNs() + OPEN_LIMIT);
    identity_ = session_->identity();
    looked_ = nowNs();
  }

  Facts facts() const {
    const std::string all = identity_.fsid + "\n" + std::to_string(identity_.pool) + "\n" + identity_.image +
                            "\n" + std::to_string(identity_.snapshot) + "\n" +
                            std::to_string(identity_.bytes);
    return {identity_.bytes, XXH64(all.data(), all.size(), 0), false};
  }

  void zeros(const std::function<void(Range)>& use) {
    const auto session = current();
    if (session == nullptr || !session->zeros(use))
      spdlog::warn("{} does not tell all of its zeros: they are fetched", uri_.text);
  }

  int read(std::uint64_t offset, std::span<std::byte> to) {
    const std::uint64_t end = nowNs() + patience_;
    while (!changed_) {
      const auto session = current();
      const int error = session == nullptr ? ENOTCONN : session->read(offset, to, end);
      if (error == 0) {
        lookNowAndThen();
        if (troubled_ && troubled_.exchange(false)) spdlog::info("{} is read again", uri_.text);
        return changed_ ? ESTALE : 0;
      }
      // A client that the cluster has shut out stays so.
      if (error == ESHUTDOWN || error == ENOTCONN) {
        if (!troubled_.exchange(true))
          spdlog::warn("{}: the cluster has shut us out; beginning anew", uri_.text);
        renew(session, end);
        if (nowNs() < end) continue;
      }
      if (error == ETIMEDOUT || error == ESHUTDOWN || error == ENOTCONN) {
        shm::count(counters_.givenUp);
        if (!troubled_.exchange(true)) spdlog::warn("{}: the cluster does not answer", uri_.text);
        return changed_ ? ESTALE : ENOTCONN;
      }
      spdlog::warn("{} at offset {}: {}", uri_.text, offset, std::strerror(error));
      if (error == ENOENT) looked_ = 0;  // the snapshot may be gone
      lookNowAndThen();
      return error;
    }
    return ESTALE;
  }

  void end() {
    const threads::Lock lock(mutex_);
    ended_ = true;
    RbdSession::discard(std::exchange(session_, nullptr));
  }

 private:
  std::shared_ptr<const RbdSession> current() {
    const threads::Lock lock(mutex_);
    return session_;
  }

  // Opens it anew, unless another thread has done so meanwhile. Returns when there is something to go on with, or at `end`.
  void renew(const std::shared_ptr<const RbdSession>& lost, std::uint64_t end) {
    const threads::Lock lock(mutex_);
    while (session_ == lost && !ended_ && !changed_ && nowNs() < end) {
      if (opening_) {
        opened_.waitUntil(mutex_, std::chrono::steady_clock::time_point(std::chrono::nanoseconds(end)));
        continue;
      }
      opening_ = true;
      std::shared_ptr<const RbdSession> fresh;
      mutex_.unlock();
      try {
        fresh = RbdSession::open(uri_, patience_, std::min(end, nowNs() + OPEN_LIMIT));
      } catch (const std::exception& error) {
        spdlog::debug("{}: {}", uri_.text, error.what());
      }
      mutex_.lock();
      if (fresh != nullptr && fresh->identity() != identity_) {
        change("is another snapshot than it was");
      } else if (fresh != nullptr && !ended_) {
        RbdSession::discard(std::exchange(session_, std::move(fresh)));
        shm::count(counters_.reconnects);
      } else {
        opened_.waitUntil(mutex_, std::chrono::steady_clock::time_point(
                                      std::chrono::nanoseconds(std::min(end, nowNs() + AGAIN))));
      }
      opening_ = false;
      opened_.notifyAll();
    }
  }

  // In a thread of its own: nothing waits for it.
  void lookNowAndThen() {
    std::uint64_t before = looked_;
    const std::uint64_t now = nowNs();
    if (now < before + LOOK || !looked_.compare_exchange_strong(before, now)) return;
    const auto session = current();
    if (session == nullptr) return;
    try {
      std::thread([self = shared_from_this(), session] {
        try {
          if (!session->stillThere()) self->change("was removed, or is not protected any more");
        } catch (const std::exception& error) {
          spdlog::debug("{}: {}", self->uri_.text, error.what());
        }
      }).detach();
    } catch (const std::system_error& error) {
      spdlog::warn("{}: no thread can be made to look at it: {}", uri_.text, error.what());
    }
  }

  void change(const char* what) {
    if (!changed_.exchange(true)) spdlog::error("{} {}", uri_.text, what);
  }

  const rpc::RbdUri uri_;
  const std::uint64_t patience_;
  EngineCounters& counters_;
  RbdSession::Identity identity_;  // the identity found at first
  std::atomic<bool> changed_{false}, troubled_{false};
  std::atomic<std::uint64_t> looked_{0};
  threads::Mutex mutex_;
  threads::Condition opened_;
  std::shared_ptr<const RbdSession> session_ GUARDED_BY(mutex_);
  bool opening_ GUARDED_BY(mutex_) = false, ended_ GUARDED_BY(mutex_) = false;
};

RbdEngine::RbdEngine(const rpc::RbdUri& uri, std::uint64_t patience, EngineCounters& counters) try
    : state_(std::make_shared<State>(uri, patience, counters)) {
} catch (const std::exception& error) {
  throw std::runtime_error("source " + uri.text + " cannot be used: " + error.what());
}

RbdEngine::~RbdEngine() {
  state_->end();
}

Engine::Facts RbdEngine::facts() const {
  return state_->facts();
}

std::uint64_t RbdEngine::fingerprint() const {
  return sampledFingerprint(state_->facts().bytes, 16, [this](std::uint64_t offset, std::span<std::byte> to) {
    return state_->read(offset, to);
  });
}

void RbdEngine::forEachKnown(const std::function<void(Range, Known)>& use) const {
  state_->zeros([&](Range zero) { use(zero, Known::zero); });
}

int RbdEngine::read(Range unit, std::span<std::byte> to) const {
  return state_->read(unit.begin, to);
}

}  // namespace faultline::fetcher
