#include "coordinator/upgrade.h"

#include <kj/debug.h>

#include <memory>

#include "process/process.h"
#include "rpc/connection.h"
#include "rpc/refusal.h"

namespace faultline::coordinator {

namespace {

constexpr kj::Duration ANSWER_LIMIT = 5 * kj::SECONDS;
constexpr std::chrono::milliseconds KILL_PATIENCE{5000};
constexpr std::uint64_t MAX_ANSWER = 256;  // bytes

// A directory that is no build can never be right.
kj::Own<process::Build> openBuild(const std::string& directory) {
  kj::Own<process::Build> build;
  rpc::because(rpc::Reason::BAD_INPUT,
               [&] { build = kj::heap<process::Build>(process::Build::open(directory)); });
  return build;
}

}  // namespace

Upgrade::Upgrade(kj::AsyncIoContext& io, SupervisorLink& link, EventLog& log, ShardPool& pool,
                 const Options& options, std::string givenUp)
    : io_(io),
      link_(link),
      log_(log),
      pool_(pool),
      options_(options),
      givenUp_(std::move(givenUp)),
      over_(nullptr) {
  auto paf = kj::newPromiseAndFulfiller<void>();
  overFulfiller_ = kj::mv(paf.fulfiller);
  over_ = paf.promise.fork();
}

// --- the build that is to come ---

kj::Promise<process::BuildFacts> Upgrade::ask(std::string path, int image) {
  auto [ours, theirs] = rpc::streamPair();
  auto process = kj::heap<process::ChildProcess>(
      process::startProcess(path, {"--build"}, theirs.get(), {.image = image}));
  theirs = kj::AutoCloseFd();
  auto stream =
      io_.lowLevelProvider->wrapInputFd(ours.release(), kj::LowLevelAsyncIoProvider::TAKE_OWNERSHIP |
                                                            kj::LowLevelAsyncIoProvider::ALREADY_CLOEXEC);
  auto answer = stream->readAllText(MAX_ANSWER).attach(kj::mv(stream));
  auto limited = answer.exclusiveJoin(
      io_.provider->getTimer().afterDelay(ANSWER_LIMIT).then([]() -> kj::String { return nullptr; }));
  auto end = [process = kj::mv(process)] { process::endChild(process->pidfd.get(), KILL_PATIENCE); };
  return limited
      .then([](kj::String text) { return std::string(text.cStr()); },
            [](kj::Exception&&) { return std::string(); })
      .then([path = std::move(path), end = kj::mv(end)](const std::string& text) mutable {
        end();
        const auto facts = process::BuildFacts::parse(text);
        if (!facts.has_value())
          rpc::refuse(rpc::Reason::OTHER_BUILD,
                      "the program does not say which build it is (--build): is it faultline's? " + path);
        return *facts;
      });
}

kj::Promise<process::BuildFacts> Upgrade::checkOpen(const process::Build& build) {
  auto coordinator = ask(build.coordinatorPath(), build.coordinator.get());
  auto shard = ask(build.shardPath(), build.shard.get());
  return coordinator.then([shard = kj::mv(shard)](const process::BuildFacts& next) mutable {
    return shard.then([next](const process::BuildFacts& other) {
      if (other.text() != next.text())
        rpc::refuse(rpc::Reason::OTHER_BUILD, "coordinator and shard there are of different builds: " +
                                                  next.text() + " and " + other.text());
      if (auto why = process::whyNotSuccessor(process::BuildFacts::own(), next))
        rpc::refuse(rpc::Reason::OTHER_BUILD, "refused: " + *why);
      return next;
    });
  });
}

kj::Promise<process::BuildFacts> Upgrade::check(const std::string& directory) {
  auto build = openBuild(directory);
  auto& opened = *build;
  return checkOpen(opened).attach(kj::mv(build));
}

kj::Promise<void> Upgrade::handOver(const std::string& directory) {
  auto build = openBuild(directory);
  auto& opened = *build;
  return checkOpen(opened)
      .then([this, &opened](const process::BuildFacts& next) -> kj::Promise<void> {
        log_.planned("upgrade: build " + next.version + " of " + opened.directory + " takes over from " +
                     process::version());
        // The programs that were checked, whatever is in the directory by now.
        link_.upgrade(opened.directory, opened.coordinator.get(), opened.shard.get(), opened.fetcher.get());
        return kj::NEVER_DONE;
      })
      .attach(kj::mv(build));
}

// --- the shards of the build that has come ---

kj::Promise<void> Upgrade::replaceShards() {
  return replaceFrom(0).then(
      [this] {
        if (replaced_ != 0)
          log_.planned("upgrade: every shard is of build " + std::string(process::version()) + " now, " +
                       std::to_string(replaced_) + " were replaced");
        overFulfiller_->fulfill();
      },
      [this](kj::Exception&& e) {
        givenUp_ = std::string("shards of two builds serve on: ") + e.getDescription().cStr();
        log_.add("upgrade: " + givenUp_);
        overFulfiller_->fulfill();
      });
}

kj::Promise<void> Upgrade::replaceFrom(std::uint32_t index) {
  if (index >= pool_.size()) return kj::READY_NOW;
  ShardHandle* shard = pool_.up(index);
  // A shard that is just being started is of our own build.
  if (shard == nullptr || shard->image() == shardImage(options_)) return replaceFrom(index + 1);
  return pool_.replace(index).then([this, index] {
    replaced_++;
    return replaceFrom(index + 1);
  });
}

kj::Promise<std::uint32_t> Upgrade::whenOver() {
  return over_.addBranch().then([this] {
    if (!givenUp_.empty()) rpc::refuse(rpc::Reason::FAILED, "the upgrade was given up: " + givenUp_);
    return replaced_;
  });
}

}  // namespace faultline::coordinator
