#include "coordinator/fetcher.h"

#include <fcntl.h>
#include <kj/debug.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "coordinator/own_thread.h"
#include "process/build.h"
#include "process/clock.h"
#include "process/content_size.h"
#include "process/duplicate.h"
#include "rpc/fd.h"
#include "rpc/fetch_ring.h"
#include "rpc/named_source.h"
#include "rpc/refusal.h"
#include "rpc/source_connector.h"

namespace faultline::coordinator {

using process::KeptName;

namespace {

constexpr std::uint64_t END_PATIENCE = 1'000'000'000;  // ns
constexpr kj::Duration END_CHECK = 200 * kj::MICROSECONDS;
constexpr kj::Duration START_LIMIT = 15 * kj::SECONDS, FIGURES_LIMIT = 200 * kj::MILLISECONDS;
constexpr kj::Duration START_AGAIN = 100 * kj::MILLISECONDS;
constexpr kj::Duration ENGAGE_AGAIN = 1 * kj::SECONDS, ROOM_CHECK = 1 * kj::SECONDS;
constexpr std::uint64_t QUICK_DEATH = 1'000'000'000;  // ns after the start
// A file that cannot be opened while one fetcher after the other dies at it is refused.
constexpr unsigned OPEN_TRIES = 5;
// Doubled each time: a death is seen a moment after the connection is.
constexpr kj::Duration OPEN_AGAIN = 20 * kj::MILLISECONDS;
// Without patience an answer is waited for as long as it may take where nothing is wrong.
constexpr std::chrono::milliseconds NO_PATIENCE{1000};
// From this part of the limit on, caches that are not used make way.
constexpr std::uint64_t FULL_PERCENT = 90;

kj::Duration backOff(unsigned quickDeaths) {
  if (quickDeaths < 2) return 0 * kj::MILLISECONDS;
  return std::min<std::uint64_t>(10ull << std::min(quickDeaths - 2, 10u), 1000) * kj::MILLISECONDS;
}

// The same file with other rights.
kj::AutoCloseFd reopened(int fd, int flags) {
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  int opened;
  KJ_SYSCALL(opened = open(path.c_str(), flags | O_CLOEXEC), path);
  return kj::AutoCloseFd(opened);
}

// A file without a name, so that nothing of it is left when the last process that holds it has ended.
kj::AutoCloseFd unnamedFile(const std::string& directory, std::uint64_t bytes) {
  kj::AutoCloseFd file(open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (file.get() < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) {
    std::string name = directory + "/faultline-cache-XXXXXX";
    file = kj::AutoCloseFd(mkostemp(name.data(), O_CLOEXEC));
    if (file.get() >= 0) unlink(name.c_str());
  }
  if (file.get() < 0 || ftruncate(file.get(), static_cast<off_t>(bytes)) != 0)
    throw std::runtime_error("no file of " + std::to_string(bytes) + " bytes can be made in " + directory +
                             ": " + std::strerror(errno) + "; name another folder (--cache-dir)");
  return file;
}

std::uint64_t takenOnDisk(const FetchedSource& source) {
  struct stat status {};
  return fstat(source.data.get(), &status) == 0 ? static_cast<std::uint64_t>(status.st_blocks) * 512 : 0;
}

// Whoever begins now is better off with another cache.
bool brokenForGood(const FetchedSource& source) {
  return rpc::FetchMap::attach(source.map.get(), rpc::FetchMap::Access::read).broken() !=
         rpc::FetchMap::Broken::no;
}

bool isDisconnect(const kj::Exception& error) {
  return error.getType() == kj::Exception::Type::DISCONNECTED;
}

}  // namespace

struct Fetcher::Process {
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

Fetcher::Fetcher(kj::AsyncIoContext& io, SupervisorLink& link, EventLog& log, const Options& options)
    : io_(io), link_(link), log_(log), options_(options), tasks_(*this) {}

Fetcher::~Fetcher() noexcept(false) = default;

void Fetcher::begin(Inheritance& inherited) {
  former_ = inherited.take(KeptName::fetcher());
  if (former_.get() >= 0) process::sendSignal(former_.get(), SIGKILL);
}

Fetcher::Key Fetcher::keyOf(const FetchedSource& source) {
  return {source.uri.empty() ? source.file : process::FileIdentity(), source.uri};
}

// --- the process ---

// One that was killed writes nothing more, though it may be a long time before it ends: a thread of it may wait for a store
// in the kernel.
kj::Promise<void> Fetcher::formerEnded(std::uint64_t deadline) {
  if (former_.get() < 0 || process::hasEnded(former_.get()) || process::nowNs() >= deadline) {
    former_ = kj::AutoCloseFd();
    return kj::READY_NOW;
  }
  return io_.provider->getTimer().afterDelay(END_CHECK).then(
      [this, deadline] { return formerEnded(deadline); });
}

kj::Promise<void> Fetcher::running() {
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

kj::Promise<void> Fetcher::start() {
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
              engageAll();
            });
      });
}

