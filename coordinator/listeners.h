// The listeners of a service: made, taken over, found by name and closed, with what is kept of each.
//
// The supervisor has the sockets and accepts. A listener's kept names (process/kept_name.h) are its socket, its spec,
// the files of its source, and each connection that is not served yet; they are stored and dropped here and in Listener.
#pragma once

#include <kj/async-io.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/listener.h"
#include "coordinator/restores.h"
#include "coordinator/source_files.h"
#include "coordinator/supervisor_link.h"

namespace faultline::coordinator {

// Loop thread only.
class Listeners final : private kj::TaskSet::ErrorHandler {
 public:
  // `restores`: all there are; a connection by which one of them came is not served again.
  Listeners(RestoreContext& context, const Restores& restores, Listener::Begin begin);

  // Takes over a predecessor's listeners, and those of the command line and of files that the service reads. A listener
  // that cannot be taken over is logged.
  void adopt(Inheritance& inherited);
  // Serves the connections that a predecessor had not. After adopt(), and once every restore that there was is known.
  void adoptConnections(Inheritance& inherited);

  // Makes the listener that `origin` asks for, and has it kept. Refuses (nameTaken, ending) with a message for people.
  std::shared_ptr<Listener> listen(process::Origin origin, ListenerSpec spec, kj::AutoCloseFd socket,
                                   SourceFiles source);
  // Has the configuration's listener of this name go on as `spec` and `source` say, for targets that come from now on: those
  // whose handshake is under way get what was there before. `socket`: takes the place of the one that it has; -1: it keeps
  // that. Throws nothing.
  void change(ListenerSpec spec, SourceFiles source, kj::AutoCloseFd socket);
  // Refuses (ending) where no target is served any more.
  void requireNotEnded() const;
  // Refuses (badInput, nameTaken, ending) where no listener of this name can be made now.
  void requireFree(const std::string& name) const;
  // The name of the listener whose socket was bound to this path.
  std::optional<std::string> at(const std::string& path) const;
  // All of them, by name.
  const std::map<std::string, std::shared_ptr<Listener>>& all() const { return listeners_; }
  // A connection that the supervisor accepted and keeps under `keptAs`; -1 where there was no room for its fd. Not before
  // adoptConnections(), since one that came earlier may have been served.
  void accepted(const process::KeptName& keptAs, kj::AutoCloseFd connection);

  // Closes the listener of this name at once, and has nothing of it kept; resolves when the file of its socket is removed.
  // Refuses (notFound) where there is none.
  kj::Promise<void> close(const std::string& name);
  // Closes this listener if it is open: its name may be another's by now.
  kj::Promise<void> close(const Listener& listener);
  // While held, targets that connect wait with their handshakes unread.
  void hold(bool held);
  // Closes all, and refuses new ones.
  void end();
  // Files of sockets of closed listeners are being removed yet.
  bool removing() const { return removing_ > 0; }

  // Whether a listener that gives this memory file kills the targets of restores that are lost.
  bool killsOnLost(int source) const;

 private:
  void adopt(Inheritance& inherited, const process::KeptName& keptSpec);
  void dropHalfChanged(const process::KeptName& spec, rpc::KeptListener::Reader half);
  void dropHalfMade(const process::KeptName& spec, const Listener& listener);
  kj::Promise<void> removeFile(const SocketPlace& place);
  std::shared_ptr<Listener> make(process::Origin origin, ListenerSpec spec, SourceFiles source);
  bool served(int connection) const;
  void taskFailed(kj::Exception&& exception) override;

  RestoreContext& context_;
  const Restores& restores_;
  const Listener::Begin begin_;
  std::map<std::string, std::shared_ptr<Listener>> listeners_;
  bool ended_ = false;
  bool held_ = false;
  std::vector<std::pair<process::KeptName, kj::AutoCloseFd>> waiting_;  // connections, while it is held
  unsigned removing_ = 0;
  kj::TaskSet tasks_;  // listeners that close
};

}  // namespace faultline::coordinator
