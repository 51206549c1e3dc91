#include "coordinator/listeners.h"

#include <capnp/serialize.h>
#include <kj/debug.h>
#include <spdlog/spdlog.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "coordinator/call_inputs.h"
#include "coordinator/own_thread.h"
#include "process/file_identity.h"
#include "rpc/kept.capnp.h"
#include "rpc/refusal.h"

namespace faultline::coordinator {

using process::KeptName;
using Kind = KeptName::Kind;
using Part = KeptName::Part;

namespace {

// Tells sockets apart, whatever number they have here.
ino_t inodeOf(int fd) {
  struct stat status {};
  return fd >= 0 && fstat(fd, &status) == 0 ? status.st_ino : 0;
}

// Whether `kept` is that of a listener while it is changed.
bool isHalf(rpc::KeptListener::Reader kept) {
  return kept.getSourceName().size() == 0;
}

// The spec in memory that outlives us.
kj::AutoCloseFd keptSpec(const ListenerSpec& spec, const SourceFiles& source) {
  int memory;
  KJ_SYSCALL(memory = memfd_create("faultline-listener", MFD_CLOEXEC));
  kj::AutoCloseFd fd(memory);
  capnp::MallocMessageBuilder message;
  auto kept = message.initRoot<rpc::KeptListener>();
  fill(kept, spec);
  auto packed = kept.initPacked(static_cast<unsigned>(source.size()));
  for (unsigned i = 0; i < packed.size(); i++) packed.set(i, source[i].packed);
  capnp::writeMessageToFd(fd.get(), message);
  return fd;
}

}  // namespace

Listeners::Listeners(RestoreContext& context, const Restores& restores, Listener::Begin begin)
    : context_(context), restores_(restores), begin_(std::move(begin)), tasks_(*this) {}

void Listeners::adopt(Inheritance& inherited) {
  for (const Part part : {Part::specOfCommandLine, Part::specOfConfiguration, Part::specOfCall})
    for (const KeptName& name : inherited.names(Kind::listener, part)) adopt(inherited, name);
  // The supervisor accepts: a socket that was open here as well would take connections after it was closed.
  for (const KeptName& name : inherited.names(Kind::listener, Part::listen)) {
    const kj::AutoCloseFd socket = inherited.take(name);
    if (const auto found = listeners_.find(name.key); found != listeners_.end())
      found->second->boundAt(boundPath(socket.get()));
  }
}

void Listeners::adoptConnections(Inheritance& inherited) {
  for (const KeptName& name : inherited.names(Kind::listener, Part::conn))
    accepted(name, inherited.take(name));
}

void Listeners::adopt(Inheritance& inherited, const KeptName& keptSpec) {
  auto specFd = inherited.take(keptSpec);
  SourceFiles source = take(context_.fetcher, inherited, keptSpec);
  auto failure = kj::runCatchingExceptions([&] {
    KJ_REQUIRE(listeners_.count(keptSpec.key) == 0, "another listener has this name already", keptSpec.key);
    KJ_SYSCALL(lseek(specFd.get(), 0, SEEK_SET));
    capnp::StreamFdMessageReader message(specFd.get());
    if (isHalf(message.getRoot<rpc::KeptListener>()))
      return dropHalfChanged(keptSpec, message.getRoot<rpc::KeptListener>());
    KJ_REQUIRE(!source.empty(), "the listener's source is not there");
    const auto packed = message.getRoot<rpc::KeptListener>().getPacked();
    for (unsigned i = 0; i < packed.size() && i < source.size(); i++) source[i].packed = packed[i];
    ListenerSpec spec = listenerSpecFrom(message.getRoot<rpc::KeptListener>(), source);
    spec.name = keptSpec.key;
    requireName(spec.name);
    const auto listener = make(keptSpec.origin().value(), std::move(spec), kj::mv(source));
    const KeptName socket = keptSpec.with(Part::listen);
    if (inherited.fds.count(socket) == 0 && inherited.lost.count(socket) == 0)
      dropHalfMade(keptSpec, *listener);
  });
  KJ_IF_MAYBE (e, failure) {
    context_.log.add("listener " + keptSpec.key + " cannot be taken over: " + e->getDescription().cStr());
  }
}

// Its coordinator died in change().
void Listeners::dropHalfChanged(const KeptName& spec, rpc::KeptListener::Reader half) {
  context_.link.drop(spec.with(Part::listen));
  context_.link.drop(spec);
  drop(context_.link, spec, process::MOST_LAYERS);
  removeFile({half.getPath().cStr(), half.getDevice(), half.getInode()});
  context_.log.add("listener " + spec.key +
                   " is closed: its coordinator died while the configuration changed it; `faultline reload` "
                   "makes it anew");
}

// Its coordinator died between keeping the spec and keeping the socket, which is the last part; or between dropping the
// socket, which is the first to go, and dropping the spec.
void Listeners::dropHalfMade(const KeptName& spec, const Listener& listener) {
  context_.link.drop(spec);
  drop(context_.link, spec, listener.layers());
  tasks_.add(removeFile(listener.spec().place));
  listeners_.erase(spec.key);
}

void Listeners::requireFree(const std::string& name) const {
  requireName(name);
  requireNotEnded();
  if (listeners_.count(name) != 0)
    rpc::refuse(rpc::Reason::NAME_TAKEN,
                "a listener called " + name + " is being served: choose another name");
}

void Listeners::requireNotEnded() const {
  if (ended_) rpc::refuse(rpc::Reason::ENDING, "the service is ending: no new target is served");
}

// While it changes, what is kept says so: a successor must not take new files for those of the spec before.
void Listeners::change(ListenerSpec spec, SourceFiles source, kj::AutoCloseFd socket) {
  const KeptName kept = KeptName::listenerSpec(spec.name, process::Origin::configuration);
  const std::shared_ptr<Listener> former = listeners_.at(spec.name);
  ListenerSpec half;
  half.place = former->spec().place;
  const kj::AutoCloseFd halfFd = keptSpec(half, {}), specFd = keptSpec(spec, source);
  context_.link.store(kept, halfFd.get());
  context_.failpoints.hit(failpoints::Point::listenerChanging);
  drop(context_.link, kept, former->layers());
  store(context_.link, kept, source);
  if (socket.get() >= 0) context_.link.store(kept.with(Part::listen), socket.get());
  context_.link.store(kept, specFd.get());
  if (socket.get() >= 0) removeFile(former->spec().place);
  const std::string path = socket.get() >= 0 ? boundPath(socket.get()) : former->path();
  const auto listener = make(process::Origin::configuration, std::move(spec), kj::mv(source));
  listener->goOnFor(*former);
  listener->boundAt(path);
  tasks_.add(former->retire().attach(kj::cp(former)));
}

std::optional<std::string> Listeners::at(const std::string& path) const {
  for (const auto& [name, listener] : listeners_)
    if (listener->path() == path) return name;
  return std::nullopt;
}

std::shared_ptr<Listener> Listeners::listen(process::Origin origin, ListenerSpec spec, kj::AutoCloseFd socket,
                                            SourceFiles source) {
  requireFree(spec.name);
  const kj::AutoCloseFd specFd = keptSpec(spec, source);
  const KeptName kept = KeptName::listenerSpec(spec.name, origin);
  store(context_.link, kept, source);
  context_.link.store(kept, specFd.get());
  auto listener = make(origin, std::move(spec), kj::mv(source));
  listener->boundAt(boundPath(socket.get()));
  context_.failpoints.hit(failpoints::Point::listenerNamed);
  context_.link.store(kept.with(Part::listen), socket.get());
  return listener;
}

std::shared_ptr<Listener> Listeners::make(process::Origin origin, ListenerSpec spec, SourceFiles source) {
  const std::string name = spec.name;
  return listeners_[name] =
             std::make_shared<Listener>(context_, origin, std::move(spec), kj::mv(source), begin_);
}

void Listeners::accepted(const KeptName& keptAs, kj::AutoCloseFd connection) {
  if (connection.get() < 0) {
    context_.log.add(keptAs.text() +
                     ": a target is turned away: there is no room for its connection's file descriptor");
    return context_.link.drop(keptAs);
  }
  if (held_) {
    waiting_.emplace_back(keptAs, kj::mv(connection));
    return;
  }
  const auto found = listeners_.find(keptAs.key);
  if (found == listeners_.end() || served(connection.get())) return context_.link.drop(keptAs);
  KJ_IF_MAYBE (e, kj::runCatchingExceptions([&] { found->second->accepted(keptAs, kj::mv(connection)); })) {
    context_.log.add(keptAs.text() + ": a target is turned away: " + e->getDescription().cStr());
    context_.link.drop(keptAs);
  }
}

// True where the predecessor died between making the restore and saying so.
bool Listeners::served(int connection) const {
  for (const auto& [id, restore] : restores_)
    if (inodeOf(restore->fds().conn.get()) == inodeOf(connection)) return true;
  return false;
}

kj::Promise<void> Listeners::close(const Listener& listener) {
  const auto found = listeners_.find(listener.spec().name);
  if (found == listeners_.end() || found->second.get() != &listener) return kj::READY_NOW;
  return close(listener.spec().name);
}

kj::Promise<void> Listeners::close(const std::string& name) {
  const auto found = listeners_.find(name);
  if (found == listeners_.end())
    rpc::refuse(rpc::Reason::NOT_FOUND, "no listener is called " + name.substr(0, 64));
  const std::shared_ptr<Listener> listener = std::move(found->second);
  const KeptName spec = KeptName::listenerSpec(name, listener->origin());
  context_.link.drop(spec.with(Part::listen));
  context_.link.drop(spec);
  drop(context_.link, spec, listener->layers());
  // Its connections are kept, and open, until the supervisor is told of each.
  listeners_.erase(found);
  tasks_.add(listener->close().attach(kj::cp(listener)));
  return removeFile(listener->spec().place);
}

// The file system may take as long as it likes.
kj::Promise<void> Listeners::removeFile(const SocketPlace& place) {
  if (place.path.empty()) return kj::READY_NOW;
  removing_++;
  auto removed =
      kj::evalNow([&] {
        return inOwnThread("the file of a socket cannot be removed", [place] { removeSocket(place); });
      })
          .attach(kj::defer([this] { removing_--; }))
          .fork();
  // Also where the caller does not wait.
  tasks_.add(removed.addBranch());
  return removed.addBranch();
}

void Listeners::hold(bool held) {
  held_ = held;
  if (held) return;
  for (auto& [name, connection] : std::exchange(waiting_, {})) accepted(name, kj::mv(connection));
}

void Listeners::end() {
  ended_ = true;
  for (const auto& [name, connection] : std::exchange(waiting_, {})) context_.link.drop(name);
  while (!listeners_.empty()) tasks_.add(close(std::string(listeners_.begin()->first)));
}

bool Listeners::killsOnLost(int source) const {
  for (const auto& [name, listener] : listeners_)
    if (listener->spec().policy.flags.killOnLost != 0 && process::sameFile(listener->source(), source))
      return true;
  return false;
}

void Listeners::taskFailed(kj::Exception&& exception) {
  spdlog::error("{}", exception.getDescription().cStr());
}

}  // namespace faultline::coordinator