void Fetcher::watch() {
  tasks_.add(process_->ended().attach(std::shared_ptr<Process>(process_)).then([this, process = process_] {
    const std::string how = process::describeExit(process->child.pidfd.get());  // reaps it
    if (process_ == process) died(how);
  }));
  tasks_.add(pingOn());
}

// One that does not answer holds up all that wait for it.
kj::Promise<void> Fetcher::pingOn() {
  const auto limit = static_cast<std::uint64_t>(options_.watchdog.count()) * kj::MILLISECONDS;
  auto& timer = io_.provider->getTimer();
  return process_->client.helloRequest()
      .send()
      .ignoreResult()
      .exclusiveJoin(timer.afterDelay(limit).then([this, process = process_] {
        if (process_ != process) return;
        process::sendSignal(process->child.pidfd.get(), SIGKILL);
        former_ = process::duplicate(process->child.pidfd.get());
        died("is killed: it has stopped answering");
      }))
      .then([&timer, limit] { return timer.afterDelay(limit / 4); }, [](kj::Exception&&) {})
      .then([this, process = process_]() -> kj::Promise<void> {
        if (process_ != process) return kj::READY_NOW;
        return pingOn();
      });
}

void Fetcher::died(const std::string& how) {
  log_.add("the fetcher (pid " + std::to_string(process_->child.pid) + ") " + how);
  quickDeaths_ = process::nowNs() - process_->startedAt < QUICK_DEATH ? quickDeaths_ + 1 : 0;
  restarts_++;
  gone();
}

// By one with the rights that a source wants: they cannot be had later. What the one before it was asked is asked of it.
void Fetcher::replace() {
  process::sendSignal(process_->child.pidfd.get(), SIGKILL);
  former_ = process::duplicate(process_->child.pidfd.get());
  gone();
}

void Fetcher::gone() {
  link_.drop(KeptName::fetcher());
  for (const FetchedRef& source : sources_) source->served = nullptr;
  // Calls under way on it may still be failing.
  tasks_.add(kj::evalLater([gone = std::move(process_)] {}));
  process_ = nullptr;
  if (!sources_.empty()) tasks_.add(running());
}

// --- sources ---

void Fetcher::engageAll() {
  for (const FetchedRef& source : sources_)
    if (source->served == nullptr && !source->engaging) tasks_.add(engage(source));
}

kj::Promise<Fetcher::Opened> Fetcher::askToOpen(const FetchedRef& source) {
  rights_.add(source->uri);
  if (process_ != nullptr && process_->rights != rights_) replace();
  return running().then([this, source]() -> kj::Promise<Opened> {
    // Another source may have wanted more, or its fetcher may have died since.
    if (process_ == nullptr || process_->rights != rights_) return askToOpen(source);
    auto request = process_->client.openRequest();
    request.setFile(rpc::makeFdFrom(source->origin.get()));
    request.setName(source->name.c_str());
    if (!source->uri.empty())
      request.setConnector(rpc::makeConnector(io_, source->uri, options_.fetcherProgram));
    return request.send();
  });
}

