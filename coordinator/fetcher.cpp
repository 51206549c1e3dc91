#include "coordinator/fetcher.h"

#include <fcntl.h>
#include <kj/debug.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "coordinator/own_thread.h"
#include "process/clock.h"
#include "process/content_size.h"
#include "rpc/fd.h"
#include "rpc/fetch_ring.h"
#include "rpc/named_source.h"
#include "rpc/refusal.h"

namespace faultline::coordinator {

namespace {

constexpr kj::Duration FIGURES_LIMIT = 200 * kj::MILLISECONDS;
constexpr kj::Duration ENGAGE_AGAIN = 1 * kj::SECONDS, ROOM_CHECK = 1 * kj::SECONDS;
// A file that cannot be opened while one fetcher after the other dies at it is refused.
constexpr unsigned OPEN_TRIES = 5;
// Doubled each time: a death is seen a moment after the connection is.
constexpr kj::Duration OPEN_AGAIN = 20 * kj::MILLISECONDS;
// From this part of the limit on, caches that are not used make way.
constexpr std::uint64_t FULL_PERCENT = 90;
// A loss of a source's connection is not told for so long after another was.
constexpr std::uint64_t LOSS_AGAIN = 10'000'000'000;  // ns

// Opens the file of `fd` anew, with other rights.
kj::AutoCloseFd reopened(int fd, int flags) {
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  int opened;
  KJ_SYSCALL(opened = open(path.c_str(), flags | O_CLOEXEC), path);
  return kj::AutoCloseFd(opened);
}

// A file without a name, which can be given none, so that nothing of it is left when the last process that holds it has ended.
kj::AutoCloseFd unnamedFile(const std::string& directory, std::uint64_t bytes) {
  kj::AutoCloseFd file(open(directory.c_str(), O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC, 0600));
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

// Whether the cache is broken for good: a restore that begins now is better off with another.
bool brokenForGood(const FetchedSource& source) {
  return rpc::FetchMap::attach(source.map.get(), rpc::FetchMap::Access::read).broken() !=
         rpc::FetchMap::Broken::no;
}

bool isDisconnect(const kj::Exception& error) {
  return error.getType() == kj::Exception::Type::DISCONNECTED;
}

}  // namespace

Fetcher::Fetcher(kj::AsyncIoContext& io, SupervisorLink& link, EventLog& log, const Options& options)
    : io_(io), log_(log), options_(options), process_(io, link, log, options, *this), tasks_(*this) {}

Fetcher::~Fetcher() noexcept(false) = default;

Fetcher::Key Fetcher::keyOf(const FetchedSource& source) {
  return {source.uri.empty() ? source.file : process::FileIdentity(), source.uri};
}

// --- sources ---

void Fetcher::fetcherGone(bool killed) {
  for (const FetchedRef& source : sources_) {
    source->served = nullptr;
    if (std::exchange(source->asked, false)) source->formerKilled = killed;
  }
}

void Fetcher::engageAll() {
  for (const FetchedRef& source : sources_)
    if (source->served == nullptr && !source->engaging) tasks_.add(engage(source));
}

kj::Promise<Fetcher::Opened> Fetcher::askToOpen(const FetchedRef& source) {
  process_.want(source->uri);
  return process_.running().then([this, source]() -> kj::Promise<Opened> {
    // Another source may have wanted more, or its fetcher may have died since.
    if (!process_.hasRights()) return askToOpen(source);
    auto request = process_.client().openRequest();
    request.setFile(rpc::makeFdFrom(source->origin.get()));
    request.setName(source->name.c_str());
    if (!source->uri.empty())
      request.setConnector(
          rpc::makeConnector(io_, source->uri, options_.fetcherProgram, newsOf(std::weak_ptr(source))));
    return request.send();
  });
}

// --- connections ---

rpc::ConnectionNews Fetcher::newsOf(const std::weak_ptr<FetchedSource>& source) {
  return {[this, source](const std::string& why) {
            if (const FetchedRef known = source.lock()) connectionLost(*known, why);
          },
          [this, source] {
            if (const FetchedRef known = source.lock()) connectionMade(*known);
          }};
}

// A server that comes and goes does not push out all other events.
void Fetcher::connectionLost(FetchedSource& source, const std::string& why) {
  const std::uint64_t now = process::nowNs();
  if (source.lostAt != 0) return;
  source.lostAt = now;
  source.lossTold = now >= source.nextLoss;
  if (!source.lossTold) return;
  source.nextLoss = now + LOSS_AGAIN;
  log_.add(source.name + ": the connection is lost: " + why);
}

void Fetcher::connectionMade(FetchedSource& source) {
  const std::uint64_t lostAt = std::exchange(source.lostAt, 0);
  if (lostAt == 0 || !source.lossTold) return;
  const std::uint64_t ms = (process::nowNs() - lostAt) / 1'000'000;
  log_.add(source.name + (source.uri.empty() ? ": it can be fetched from" : ": the server is connected to") +
           " again after " + std::to_string(ms) + " ms");
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

// Goes on until the source is served, or not wanted any more. Questions wait meanwhile, as long as --source-patience lets them.
kj::Promise<void> Fetcher::engage(const FetchedRef& source) {
  source->engaging = true;
  return askToOpen(source)
      .then([this, source](auto response) { return serve(source, response.getSource()); })
      .then(
          [this, source]() -> kj::Promise<void> {
            source->engaging = false;
            source->whyNot.clear();
            connectionMade(*source);  // the fetcher that lost it has died since
            return kj::READY_NOW;
          },
          [this, source](kj::Exception&& e) -> kj::Promise<void> {
            source->engaging = false;
            if (!isDisconnect(e)) {
              const std::string why = rpc::refusalOf(e).message;
              if (std::exchange(source->whyNot, why) != why) {
                log_.add(source->name + " cannot be fetched from just now: " + why);
                if (source->lostAt == 0) source->lostAt = process::nowNs();
                source->lossTold = true;
              }
            }
            // A cache that is broken will not be again what it was.
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
  request.setFormerKilled(source->formerKilled);
  source->asked = true;
  return request.send().ignoreResult().then(
      [this, source, opened, generation = process_.generation()]() mutable {
        // Its answer may be heard after its death.
        if (process_.generation() != generation)
          kj::throwFatalException(KJ_EXCEPTION(DISCONNECTED, "the fetcher has died"));
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
    return process_.running().then([this, layers, base] {
      if (!process_.answers()) kj::throwFatalException(KJ_EXCEPTION(DISCONNECTED, "the fetcher has died"));
      auto request = process_.client().fingerprintRequest();
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
    // A fetcher that dies is followed by one that is told as well.
    wanted->at = request.send().getPrefetch();
  }
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
        keep(source);
        // Its fetcher may have died meanwhile.
        if (!process_.answers()) source->served = nullptr;
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
  process_.wantLater(source->uri);
  source->origin = kj::mv(origin);
  source->data = kj::mv(data);
  source->map = kj::mv(map);
  source->ring = kj::mv(ring);
  keep(source);
  tasks_.add(engage(source));
  return source;
}

void Fetcher::keep(const FetchedRef& source) {
  source->lastUsed = process::nowNs();
  sources_.push_back(source);
  if (!std::exchange(makingRoom_, true)) tasks_.add(makeRoomOn());
}

// --- room ---

// Caches go whole, and only those that no restore uses: the one used longest ago first.
void Fetcher::makeRoom() {
  std::uint64_t taken = 0;
  for (const FetchedRef& source : sources_) taken += process::bytesOnDisk(source->data.get());
  std::vector<FetchedRef> spare;
  for (const FetchedRef& source : sources_)
    if (source.use_count() == 1) spare.push_back(source);
  std::sort(spare.begin(), spare.end(),
            [](const auto& a, const auto& b) { return a->lastUsed < b->lastUsed; });
  for (const FetchedRef& source : spare) {
    if (taken <= options_.cacheLimit / 100 * FULL_PERCENT) return;
    taken -= process::bytesOnDisk(source->data.get());
    evicted_++;
    savedByEvicted_ += rpc::FetchRing::savedBytes(source->ring.get());
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
  to.setRestarts(process_.restarts());
  to.setCacheLimit(options_.cacheLimit);
  to.setEvicted(evicted_);
  to.setFetchRate(options_.fetchRate);
  std::uint64_t saved = savedByEvicted_;
  for (const FetchedRef& source : sources_) saved += rpc::FetchRing::savedBytes(source->ring.get());
  to.setSavedBytes(saved);
  if (!process_.answers()) return kj::READY_NOW;
  to.setPid(process_.pid());
  auto asked = process_.client().statsRequest().send().then([to](auto response) mutable {
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

}  // namespace faultline::coordinator
