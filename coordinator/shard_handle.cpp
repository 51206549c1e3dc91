#include "coordinator/shard_handle.h"

#include <kj/debug.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include "coordinator/page_suspects.h"
#include "process/build.h"
#include "process/clock.h"
#include "process/duplicate.h"
#include "process/pid_of.h"
#include "rpc/fd.h"
#include "shmtracker/segment.h"

namespace faultline::coordinator {

using process::KeptName;

namespace {

// Bounds of what a shard says of itself, of which every restore is looked up: more than there can be.
constexpr std::size_t MAX_GREETING = 4096;      // bytes
constexpr unsigned MAX_ATTACHED = 2 * 100'000;  // restores; --max-restores takes half as many

// How long a process that cannot be taken over may take to end.
constexpr std::chrono::milliseconds END_PATIENCE{1000};

// A fresh connection, whose other end goes to the shard through its channel.
kj::Own<rpc::Connection> connect(kj::AsyncIoContext& io, process::FdChannel& channel) {
  auto [ours, theirs] = rpc::streamPair();
  KJ_REQUIRE(channel.send("connect", "", theirs.get()), "the shard is gone");
  return kj::heap<rpc::Connection>(*io.lowLevelProvider, kj::mv(ours));
}

process::ChildProcess startShard(const Options& options, std::uint32_t index, bool careful, int channel) {
  std::vector<std::string> arguments = {"--threads",
                                        std::to_string(threadsOf(options)),
                                        "--index",
                                        std::to_string(index),
                                        "--log-level",
                                        options.logLevel,
                                        "--source-patience-ms",
                                        std::to_string(options.sourcePatience.count())};
  if (careful) arguments.insert(arguments.end(), {"--careful", std::to_string(PageSuspects::CAREFUL_FAULTS)});
  if (options.testHooks) arguments.push_back("--test-hooks");
  return process::startProcess(process::siblingExecutable("faultline-shard"), arguments, channel,
                               {.image = options.shardProgram});
}

kj::Promise<void> requestDetach(rpc::Shard::Client& shard, std::uint64_t restore) {
  auto request = shard.detachRequest();
  request.setRestore(restore);
  return request.send().ignoreResult();
}

}  // namespace

std::string shardImage(const Options& options) {
  if (options.shardProgram >= 0) return process::imageOf(options.shardProgram);
  return process::imageOf(process::Build::open(process::ownDirectory()).shard.get());
}

std::uint32_t threadsOf(const Options& options) {
  if (options.threads != 0) return options.threads;
  return std::clamp<std::uint32_t>(std::thread::hardware_concurrency() / options.shards, 1, 4);
}

Options fitting(Options options, const Inheritance& inherited) {
  for (const auto& [name, fd] : inherited.fds) {
    shm::Immutable facts;
    if (!name.is(KeptName::Kind::restore, KeptName::Part::segment)) continue;
    if (pread(fd.get(), &facts, sizeof facts, 0) != sizeof facts) continue;
    if (facts.workersPerShard <= shm::slotsFor(0) ||
        facts.workersPerShard >= shm::slotsFor(threadsOf(options)))
      continue;
    const std::uint32_t threads = facts.workersPerShard - shm::slotsFor(0);
    spdlog::warn("{} workers a shard, not {}: what is kept has room for no more", threads,
                 threadsOf(options));
    options.threads = threads;
  }
  options.threads = threadsOf(options);
  return options;
}

ShardHandle::ShardHandle(kj::AsyncIoContext& io, std::uint32_t index, kj::AutoCloseFd channel,
                         process::ChildProcess process, Origin origin)
    : io_(io),
      index_(index),
      channel_(kj::mv(channel)),
      process_(kj::mv(process)),
      exit_(io.unixEventPort, process_.pidfd.get(), kj::UnixEventPort::FdObserver::OBSERVE_READ),
      ring_(rpc::FaultRing::create()),
      connection_(connect(io, channel_)),
      shard_(connection_->bootstrap().castAs<rpc::Shard>()),
      startedAt_(process::nowNs()),
      origin_(origin) {}

kj::Own<ShardHandle> ShardHandle::start(kj::AsyncIoContext& io, SupervisorLink& link,
                                        failpoints::Failpoints& failpoints, const Options& options,
                                        std::uint32_t index, bool careful) {
  auto [ours, theirs] = process::FdChannel::pair();
  process::ChildProcess process = startShard(options, index, careful, theirs.get());
  failpoints.hit(failpoints::Point::shardStarting);
  auto handle = kj::heap<ShardHandle>(io, index, kj::mv(ours), kj::mv(process), Origin::started);
  handle->keep(link);
  return handle;
}

kj::Own<ShardHandle> ShardHandle::startBeside(kj::AsyncIoContext& io, const Options& options,
                                              std::uint32_t index) {
  auto [ours, theirs] = process::FdChannel::pair();
  process::ChildProcess process = startShard(options, index, false, theirs.get());
  return kj::heap<ShardHandle>(io, index, kj::mv(ours), kj::mv(process), Origin::started);
}

void ShardHandle::keep(SupervisorLink& link) {
  link.store(KeptName::shard(index_, KeptName::Part::pidfd), process_.pidfd.get());
  link.store(KeptName::shard(index_, KeptName::Part::channel), channel_.fd());
}

kj::Maybe<kj::Own<ShardHandle>> ShardHandle::adopt(kj::AsyncIoContext& io, std::uint32_t index,
                                                   kj::AutoCloseFd channel, kj::AutoCloseFd pidfd) {
  if (pidfd.get() < 0 || process::hasEnded(pidfd.get())) return nullptr;
  kj::Maybe<kj::Own<ShardHandle>> handle;
  auto failure = kj::runCatchingExceptions([&] {
    KJ_REQUIRE(channel.get() >= 0, "there is no channel to it");
    const pid_t pid = process::pidOf(pidfd.get());
    handle =
        kj::heap<ShardHandle>(io, index, kj::mv(channel),
                              process::ChildProcess{pid, process::duplicate(pidfd.get())}, Origin::adopted);
  });
  KJ_IF_MAYBE (e, failure) {
    spdlog::warn("shard {} cannot be adopted: {}", index, e->getDescription().cStr());
    // A live shard that is not adopted is killed: Restore::adopt() may initialise the lock, which is unsafe
    // while a shard is in a section.
    KJ_REQUIRE(process::killAndWait(pidfd.get(), END_PATIENCE), "a shard that cannot be adopted does not end",
               index);
    return nullptr;
  }
  return handle;
}

kj::Promise<std::vector<std::uint64_t>> ShardHandle::greet(rpc::ShardEvents::Client events) {
  auto hello = shard_.helloRequest();
  hello.setEvents(kj::mv(events));
  return hello.send().then([this](capnp::Response<rpc::Shard::HelloResults> response) {
    version_ = response.getVersion().cStr();
    image_ = response.getImage().cStr();
    KJ_REQUIRE(
        version_.size() + image_.size() <= MAX_GREETING && response.getRestores().size() <= MAX_ATTACHED,
        "the shard says more of itself than one of ours", response.getRestores().size());
    std::vector<std::uint64_t> restores;
    for (const std::uint64_t id : response.getRestores()) restores.push_back(id);
    auto request = shard_.useRingRequest();
    request.setRing(rpc::makeFdFrom(ring_.memoryFd()));
    request.setDoorbell(rpc::makeFdFrom(ring_.doorbellFd()));
    return request.send().ignoreResult().then(
        [restores = std::move(restores)]() mutable { return std::move(restores); });
  });
}

kj::Promise<void> ShardHandle::attach(std::uint64_t restore, int uffd, int segment, const SourceFiles& source,
                                      const std::vector<SourceLayer>& were) {
  auto found = attached_.find(restore);
  if (found == attached_.end()) {
    auto request = shard_.attachRequest();
    request.setRestore(restore);
    request.setIndex(index_);
    request.setUffd(rpc::makeFdFrom(uffd));
    request.setSegment(rpc::makeFdFrom(segment));
    auto layers = request.initLayers(static_cast<unsigned>(source.size()));
    for (unsigned i = 0; i < layers.size(); i++) {
      layers[i].setFile(rpc::makeFdFrom(source[i].content()));
      if (i < were.size()) layers[i].setName(were[i].name.c_str());
    }
    std::vector<unsigned> fetched;
    for (unsigned i = 0; i < layers.size(); i++)
      if (source[i].fetched != nullptr) fetched.push_back(i);
    auto caches = request.initFetched(static_cast<unsigned>(fetched.size()));
    for (unsigned i = 0; i < caches.size(); i++) {
      const FetchedSource& cache = *source[fetched[i]].fetched;
      caches[i].setLayer(fetched[i]);
      caches[i].setMap(rpc::makeFdFrom(cache.map.get()));
      caches[i].setRing(rpc::makeFdFrom(cache.ring.get()));
    }
    found = attached_.emplace(restore, request.send().ignoreResult().fork()).first;
  }
  return found->second.addBranch();
}

kj::Promise<void> ShardHandle::letGo(std::uint64_t restore) {
  const auto found = attached_.find(restore);
  if (found == attached_.end()) return kj::READY_NOW;
  auto answered = found->second.addBranch();
  attached_.erase(found);
  return answered.catch_([](kj::Exception&&) {}).then([shard = shard_, restore]() mutable {
    return requestDetach(shard, restore);
  });
}

kj::Promise<void> ShardHandle::detach(std::uint64_t restore) {
  return requestDetach(shard_, restore);
}

void ShardHandle::handOver(std::uint64_t restore, std::uint64_t readAt,
                           std::span<const std::uint64_t> pages) {
  if (ring_.push(restore, readAt, pages)) return;
  auto request = shard_.faultsRequest();
  auto batch = request.initBatch();
  batch.setRestore(restore);
  batch.setReadAt(readAt);
  auto list = batch.initPages(static_cast<unsigned>(pages.size()));
  for (unsigned i = 0; i < pages.size(); i++) list.set(i, pages[i]);
  // Lost with the shard, if that dies: its successor's wake brings the faults back.
  request.send().detach([](kj::Exception&&) {});
}

kj::Promise<void> ShardHandle::ended() {
  if (process::hasEnded(process_.pidfd.get())) return kj::READY_NOW;
  return exit_.whenBecomesReadable().then([this] { return ended(); });
}

}  // namespace faultline::coordinator