// Asks the next fetcher where one dies at it: a target that is refused for that has lost its memory.
template <typename Ask>
auto Fetcher::askAgain(Ask ask, unsigned tries) -> decltype(ask()) {
  return kj::evalNow([&] { return ask(); })
      .catch_([this, ask, tries](kj::Exception&& e) mutable -> decltype(ask()) {
        if (!isDisconnect(e) || tries >= OPEN_TRIES) return kj::mv(e);
        return io_.provider->getTimer()
            .afterDelay(OPEN_AGAIN * (1 << tries))
            .then([this, ask, tries]() mutable { return askAgain(std::move(ask), tries + 1); });
      });
}

// Until it is served, or not wanted any more. Questions wait meanwhile, as long as --source-patience lets them.
kj::Promise<void> Fetcher::engage(const FetchedRef& source) {
  source->engaging = true;
  return askToOpen(source)
      .then([this, source](auto response) { return serve(source, response.getSource()); })
      .then(
          [source]() -> kj::Promise<void> {
            source->engaging = false;
            source->whyNot.clear();
            return kj::READY_NOW;
          },
          [this, source](kj::Exception&& e) -> kj::Promise<void> {
            source->engaging = false;
            if (!isDisconnect(e)) {
              const std::string why = rpc::refusalOf(e).message;
              if (std::exchange(source->whyNot, why) != why)
                log_.add(source->name + " cannot be fetched from just now: " + why);
            }
            // It will not be again what it was.
            if (brokenForGood(*source)) return kj::READY_NOW;
            return io_.provider->getTimer()
                .afterDelay(ENGAGE_AGAIN)
                .then([this, weak = std::weak_ptr(source)] {
                  const FetchedRef still = weak.lock();
                  if (still != nullptr && still->served == nullptr && !still->engaging)
                    tasks_.add(engage(still));
                });
          });
}

kj::Promise<void> Fetcher::serve(const FetchedRef& source, rpc::FetchedSource::Client opened) {
  auto request = opened.serveRequest();
  request.setData(rpc::makeFd(reopened(source->data.get(), O_RDWR)));
  request.setMap(rpc::makeFd(reopened(source->map.get(), O_RDWR)));
  request.setRing(rpc::makeFdFrom(source->ring.get()));
  return request.send().ignoreResult().then([this, source, opened, process = process_]() mutable {
    // Its answer may be heard after its death.
    if (process_ != process) kj::throwFatalException(KJ_EXCEPTION(DISCONNECTED, "the fetcher has died"));
    source->served = kj::mv(opened);
    for (const auto& weak : source->wanted)
      if (const WantedRef wanted = weak.lock()) tell(source, wanted);
  });
}

kj::Promise<std::uint64_t> Fetcher::baseOf(const FetchedRef& source) {
  if (source->base != 0) return source->base;
  return askAgain([this, source] {
    return askToOpen(source).then(
        [source](auto response) -> std::uint64_t { return source->base = response.getFacts().getBase(); });
  });
}

kj::Promise<std::uint64_t> Fetcher::fingerprintOf(const FetchedRef& source) {
  return askAgain([this, source] {
    return askToOpen(source).then([](auto response) {
      auto opened = response.getSource();
      return opened.fingerprintRequest().send().then(
          [opened](auto answer) -> std::uint64_t { return answer.getFingerprint(); });
    });
  });
}

kj::Promise<std::uint64_t> Fetcher::fingerprint(std::vector<kj::AutoCloseFd> files, std::uint64_t base) {
  const auto layers = std::make_shared<std::vector<kj::AutoCloseFd>>(std::move(files));
  return askAgain([this, layers, base] {
    return running().then([this, layers, base] {
      if (process_ == nullptr) kj::throwFatalException(KJ_EXCEPTION(DISCONNECTED, "the fetcher has died"));
      auto request = process_->client.fingerprintRequest();
      auto list = request.initLayers(static_cast<unsigned>(layers->size()));
      for (unsigned i = 0; i < list.size(); i++) list.set(i, rpc::makeFdFrom((*layers)[i].get()));
      request.setBase(base);
      return request.send().then([](auto response) -> std::uint64_t { return response.getFingerprint(); });
    });
  });
}

