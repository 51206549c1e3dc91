#include "cli/served_listeners.h"

#include <capnp/serialize.h>
#include <fcntl.h>
#include <kj/debug.h>
#include <spdlog/spdlog.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <optional>

#include "cli/recorded_working_set.h"
#include "cli/working_set_file.h"
#include "process/file_identity.h"
#include "process/kept_name.h"
#include "rpc/kept.capnp.h"

namespace faultline::cli {

using process::KeptName;
using Kind = KeptName::Kind;
using Part = KeptName::Part;

namespace {

// The path as it was bound; empty: nowhere in the file system.
std::string pathOf(int socket) {
  sockaddr_un address{};
  socklen_t size = sizeof address;
  if (getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size) != 0) return "";
  const std::size_t length =
      size > offsetof(sockaddr_un, sun_path) ? size - offsetof(sockaddr_un, sun_path) : 0;
  return std::string(address.sun_path, strnlen(address.sun_path, length));
}

// True for the same place, however it is written.
bool samePath(const std::string& one, const std::string& other) {
  std::error_code ignored;
  const auto whole = [&](const std::string& path) {
    return std::filesystem::weakly_canonical(std::filesystem::absolute(path, ignored), ignored);
  };
  return one == other || whole(one) == whole(other);
}

bool isSocket(const std::string& path) {
  struct stat status {};
  return lstat(path.c_str(), &status) == 0 && S_ISSOCK(status.st_mode);
}

// Whether a socket unit made it: who listens on a socket is its peer (net/unix/af_unix.c, unix_listen).
bool madeByManager(int socket) {
  ucred listener{};
  socklen_t size = sizeof listener;
  return getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &listener, &size) == 0 && listener.pid == 1;
}

// The file of a socket that is served no more.
void removeFile(int socket) {
  const std::string path = pathOf(socket);
  if (!madeByManager(socket) && isSocket(path)) unlink(path.c_str());
}

