// The handshake sockets of a service's command line, among what a service before it has left.
//
// What the command line says now is what new targets get: another memory file, policy or path takes effect,
// and a socket that is not named any more is closed. Restores that run keep what they began with. Listeners
// that others have made (process/kept_name.h, Origin) are not touched.
#pragma once

#include <functional>
#include <list>
#include <string>
#include <vector>

#include "cli/errors.h"
#include "cli/memory_file.h"
#include "cli/socket_file.h"
#include "process/kept_name.h"
#include "supervisor/fd_store.h"

namespace faultline::cli {

struct ServedListener {
  std::string name, socket;
  std::vector<std::string> layers;  // of the memory, the top one first
  std::string workingSet;           // a file; empty: none
};

// Makes what a coordinator needs to know of a listener, in sealed memory. `withWorkingSet`: false where
// that is left out, since it cannot be used.
using MakeSpec =
    std::function<kj::AutoCloseFd(const ServedListener& listener, const Memory& memory, bool withWorkingSet)>;

// What is wrong with a listener costs that one alone, and is an error in the log, where restores are being
// served
// (`tolerant`): they must not wait for a path to be put right. Else CommandError(USAGE).
class ServedListeners {
 public:
  ServedListeners(supervisor::FdStore& kept, bool tolerant) : kept_(kept), tolerant_(tolerant) {}

  // Closes what is not among `wanted` any more, then makes or changes what is.
  void apply(const std::vector<ServedListener>& wanted, const MakeSpec& makeSpec);
  // A listening socket at `path` is kept under `name`, in place of one at another path.
  void listenAt(const std::string& name, const std::string& path);

  // The sockets' files: they go with these objects.
  std::list<SocketFile>& files() { return files_; }

 private:
  void serve(const ServedListener& listener, const MakeSpec& makeSpec);
  void close(const std::string& name);
  void dropSource(const process::KeptName& listener);
  void closeWhatIsNot(const std::vector<ServedListener>& wanted);

  supervisor::FdStore& kept_;
  const bool tolerant_;
  std::list<SocketFile> files_;
};

// What is wrong with each, one line a problem; nothing is made or changed. For `faultline serve --check`.
std::vector<std::string> whatIsWrongWith(const std::vector<ServedListener>& listeners);

// Whether there are restores among what is kept.
bool servesRestores(const supervisor::FdStore& kept);

}  // namespace faultline::cli