Fetcher::WantedRef Fetcher::prefetch(const FetchedRef& source, const std::vector<SourceRange>& ranges) {
  auto wanted = std::make_shared<WantedParts>();
  for (const SourceRange& range : ranges) wanted->parts.push_back({range.offset, range.offset + range.size});
  std::erase_if(source->wanted, [](const auto& weak) { return weak.expired(); });
  source->wanted.emplace_back(wanted);
  if (source->served != nullptr) tell(source, wanted);
  return wanted;
}

void Fetcher::tell(const FetchedRef& source, const WantedRef& wanted) {
  KJ_IF_MAYBE (served, source->served) {
    auto request = served->prefetchRequest();
    auto list = request.initRanges(static_cast<unsigned>(wanted->parts.size()));
    for (unsigned i = 0; i < list.size(); i++) {
      list[i].setBegin(wanted->parts[i].begin);
      list[i].setEnd(wanted->parts[i].end);
    }
    // One that dies is followed by one that is told as well.
    wanted->at = request.send().getPrefetch();
  }
}

void Fetcher::hurry() {
  hurries_ = true;
  if (process_ == nullptr) return;
  process_->client.fetchAtMostRequest().send().detach([](kj::Exception&&) {});
}

kj::Promise<FetchedRef> Fetcher::open(kj::AutoCloseFd file, std::string name) {
  auto source = std::make_shared<FetchedSource>();
  source->name = std::move(name);
  source->file = process::identityOf(file.get());
  try {
    source->uri = rpc::uriOf(file.get()).value_or("");
  } catch (const rpc::BadUri& error) {
    rpc::refuse(rpc::Reason::BAD_INPUT, error.what());
  }
  source->origin = kj::mv(file);
  const Key key = keyOf(*source);
  if (source->uri.empty())
    for (const FetchedRef& known : sources_) {
      if (keyOf(*known) != key || brokenForGood(*known)) continue;
      known->lastUsed = process::nowNs();
      return known;
    }
  for (auto& [key_, opening] : opening_)
    if (key_ == key) return opening.addBranch();
  const auto over = [this, key] {
    tasks_.add(kj::evalLater(
        [this, key] { std::erase_if(opening_, [&](const auto& one) { return one.first == key; }); }));
  };
  auto opening = askAgain([this, source] { return openAnew(source); })
                     .then(
                         [over](FetchedRef opened) {
                           over();
                           return opened;
                         },
                         [over](kj::Exception&& e) -> FetchedRef {
                           over();
                           kj::throwFatalException(kj::mv(e));
                         })
                     .fork();
  auto branch = opening.addBranch();
  opening_.emplace_back(key, kj::mv(opening));
  return branch;
}

kj::Promise<FetchedRef> Fetcher::openAnew(const FetchedRef& source) {
  makeRoom();
  return askToOpen(source).then([this, source](auto response) -> kj::Promise<FetchedRef> {
    auto facts = response.getFacts();
    source->facts = {facts.getBytes(), facts.getIdentity(), facts.getDifferential()};
    source->base = facts.getBase();
    if (FetchedRef known = alike(*source)) {
      known->lastUsed = process::nowNs();
      return known;
    }
    return makeCache(source, response.getSource());
  });
}

// The cache of a server's export that has shown the same content.
FetchedRef Fetcher::alike(const FetchedSource& source) const {
  for (const FetchedRef& known : sources_)
    if (!source.uri.empty() && known->uri == source.uri && known->facts == source.facts &&
        !brokenForGood(*known))
      return known;
  return nullptr;
}

kj::Promise<FetchedRef> Fetcher::makeCache(const FetchedRef& source, rpc::FetchedSource::Client opened) {
  auto made = std::make_shared<std::vector<kj::AutoCloseFd>>();
  auto making = inOwnThread(
      "a cache cannot be made", [made, facts = source->facts, directory = options_.cacheDirectory] {
        const kj::AutoCloseFd data = unnamedFile(directory, facts.bytes), map = rpc::FetchMap::create(facts);
        made->push_back(reopened(data.get(), O_RDONLY));
        made->push_back(reopened(map.get(), O_RDONLY));
        made->push_back(rpc::FetchRing::create());
      });
  return making
      .then([this, source, made, opened = kj::mv(opened)]() mutable {
        source->data = kj::mv((*made)[0]);
        source->map = kj::mv((*made)[1]);
        source->ring = kj::mv((*made)[2]);
        return serve(source, opened);
      })
      .then([this, source] {
        source->lastUsed = process::nowNs();
        sources_.push_back(source);
        if (!std::exchange(makingRoom_, true)) tasks_.add(makeRoomOn());
        // Its fetcher may have died meanwhile.
        if (process_ == nullptr) source->served = nullptr;
        engageAll();
        return source;
      });
}

