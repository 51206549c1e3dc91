#include "cli/served_listeners.h"

#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>

#include "cli/recorded_working_set.h"
#include "cli/working_set_file.h"
#include "process/file_identity.h"
#include "process/kept_name.h"

namespace faultline::cli {

using process::KeptName;
using Kind = KeptName::Kind;
using Part = KeptName::Part;

namespace {

// As it was bound; empty: nowhere in the file system.
std::string pathOf(int socket) {
  sockaddr_un address{};
  socklen_t size = sizeof address;
  if (getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size) != 0) return "";
  const std::size_t length =
      size > offsetof(sockaddr_un, sun_path) ? size - offsetof(sockaddr_un, sun_path) : 0;
  return std::string(address.sun_path, strnlen(address.sun_path, length));
}

// The same place, however it is written.
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

// Of a socket that is served no more.
void removeFile(int socket) {
  const std::string path = pathOf(socket);
  if (!madeByManager(socket) && isSocket(path)) unlink(path.c_str());
}

KeptName specOf(const std::string& name) {
  return KeptName::listenerSpec(name, process::Origin::commandLine);
}

}  // namespace

void ServedListeners::apply(const std::vector<ServedListener>& wanted, const MakeSpec& makeSpec) {
  closeWhatIsNot(wanted);
  for (const ServedListener& listener : wanted) {
    try {
      serve(listener, makeSpec);
    } catch (const CommandError& error) {
      if (!tolerant_) throw;
      // Not served with what was there before: new targets would get other bytes than the command line says.
      close(listener.name);
      spdlog::error("listener {} is not served: {}", listener.name, error.what());
    }
  }
}

void ServedListeners::serve(const ServedListener& listener, const MakeSpec& makeSpec) {
  const KeptName spec = specOf(listener.name);
  for (const process::Origin other : {process::Origin::configuration, process::Origin::call})
    if (kept_.find(KeptName::listenerSpec(listener.name, other).text()) != nullptr)
      throw CommandError(USAGE,
                         "its name is that of a listener that was made at run time: choose another --name");
  Memory memory = openStack(listener.layers);
  kj::AutoCloseFd made;
  try {
    made = makeSpec(listener, memory, true);
  } catch (const CommandError& error) {
    if (!tolerant_ || listener.workingSet.empty()) throw;
    spdlog::error("listener {} is served without its working set: {}", listener.name, error.what());
    made = makeSpec(listener, memory, false);
  }
  kept_.keep(spec.text(), kj::mv(made));
  dropSource(spec);
  const std::size_t layers = memory.files.size();
  for (std::size_t i = 0; i < layers; i++) kept_.keep(spec.layer(i, layers).text(), kj::mv(memory.files[i]));
  listenAt(spec.with(Part::listen).text(), listener.socket);
}

void ServedListeners::listenAt(const std::string& name, const std::string& path) {
  const supervisor::SharedFd socket = kept_.find(name);
  const std::string bound = socket == nullptr ? "" : pathOf(socket->get());
  if (socket != nullptr && samePath(bound, path)) {
    // Else it is the service before us that has left it.
    if (!madeByManager(socket->get())) files_.emplace_back(path, SocketFile::Left());
    return;
  }
  kj::AutoCloseFd fresh = files_.emplace_back(path).take();
  if (socket != nullptr) {
    removeFile(socket->get());
    spdlog::info("{} is served at {} now, not at {}", name, path, bound);
    kept_.drop(name);
  }
  kept_.keep(name, kj::mv(fresh));
}

void ServedListeners::closeWhatIsNot(const std::vector<ServedListener>& wanted) {
  std::vector<std::string> gone;
  for (const auto& entry : kept_.entries()) {
    const auto name = KeptName::parse(entry.name);
    const auto is = [&](const ServedListener& listener) { return listener.name == name->key; };
    if (name.has_value() && name->is(Kind::listener, Part::specOfCommandLine) &&
        std::none_of(wanted.begin(), wanted.end(), is))
      gone.push_back(name->key);
  }
  for (const std::string& name : gone) {
    close(name);
    spdlog::info("listener {} is closed: the options name it no more", name);
  }
}

void ServedListeners::close(const std::string& name) {
  const KeptName spec = specOf(name);
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
  for (const ServedListener& listener : listeners) {
    try {
      const Memory memory = openStack(listener.layers);
      if (!listener.workingSet.empty()) readWorkingSetFor(listener.workingSet, memory);
    } catch (const CommandError& error) {
      problems.push_back("listener " + listener.name + ": " + error.what());
    }
    const auto directory = std::filesystem::absolute(listener.socket).parent_path();
    if (access(directory.c_str(), W_OK | X_OK) != 0)
      problems.push_back("listener " + listener.name + ": socket " + listener.socket +
                         ": no socket can be made in " + directory.string() + ": " + std::strerror(errno));
    else if (std::filesystem::exists(std::filesystem::symlink_status(listener.socket)) &&
             !isSocket(listener.socket))
      problems.push_back("listener " + listener.name + ": socket " + listener.socket +
                         ": another file is there");
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
