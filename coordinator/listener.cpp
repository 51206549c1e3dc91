#include "coordinator/listener.h"

#include <kj/debug.h>
#include <spdlog/spdlog.h>

#include <utility>

#include "coordinator/door.h"
#include "coordinator/event_log.h"
#include "coordinator/refused_targets.h"
#include "coordinator/replaced_file.h"
#include "coordinator/service_counters.h"
#include "process/duplicate.h"
#include "process/log_about.h"
#include "rpc/source_uri.h"
#include "shmtracker/error.h"

namespace faultline::coordinator {

// A connection whose handshake is under way.
struct Listener::Pending {
  Pending(kj::UnixEventPort& port, process::KeptName name, kj::AutoCloseFd fd)
      : keptAs(std::move(name)),
        connection(kj::mv(fd)),
        observer(port, connection.get(), kj::UnixEventPort::FdObserver::OBSERVE_READ) {}

  process::KeptName keptAs;
  kj::AutoCloseFd connection;
  kj::UnixEventPort::FdObserver observer;
  kj::Maybe<kj::Own<HandshakeReader>> reader;
};

namespace {

rpc::ListenerOrigin originFrom(process::Origin origin) {
  switch (origin) {
    case process::Origin::commandLine:
      return rpc::ListenerOrigin::COMMAND_LINE;
    case process::Origin::configuration:
      return rpc::ListenerOrigin::CONFIGURATION;
    case process::Origin::call:
      return rpc::ListenerOrigin::CALL;
  }
  KJ_UNREACHABLE;
}

// An fd that has the size of the memory; -1: that is not known before a packed image is opened.
int sizeKnown(const SourceFiles& source) {
  const SourceFile& base = source.back();
  return base.packed && base.fetched == nullptr ? -1 : base.content();
}

}  // namespace

ListenerSpec listenerSpecFrom(rpc::ListenSpec::Reader reader, std::vector<std::string> layerNames,
                              const SourceFiles& source) {
  return {reader.getName().cStr(), std::move(layerNames),   policyFrom(reader.getPolicy(), sizeKnown(source)),
          reader.getAnyUser(),     reader.getKeepRefused(), {}};
}

ListenerSpec listenerSpecFrom(rpc::KeptListener::Reader reader, const SourceFiles& source) {
  std::vector<std::string> names;
  for (auto layer : reader.getLayers()) names.emplace_back(layer.cStr());
  if (names.empty()) names.emplace_back(reader.getSourceName().cStr());
  KJ_REQUIRE(source.size() == names.size(), "not all files of the listener's source are there", source.size(),
             names.size());
  ListenerSpec spec = listenerSpecFrom(reader.getSpec(), std::move(names), source);
  spec.place = {reader.getPath().cStr(), reader.getDevice(), reader.getInode()};
  return spec;
}

void fill(rpc::KeptListener::Builder to, const ListenerSpec& spec) {
  auto listen = to.initSpec();
  listen.setName(spec.name.c_str());
  listen.setAnyUser(spec.anyUser);
  listen.setKeepRefused(spec.keepRefused);
  fill(listen.initPolicy(), spec.policy);
  if (!spec.layerNames.empty()) to.setSourceName(spec.layerNames.front().c_str());
  to.setPath(spec.place.path.c_str());
  to.setDevice(spec.place.device);
  to.setInode(spec.place.inode);
  auto layers = to.initLayers(static_cast<unsigned>(spec.layerNames.size()));
  for (unsigned i = 0; i < layers.size(); i++) layers.set(i, spec.layerNames[i].c_str());
}

void Listener::fill(rpc::ListenerInfo::Builder info) const {
  info.setName(spec_.name.c_str());
  info.setOrigin(originFrom(origin_));
  info.setPath(path_.c_str());
  auto layers = info.initLayers(static_cast<unsigned>(spec_.layerNames.size()));
  for (unsigned i = 0; i < layers.size(); i++) layers.set(i, spec_.layerNames[i].c_str());
  coordinator::fill(info.initPolicy(), spec_.policy.flags);
  info.setAnyUser(spec_.anyUser);
  info.setBegun(names_.size());
  info.setRefused(refused_);
  info.setLastRefusal(lastError_.message.c_str());
  info.setLastReason(lastError_.reason);
}

Listener::Listener(RestoreContext& context, process::Origin origin, ListenerSpec spec, SourceFiles source,
                   Begin begin)
    : context_(context),
      origin_(origin),
      spec_(std::move(spec)),
      source_(kj::mv(source)),
      begin_(std::move(begin)),
      tasks_(*this) {
  // Every target's restore has its own; the fetcher keeps what there is for the next.
  for (SourceFile& file : source_) file.fetched = nullptr;
}

void Listener::goOnFor(const Listener& former) {
  names_ = former.names_;
  lastError_ = former.lastError_;
  refused_ = former.refused_;
}

kj::Promise<void> Listener::retire() {
  retired_ = true;
  return tasks_.onEmpty();
}

void Listener::accepted(const process::KeptName& keptAs, kj::AutoCloseFd connection) {
  context_.failpoints.hit(failpoints::Point::handshakeAccepted);
  auto pending = std::make_shared<Pending>(context_.io.unixEventPort, keptAs, kj::mv(connection));
  auto& timer = context_.io.provider->getTimer();
  const auto limit = static_cast<std::uint64_t>(context_.options.handshakeTimeout.count());
  auto late = timer.afterDelay(limit * kj::MILLISECONDS).then([limit] {
    throw HandshakeError("no complete handshake came within " + std::to_string(limit) +
                         " ms: send it as soon as connected, or raise --handshake-timeout-ms");
  });
  tasks_.add(pending_.wrap(handshake(pending).exclusiveJoin(kj::mv(late)))
                 .catch_([this, pending](kj::Exception&& e) {
                   refuse(e);
                   return tell(*pending).then(
                       [this] { context_.failpoints.hit(failpoints::Point::targetRefused); });
                 })
                 .then([this, pending] { context_.link.drop(pending->keptAs); }));
}

kj::Promise<void> Listener::close() {
  pending_.cancel("the listener was closed before its handshake was complete");
  return tasks_.onEmpty();
}

kj::Promise<void> Listener::handshake(const std::shared_ptr<Pending>& pending) {
  return kj::evalNow([&] {
    if (!spec_.anyUser) requireOwnUser(peerOf(pending->connection.get()));
    pending->reader = kj::heap<HandshakeReader>(pending->connection.get());
    return readMore(pending);
  });
}

kj::Promise<void> Listener::readMore(const std::shared_ptr<Pending>& pending) {
  auto& reader = KJ_ASSERT_NONNULL(pending->reader);
  switch (reader->advance()) {
    case HandshakeReader::Progress::complete:
      return lookAtSource().then(
          [this, pending](SourceFiles source) { return complete(pending, kj::mv(source)); });
    case HandshakeReader::Progress::nothingCame:
      // A look whether the socket is served, as by a health probe: there is no target.
      return kj::READY_NOW;
    case HandshakeReader::Progress::needMore:
      break;
  }
  return pending->observer.whenBecomesReadable().then([this, pending] { return readMore(pending); });
}

// A snapshot that is taken anew is often renamed over the one before it, and a target's other state is of the
// file that lies there now. A listener that came by call has no path of ours: its maker's may be another file here.
kj::Promise<SourceFiles> Listener::lookAtSource() {
  if (origin_ == process::Origin::call) return checkedSource();
  auto looking = kj::Vector<kj::Promise<void>>();
  for (std::size_t layer = 0; layer < source_.size(); layer++) looking.add(lookAtLayer(layer));
  return kj::joinPromises(looking.releaseAsArray()).then([this] { return checkedSource(); });
}

// A copy: what another target finds at the paths meanwhile is not what was checked.
kj::Promise<SourceFiles> Listener::checkedSource() const {
  return checkedStack(context_.fetcher, duplicates(source_), spec_.layerNames);
}

kj::Promise<void> Listener::lookAtLayer(std::size_t layer) {
  const std::string& path = spec_.layerNames[layer];
  if (rpc::SourceUri::isMeant(path)) return kj::READY_NOW;  // asked as it is opened
  auto looked = whatIsAt(path, process::duplicate(source_[layer].get()));
  return looked.then([this, layer, path](const std::shared_ptr<FileNow>& now) {
    switch (now->what) {
      case FileNow::What::same:
        return;
      case FileNow::What::replaced:
        return replaceLayer(layer, kj::mv(now->fd));
      case FileNow::What::gone:
        if (goneTold_.insert(layer).second)
          context_.log.add("listener " + spec_.name + ": memory file " + path +
                           " is not there any more: targets get the one that was");
        return;
      case FileNow::What::unreadable:
        throw HandshakeError("memory file " + path + " was replaced, and cannot be used: " + now->why);
    }
  });
}

void Listener::replaceLayer(std::size_t layer, kj::AutoCloseFd file) {
  source_[layer].file = kj::mv(file);
  if (retired_) return;  // the kept fds are its successor's
  store(context_.link, process::KeptName::listenerSpec(spec_.name, origin_), source_);
  goneTold_.erase(layer);
  std::string more;
  if (!spec_.policy.workingSet.ranges.empty())
    more = "; the working set is of the one before, and is not used";
  spec_.policy.workingSet = {};
  context_.log.planned("listener " + spec_.name + ": memory file " + spec_.layerNames[layer] +
                       " was replaced: targets that come from now on get the new one" + more);
}

kj::Promise<void> Listener::complete(const std::shared_ptr<Pending>& pending, SourceFiles source) {
  Handshake handshake = KJ_ASSERT_NONNULL(pending->reader)->take();
  context_.failpoints.hit(failpoints::Point::handshakeRead);
  RestoreSpec spec;
  spec.name = spec_.name;
  spec.layerNames = spec_.layerNames;
  spec.regions = std::move(handshake.regions);
  spec.uffdFeatures = handshake.features;
  spec.policy = spec_.policy;
  spec.watchSocket = handshake.socketOutlivesHandshake;
  RestoreFds fds{kj::mv(handshake.uffd), kj::mv(source), process::duplicate(pending->connection.get()),
                 kj::AutoCloseFd()};
  spec.requireServable(fds.source.back().content());
  auto looked = whyNotRegistered(fds.uffd.get(), spec.regions, peerOf(pending->connection.get()).pid);
  return looked.then(
      [this, pending, spec = std::move(spec), fds = kj::mv(fds)](std::optional<std::string> why) mutable {
        if (why.has_value()) throw HandshakeError(*why);
        Peer peer = peerOf(pending->connection.get());
        spec.targetPid = static_cast<std::uint32_t>(peer.pid);
        fds.target = kj::mv(peer.pidfd);
        auto prepared = begin_.prepare(std::move(spec), fds.source.back().content());
        return prepared.then([this, pending, fds = kj::mv(fds)](PreparedRestore prepared) mutable {
          begin(*pending, std::move(prepared), kj::mv(fds));
        });
      });
}

void Listener::begin(Pending& pending, PreparedRestore prepared, RestoreFds fds) {
  names_.push_back(begin_.begin(std::move(prepared), kj::mv(fds)));
  KJ_ASSERT_NONNULL(pending.reader)->consume();
  for (auto& waiter : waiters_) waiter->fulfill();
  waiters_.clear();
}

kj::Promise<void> Listener::whenMoreThan(std::size_t seen) {
  if (names_.size() > seen) return kj::READY_NOW;
  auto paf = kj::newPromiseAndFulfiller<void>();
  waiters_.push_back(kj::mv(paf.fulfiller));
  // A target wakes all that wait, also those that wait for a later one.
  return paf.promise.then([this, seen] { return whenMoreThan(seen); });
}

void Listener::refuse(const kj::Exception& why) {
  refused_++;
  shm::count(context_.totals.targetsRefused);
  lastError_ = rpc::refusalOf(rpc::because(rpc::Reason::BAD_TARGET, kj::cp(why)));
  const process::LogAbout about({.restore = spec_.name, .messageId = process::message::TARGET_REFUSED});
  spdlog::warn("listener {}: a target is refused: {}", spec_.name, lastError_.message);
}

// A handshake that did not come as far as its userfaultfd has no memory to speak of.
kj::Promise<void> Listener::tell(Pending& refused) {
  const std::string name = "listener " + spec_.name;
  return kj::evalNow([&]() -> kj::Promise<void> {
           KJ_IF_MAYBE (reader, refused.reader)
             if (!spec_.keepRefused && (*reader)->userfaultfd() >= 0)
               return context_.refused.tell(name, (*reader)->userfaultfd(),
                                            peerOf(refused.connection.get()).pidfd.get());
           return kj::READY_NOW;
         })
      .catch_([name](kj::Exception&& e) {
        spdlog::warn("{}: a refused target waits for its pages: {}", name, e.getDescription().cStr());
      });
}

void Listener::taskFailed(kj::Exception&& exception) {
  refuse(exception);
}

}  // namespace faultline::coordinator
