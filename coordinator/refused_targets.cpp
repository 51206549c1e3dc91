#include "coordinator/refused_targets.h"

#include <kj/debug.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "coordinator/departure.h"
#include "coordinator/registered_memory.h"
#include "coordinator/undertaker.h"
#include "process/duplicate.h"
#include "shmtracker/layout.h"
#include "uffd/registration.h"
#include "uffd/uffd.h"

namespace faultline::coordinator {

namespace {
constexpr kj::Duration EVENT_CHECK = 200 * kj::MICROSECONDS;
}

// State that a thread works with: it may go on where the promise is dropped.
struct RefusedTargets::Told {
  Told(kj::AsyncIoContext& io, std::string called, int borrowedUffd, int borrowedTarget)
      : name(std::move(called)),
        uffd(process::duplicate(borrowedUffd)),
        target(process::duplicate(borrowedTarget)),
        // The target is not killed where the kernel cannot poison: nothing of it was ever served.
        undertaker(io, uffd.get(), -1, name) {}

  const std::string name;
  const kj::AutoCloseFd uffd, target;
  // Threads that wait already get their error, and events are read: while one is in flight the kernel does not poison.
  Undertaker undertaker;
};

RefusedTargets::RefusedTargets(kj::AsyncIoContext& io, const Options& options,
                               std::function<bool(int uffd)> served)
    : io_(io), options_(options), served_(std::move(served)), tasks_(*this) {}

kj::Promise<void> RefusedTargets::tell(const std::string& name, int uffd, int target) {
  if (served_(uffd) || has(uffd)) return kj::READY_NOW;
  const auto wait = [name](const std::string& why) {
    spdlog::warn("{}: a refused target waits for its pages: {}", name, why);
  };
  if (told_.size() >= MOST) {
    wait(std::to_string(MOST) + " others are being told that they are refused");
    return kj::READY_NOW;
  }
  const auto told = std::make_shared<Told>(io_, name, uffd, target);
  const auto place = told_.insert(told_.end(), told);
  auto answering = told->undertaker.run().attach(kj::cp(told)).eagerlyEvaluate([wait](kj::Exception&& e) {
    wait(e.getDescription().cStr());
  });
  const auto limit = static_cast<std::uint64_t>(options_.handshakeTimeout.count()) * kj::MILLISECONDS;
  auto over = kj::newPromiseAndFulfiller<void>();
  tasks_.add(depart(told)
                 .catch_([wait](kj::Exception&& e) { wait(e.getDescription().cStr()); })
                 .then([fulfiller = kj::mv(over.fulfiller)]() mutable { fulfiller->fulfill(); })
                 .attach(kj::mv(answering), kj::defer([this, place] { told_.erase(place); })));
  return over.promise.exclusiveJoin(
      io_.provider->getTimer().afterDelay(limit).then([wait] { wait("it holds its memory locked"); }));
}

kj::Promise<void> RefusedTargets::depart(const std::shared_ptr<Told>& told) {
  return lookForRegisteredMemory(told->uffd.get(), told->target.get())
      .then([this, told](std::optional<std::vector<shm::RegionEntry>> found) -> kj::Promise<void> {
        KJ_REQUIRE(found.has_value(), "what it has registered is not told");
        return coordinator::depart({process::duplicate(told->uffd.get()), std::move(*found),
                                    DepartureOrder::Poison::unmapped})
            .then([this, told](const Departed& how) {
              KJ_REQUIRE(!how.unsupported, "this kernel cannot poison pages (Linux 6.6 can)");
              if (how.poisoned > 0)
                spdlog::info("{}: a refused target gets SIGBUS on {} pages", told->name, how.poisoned);
              return leave(told);
            });
      });
}

// A thread that gave memory back as it was being unregistered waits until its event is read.
kj::Promise<void> RefusedTargets::leave(const std::shared_ptr<Told>& told) {
  if (!uffd::eventInFlight(told->uffd.get())) return kj::READY_NOW;
  return io_.provider->getTimer().afterDelay(EVENT_CHECK).then([this, told] { return leave(told); });
}

void RefusedTargets::taskFailed(kj::Exception&& exception) {
  spdlog::error("a refused target: {}", exception.getDescription().cStr());
}

bool RefusedTargets::has(int uffd) const {
  return std::any_of(told_.begin(), told_.end(), [uffd](const std::shared_ptr<Told>& told) {
    return uffd::sameUserfaultfd(uffd, told->uffd.get());
  });
}

}  // namespace faultline::coordinator
