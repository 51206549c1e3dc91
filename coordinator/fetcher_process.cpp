#include "coordinator/fetcher_process.h"

#include <kj/debug.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "process/build.h"
#include "process/clock.h"
#include "process/duplicate.h"
#include "process/process.h"
#include "rpc/connection.h"

namespace faultline::coordinator {

using process::KeptName;

namespace {

constexpr std::uint64_t END_PATIENCE = 1'000'000'000;  // ns
constexpr kj::Duration END_CHECK = 200 * kj::MICROSECONDS;
constexpr kj::Duration START_LIMIT = 15 * kj::SECONDS;
constexpr kj::Duration START_AGAIN = 100 * kj::MILLISECONDS;
constexpr std::uint64_t QUICK_DEATH = 1'000'000'000;  // ns after the start
// Without patience an answer is waited for as long as it may take where nothing is wrong.
constexpr std::chrono::milliseconds NO_PATIENCE{1000};

kj::Duration backOff(unsigned quickDeaths) {
  if (quickDeaths < 2) return 0 * kj::MILLISECONDS;
  return std::min<std::uint64_t>(10ull << std::min(quickDeaths - 2, 10u), 1000) * kj::MILLISECONDS;
}

}  // namespace

struct FetcherProcess::Process {
  Process(kj::AsyncIoContext& io, process::ChildProcess c, kj::AutoCloseFd socket, rpc::FetcherRights has)
      : rights(std::move(has)),
        child(kj::mv(c)),
        exit(io.unixEventPort, child.pidfd.get(), kj::UnixEventPort::FdObserver::OBSERVE_READ),
        connection(*io.lowLevelProvider, kj::mv(socket)),
        client(connection.bootstrap().castAs<rpc::Fetcher>()) {}

  kj::Promise<void> ended() {
    if (process::hasEnded(child.pidfd.get())) return kj::READY_NOW;
    return exit.whenBecomesReadable().then([this] { return ended(); });
  }