// The facts of a handshake socket that a coordinator needs, in sealed memory.
// `socketFile`: where the file goes with the listener, whatever closes it; else empty.
kj::AutoCloseFd keptSpec(const ServedListener& listener, const Memory& memory, const WorkingSet* workingSet,
                         const std::string& socketFile) {
  int fd;
  KJ_SYSCALL(fd = memfd_create("faultline-listener", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  kj::AutoCloseFd result(fd);
  capnp::MallocMessageBuilder message;
  auto kept = message.initRoot<rpc::KeptListener>();
  // Looked at for each target: whichever directory a coordinator runs in.
  auto layers = kept.initLayers(static_cast<unsigned>(listener.layers.size()));
  for (unsigned i = 0; i < layers.size(); i++) layers.set(i, absoluteLayer(listener.layers[i]).c_str());
  auto packed = kept.initPacked(static_cast<unsigned>(memory.packed.size()));
  for (unsigned i = 0; i < packed.size(); i++) packed.set(i, memory.packed[i]);
  kept.setSourceName(absoluteLayer(listener.layers.front()).c_str());
  fill(kept.initSpec(), listener, workingSet);
  struct stat status {};
  if (!socketFile.empty() && lstat(socketFile.c_str(), &status) == 0) {
    kept.setPath(socketFile.c_str());
    kept.setDevice(status.st_dev);
    kept.setInode(status.st_ino);
  }
  capnp::writeMessageToFd(fd, message);
  KJ_SYSCALL(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
  return result;
}

// The file has this access; what is not given is as it may be.
bool hasAccess(const std::string& path, const rpc::SocketAccess& access) {
  struct stat status {};
  if (lstat(path.c_str(), &status) != 0) return false;
  const auto ids = rpc::idsOf(access);
  return (status.st_mode & 0777) == access.mode && (!ids.owner.has_value() || *ids.owner == status.st_uid) &&
         (!ids.group.has_value() || *ids.group == status.st_gid);
}

}  // namespace

void fill(rpc::ListenSpec::Builder to, const ServedListener& listener, const WorkingSet* workingSet) {
  to.setName(listener.name.c_str());
  to.setAnyUser(listener.anyUser);
  to.setKeepRefused(listener.keepRefused);
  fill(to.initPolicy(), listener.policy, workingSet);
}

void fill(rpc::PlacedListener::Builder to, const ServedListener& listener, const WorkingSet* workingSet) {
  fill(to.initSpec(), listener, workingSet);
  auto socket = to.initSocket();
  socket.setPath(std::filesystem::absolute(listener.socket).c_str());
  socket.setOwner(listener.access.owner.c_str());
  socket.setGroup(listener.access.group.c_str());
  socket.setMode(listener.access.mode);
  auto layers = to.initLayers(static_cast<unsigned>(listener.layers.size()));
  for (unsigned i = 0; i < layers.size(); i++) layers.set(i, absoluteLayer(listener.layers[i]).c_str());
}

void ServedListeners::apply(process::Origin origin, const std::vector<ServedListener>& wanted) {
  closeWhatIsNot(origin, wanted);
  for (const ServedListener& listener : wanted) {
    if (origin == process::Origin::configuration && isOfCommandLine(listener)) {
      spdlog::warn("listener {} is that of the command line, which wins: {} is not used", listener.name,
                   listener.socketAt);
      continue;
    }
    try {
      serve(origin, listener);
    } catch (const CommandError& error) {
      if (!tolerant_) throw;
      // Not served with what was there before: new targets would get other bytes than the command line says.
      close(origin, listener.name);
      spdlog::error("listener {} is not served: {}", listener.name, error.what());
    }
  }
}

bool ServedListeners::isOfCommandLine(const ServedListener& listener) const {
  const KeptName spec = KeptName::listenerSpec(listener.name, process::Origin::commandLine);
  return kept_.find(spec.text()) != nullptr;
}

void ServedListeners::serve(process::Origin origin, const ServedListener& listener) {
  const KeptName spec = KeptName::listenerSpec(listener.name, origin);
  for (const process::Origin other :
       {process::Origin::commandLine, process::Origin::configuration, process::Origin::call})
    if (other != origin && kept_.find(KeptName::listenerSpec(listener.name, other).text()) != nullptr)
      throw CommandError(
          USAGE, "its name is that of another listener, made " +
                     std::string(other == process::Origin::call ? "at run time" : "by the configuration") +
                     ": choose another one");
  Memory memory = openStack(listener.layers);
  std::optional<WorkingSet> workingSet;
  try {
    if (!listener.workingSet.empty()) workingSet = readWorkingSetFor(listener.workingSet, memory);
  } catch (const CommandError& error) {
    if (!tolerant_) throw;
    spdlog::error("listener {} is served without its working set: {}", listener.name, error.what());
  }
  const std::string socket = spec.with(Part::listen).text();
  listenAt(socket, listener.socket, listener.access);
  // Listeners of the command line go with this process; the configuration's may be closed at run time.
  const bool itsOwn = origin == process::Origin::configuration && !madeByManager(kept_.find(socket)->get());
  kept_.keep(spec.text(), keptSpec(listener, memory, workingSet.has_value() ? &*workingSet : nullptr,
                                   itsOwn ? pathOf(kept_.find(socket)->get()) : ""));
  dropSource(spec);
  const std::size_t layers = memory.files.size();
  for (std::size_t i = 0; i < layers; i++) kept_.keep(spec.layer(i, layers).text(), kj::mv(memory.files[i]));
}

void ServedListeners::listenAt(const std::string& name, const std::string& path) {
  listenAt(name, path, {});
}

void ServedListeners::listenAt(const std::string& name, const std::string& path,
                               const rpc::SocketAccess& access) {
  const supervisor::SharedFd socket = kept_.find(name);
  const std::string bound = socket == nullptr ? "" : pathOf(socket->get());
  if (socket != nullptr && samePath(bound, path)) {
    // Access of a unit's socket is the unit's to say.
    const bool changed =
        access != rpc::SocketAccess() && !madeByManager(socket->get()) && !hasAccess(bound, access);
    if (!changed) {
      // Else it is the service before us that has left it.
      if (!madeByManager(socket->get())) files_.emplace_back(path, SocketFile::Left());
      return;
    }
    removeFile(socket->get());
  }
  kj::AutoCloseFd fresh = files_.emplace_back(path, access).take();
  if (socket != nullptr) {
    if (!samePath(bound, path)) {
      removeFile(socket->get());
      spdlog::info("{} is served at {} now, not at {}", name, path, bound);
    }
    kept_.drop(name);
  }
  kept_.keep(name, kj::mv(fresh));
}

void ServedListeners::closeWhatIsNot(process::Origin origin, const std::vector<ServedListener>& wanted) {
  std::vector<std::string> gone;
  for (const auto& entry : kept_.entries()) {
    const auto name = KeptName::parse(entry.name);
    const auto is = [&](const ServedListener& listener) { return listener.name == name->key; };
    if (name.has_value() && name->kind == Kind::listener && name->origin() == origin &&
        std::none_of(wanted.begin(), wanted.end(), is))
      gone.push_back(name->key);
  }
  for (const std::string& name : gone) {
    close(origin, name);
    spdlog::info("listener {} is closed: the {} it no more", name,
                 origin == process::Origin::configuration ? "configuration names" : "options name");
  }
}

void ServedListeners::close(process::Origin origin, const std::string& name) {
  const KeptName spec = KeptName::listenerSpec(name, origin);
  if (kept_.find(spec.text()) == nullptr) return;
  const std::string listen = spec.with(Part::listen).text();
  if (const supervisor::SharedFd socket = kept_.find(listen); socket != nullptr) removeFile(socket->get());
  for (const std::string& part : {listen, spec.text()}) kept_.drop(part);
  dropSource(spec);
}

void ServedListeners::dropSource(const KeptName& listener) {
  for (unsigned number = 0; number <= process::MOST_LAYERS; number++)
    if (const std::string layer = listener.with(Part::source, number).text(); kept_.find(layer) != nullptr)
      kept_.drop(layer);
}

std::vector<std::string> whatIsWrongWith(const std::vector<ServedListener>& listeners) {
  std::vector<std::string> problems;
  const auto add = [&](const ServedListener& listener, const std::string& at, const std::string& what) {
    problems.push_back((at.empty() ? "listener " + listener.name : at) + ": " + what);
  };
  for (const ServedListener& listener : listeners) {
    try {
      const Memory memory = openStack(listener.layers);
      if (!listener.workingSet.empty()) readWorkingSetFor(listener.workingSet, memory);
    } catch (const CommandError& error) {
      add(listener, listener.memoryAt, error.what());
    }
    const auto directory = std::filesystem::absolute(listener.socket).parent_path();
    const std::string socket = "socket " + listener.socket + ": ";
    if (access(directory.c_str(), W_OK | X_OK) != 0)
      add(listener, listener.socketAt,
          socket + "no socket can be made in " + directory.string() + ": " + std::strerror(errno));
    else if (std::filesystem::exists(std::filesystem::symlink_status(listener.socket)) &&
             !isSocket(listener.socket))
      add(listener, listener.socketAt, socket + "another file is there");
  }
  return problems;
}

bool servesRestores(const supervisor::FdStore& kept) {
  return std::any_of(kept.entries().begin(), kept.entries().end(),
                     [](const supervisor::FdStore::Entry& entry) {
                       const auto name = KeptName::parse(entry.name);
                       return name.has_value() && name->kind == Kind::restore;
                     });
}

}  // namespace faultline::cli
