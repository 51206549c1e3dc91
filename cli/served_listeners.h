// The handshake sockets of a service's command line, or of its configuration, among what a service before it has left.
//
// What either says now is what new targets get: another memory file, policy, path or access takes effect, and a socket that
// is not named any more is closed. Restores that run keep what they began with. Listeners of another origin
// (process/kept_name.h, Origin) are not touched.
#pragma once

#include <list>
#include <string>
#include <vector>

#include "cli/errors.h"
#include "cli/memory_file.h"
#include "cli/policy_options.h"
#include "cli/socket_file.h"
#include "process/kept_name.h"
#include "rpc/control.capnp.h"
#include "supervisor/fd_store.h"

namespace faultline::cli {

struct ServedListener {
  std::string name, socket;
  std::vector<std::string> layers;  // of the memory, the top one first
  std::string workingSet;           // a file; empty: none
  rpc::SocketAccess access{};
  PolicyOptions policy{};
  bool anyUser = false, keepRefused = false;
  std::string memoryAt{},
      socketAt{};  // where the configuration says so, FILE:LINE; empty: the command line does
};
// Path and access as a coordinator takes them. `workingSet`: null for none.
void fill(rpc::ListenSpec::Builder to, const ServedListener& listener, const WorkingSet* workingSet);
void fill(rpc::PlacedListener::Builder to, const ServedListener& listener, const WorkingSet* workingSet);

// What is wrong with a listener costs that one alone, and is an error in the log, where restores are being
// served
// (`tolerant`): they must not wait for a path to be put right. Else CommandError(USAGE).
class ServedListeners {
 public:
  ServedListeners(supervisor::FdStore& kept, bool tolerant) : kept_(kept), tolerant_(tolerant) {}

  // Closes what `origin` has made and is not among `wanted` any more, then makes or changes what is. The command line's
  // come before the configuration's: where both have a name, it is the command line's, and that is said.
  void apply(process::Origin origin, const std::vector<ServedListener>& wanted);
  // A listening socket at `path` is kept under `name`, in place of one at another path.
  void listenAt(const std::string& name, const std::string& path);

  // The sockets' files: they go with these objects.
  std::list<SocketFile>& files() { return files_; }

 private:
  void serve(process::Origin origin, const ServedListener& listener);
  bool isOfCommandLine(const ServedListener& listener) const;
  void listenAt(const std::string& name, const std::string& path, const rpc::SocketAccess& access);
  void close(process::Origin origin, const std::string& name);
  void dropSource(const process::KeptName& listener);
  void closeWhatIsNot(process::Origin origin, const std::vector<ServedListener>& wanted);

  supervisor::FdStore& kept_;
  const bool tolerant_;
  std::list<SocketFile> files_;
};

// What is wrong with each, one line a problem; nothing is made or changed. For `faultline serve --check`.
std::vector<std::string> whatIsWrongWith(const std::vector<ServedListener>& listeners);

// Whether there are restores among what is kept.
bool servesRestores(const supervisor::FdStore& kept);

}  // namespace faultline::cli