  const rpc::FetcherRights rights;
  process::ChildProcess child;
  kj::UnixEventPort::FdObserver exit;
  rpc::Connection connection;
  rpc::Fetcher::Client client;
  const std::uint64_t startedAt = process::nowNs();
};

FetcherProcess::FetcherProcess(kj::AsyncIoContext& io, SupervisorLink& link, EventLog& log,
                               const Options& options, Owner& owner)
    : io_(io), link_(link), log_(log), options_(options), owner_(owner), tasks_(*this) {}

FetcherProcess::~FetcherProcess() noexcept(false) = default;

void FetcherProcess::begin(Inheritance& inherited) {
  former_ = inherited.take(KeptName::fetcher());
  if (former_.get() >= 0) process::sendSignal(former_.get(), SIGKILL);
}

// Rights cannot be had later, so it is replaced; what the one before it was asked is asked of the next.
void FetcherProcess::want(const std::string& uri) {
  rights_.add(uri);
  if (process_ == nullptr || process_->rights == rights_) return;
  kill();
  gone(true);
}

bool FetcherProcess::hasRights() const {
  return process_ != nullptr && process_->rights == rights_;
}

rpc::Fetcher::Client FetcherProcess::client() const {
  KJ_REQUIRE(process_ != nullptr, "no fetcher answers");
  return process_->client;
}

std::uint32_t FetcherProcess::pid() const {
  return process_ == nullptr ? 0 : static_cast<std::uint32_t>(process_->child.pid);
}

void FetcherProcess::hurry() {
  hurries_ = true;
  if (process_ == nullptr) return;
  process_->client.fetchAtMostRequest().send().detach([](kj::Exception&&) {});
}

// A fetcher that was killed writes nothing more, though it may be a long time before it ends: a thread of it may wait for a
// store in the kernel.
kj::Promise<void> FetcherProcess::formerEnded(std::uint64_t deadline) {
  if (former_.get() < 0 || process::hasEnded(former_.get()) || process::nowNs() >= deadline) {
    former_ = kj::AutoCloseFd();
    return kj::READY_NOW;
  }
  return io_.provider->getTimer().afterDelay(END_CHECK).then(
      [this, deadline] { return formerEnded(deadline); });
}

kj::Promise<void> FetcherProcess::running() {
  if (process_ != nullptr) return kj::READY_NOW;
  KJ_IF_MAYBE (starting, starting_) {
    return starting->addBranch();
  }
  // Not from within its own promise.
  const auto over = [this] { tasks_.add(kj::evalLater([this] { starting_ = nullptr; })); };
  auto fork = start()
                  .then([over] { over(); },
                        [this, over](kj::Exception&& e) {
                          over();
                          quickDeaths_++;
                          kj::throwFatalException(kj::mv(e));
                        })
                  .fork();
  auto branch = fork.addBranch();
  starting_ = kj::mv(fork);
  return branch;
}

kj::Promise<void> FetcherProcess::start() {
  auto& timer = io_.provider->getTimer();
  return formerEnded(process::nowNs() + END_PATIENCE)
      .then([this, &timer] { return timer.afterDelay(backOff(quickDeaths_)); })
      .then([this, &timer] {
        auto [ours, theirs] = rpc::streamPair();
        std::vector<std::string> arguments = {
            "--cache-limit",
            std::to_string(options_.cacheLimit),
            "--patience-ms",
            std::to_string(options_.sourcePatience.count() == 0 ? NO_PATIENCE.count()
                                                                : options_.sourcePatience.count()),
            "--fetch-rate",
            std::to_string(hurries_ ? 0 : options_.fetchRate),
            "--log-level",
            options_.logLevel};
        for (std::string& argument : rights_.arguments()) arguments.push_back(std::move(argument));
        auto fresh = std::make_shared<Process>(
            io_,
            process::startProcess(process::siblingExecutable("faultline-fetcher"), arguments, theirs.get(),
                                  {.image = options_.fetcherProgram}),
            kj::mv(ours), rights_);
        link_.store(KeptName::fetcher(), fresh->child.pidfd.get());
        Process& started = *fresh;
        return started.client.helloRequest()
            .send()
            .then([](auto hello) {
              KJ_REQUIRE(hello.getProtocol() == process::PROTOCOL,
                         "faultline-fetcher is of another build: upgrade the service, or restart it");
            })
            .exclusiveJoin(timer.afterDelay(START_LIMIT).then([] {
              KJ_FAIL_REQUIRE("faultline-fetcher does not answer");
            }))
            .then([this, fresh] {
              process_ = fresh;
              watch();
              owner_.fetcherStarted();
            });
      });
}

void FetcherProcess::watch() {
  tasks_.add(process_->ended().attach(std::shared_ptr<Process>(process_)).then([this, process = process_] {
    const process::Exit exit = process::exitOf(process->child.pidfd.get());  // reaps it
    if (process_ == process) died(exit.text, exit.signal == SIGKILL);
  }));
  tasks_.add(pingOn());
}

// A fetcher that does not answer holds up all that wait for it.
kj::Promise<void> FetcherProcess::pingOn() {
  const auto limit = static_cast<std::uint64_t>(options_.watchdog.count()) * kj::MILLISECONDS;
  auto& timer = io_.provider->getTimer();
  return process_->client.helloRequest()
      .send()
      .ignoreResult()
      .exclusiveJoin(timer.afterDelay(limit).then([this, process = process_] {
        if (process_ != process) return;
        kill();
        died("is killed: it has stopped answering", true);
      }))
      .then([&timer, limit] { return timer.afterDelay(limit / 4); }, [](kj::Exception&&) {})
      .then([this, process = process_]() -> kj::Promise<void> {
        if (process_ != process) return kj::READY_NOW;
        return pingOn();
      });
}

void FetcherProcess::died(const std::string& how, bool killed) {
  log_.add("the fetcher (pid " + std::to_string(process_->child.pid) + ") " + how);
  quickDeaths_ = process::nowNs() - process_->startedAt < QUICK_DEATH ? quickDeaths_ + 1 : 0;
  restarts_++;
  gone(killed);
}

void FetcherProcess::kill() {
  process::sendSignal(process_->child.pidfd.get(), SIGKILL);
  former_ = process::duplicate(process_->child.pidfd.get());
}

void FetcherProcess::gone(bool killed) {
  link_.drop(KeptName::fetcher());
  owner_.fetcherGone(killed);
  // Calls under way on it may still be failing.
  tasks_.add(kj::evalLater([gone = std::move(process_)] {}));
  process_ = nullptr;
  generation_++;
  if (owner_.wantsFetcher()) tasks_.add(running());
}

void FetcherProcess::failed(const kj::Exception& exception) {
  if (exception.getType() == kj::Exception::Type::DISCONNECTED) return;
  log_.add(std::string("the fetcher: ") + exception.getDescription().cStr());
  // Restores wait for it.
  tasks_.add(io_.provider->getTimer().afterDelay(START_AGAIN).then([this]() -> kj::Promise<void> {
    if (!owner_.wantsFetcher() || process_ != nullptr) return kj::READY_NOW;
    return running();
  }));
}

}  // namespace faultline::coordinator