FetchedRef Fetcher::adopt(kj::AutoCloseFd origin, const std::string& name, kj::AutoCloseFd data,
                          kj::AutoCloseFd map, kj::AutoCloseFd ring) {
  for (const FetchedRef& source : sources_)
    if (process::sameFile(source->map.get(), map.get())) return source;
  auto source = std::make_shared<FetchedSource>();
  source->facts = rpc::FetchMap::attach(map.get(), rpc::FetchMap::Access::read).facts();
  KJ_REQUIRE(process::contentBytes(data.get()) == source->facts.bytes, "a cache's data and map do not fit",
             name);
  rpc::FetchRing::attach(ring.get());
  source->name = name;
  source->file = process::identityOf(origin.get());
  source->uri = rpc::uriOf(origin.get()).value_or("");
  rights_.add(source->uri);
  source->origin = kj::mv(origin);
  source->data = kj::mv(data);
  source->map = kj::mv(map);
  source->ring = kj::mv(ring);
  source->lastUsed = process::nowNs();
  sources_.push_back(source);
  if (!std::exchange(makingRoom_, true)) tasks_.add(makeRoomOn());
  tasks_.add(engage(source));
  return source;
}

// --- room ---

// Caches go whole, and only those that no restore uses: the one used longest ago first.
void Fetcher::makeRoom() {
  std::uint64_t taken = 0;
  for (const FetchedRef& source : sources_) taken += takenOnDisk(*source);
  std::vector<FetchedRef> spare;
  for (const FetchedRef& source : sources_)
    if (source.use_count() == 1) spare.push_back(source);
  std::sort(spare.begin(), spare.end(),
            [](const auto& a, const auto& b) { return a->lastUsed < b->lastUsed; });
  for (const FetchedRef& source : spare) {
    if (taken <= options_.cacheLimit / 100 * FULL_PERCENT) return;
    taken -= takenOnDisk(*source);
    evicted_++;
    std::erase(sources_, source);
  }
}

kj::Promise<void> Fetcher::makeRoomOn() {
  return io_.provider->getTimer().afterDelay(ROOM_CHECK).then([this]() -> kj::Promise<void> {
    makeRoom();
    if (!sources_.empty()) return makeRoomOn();
    makingRoom_ = false;
    return kj::READY_NOW;
  });
}

// --- figures ---

kj::Promise<void> Fetcher::fill(rpc::FetcherInfo::Builder to) {
  to.setRestarts(restarts_);
  to.setCacheLimit(options_.cacheLimit);
  to.setEvicted(evicted_);
  to.setFetchRate(options_.fetchRate);
  if (process_ == nullptr) return kj::READY_NOW;
  to.setPid(static_cast<std::uint32_t>(process_->child.pid));
  auto asked = process_->client.statsRequest().send().then([to](auto response) mutable {
    auto stats = response.getStats();
    to.setEngines(stats.getEngines());
    to.setHits(stats.getHits());
    to.setMisses(stats.getMisses());
    to.setNotKept(stats.getNotKept());
    to.setCachedBytes(stats.getCachedBytes());
  });
  return asked.exclusiveJoin(io_.provider->getTimer().afterDelay(FIGURES_LIMIT)).catch_([](kj::Exception&&) {
  });
}

void Fetcher::taskFailed(kj::Exception&& exception) {
  if (isDisconnect(exception)) return;
  log_.add(std::string("the fetcher: ") + exception.getDescription().cStr());
  // Restores wait for it.
  tasks_.add(io_.provider->getTimer().afterDelay(START_AGAIN).then([this]() -> kj::Promise<void> {
    if (sources_.empty() || process_ != nullptr) return kj::READY_NOW;
    return running();
  }));
}

}  // namespace faultline::coordinator
