// A handshake socket that is being served, and the targets that came by it.
#pragma once

#include <kj/async-io.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "coordinator/handshake.h"
#include "coordinator/options.h"
#include "coordinator/placed_socket.h"
#include "coordinator/restore_context.h"
#include "coordinator/restore_fds.h"
#include "coordinator/restore_spec.h"
#include "rpc/control.capnp.h"
#include "rpc/kept.capnp.h"
#include "rpc/refusal.h"

namespace faultline::coordinator {

struct ListenerSpec {
  std::string name;                     // restores are called NAME, NAME-2, NAME-3, ...
  std::vector<std::string> layerNames;  // layers of the source, the top one first
  RestorePolicy policy;
  bool anyUser = false;
  bool keepRefused = false;  // a target that is refused is left as it is
  SocketPlace place;         // the file of its socket, where the server made that: it goes with the listener
};

// Throws where the policy does not fit the source.
ListenerSpec listenerSpecFrom(rpc::ListenSpec::Reader reader, std::vector<std::string> layerNames,
                              const SourceFiles& source);
// Throws, too, where these are not all the layers that it had.
ListenerSpec listenerSpecFrom(rpc::KeptListener::Reader reader, const SourceFiles& source);
void fill(rpc::KeptListener::Builder to, const ListenerSpec& spec);

// Loop thread only.
class Listener final : private kj::TaskSet::ErrorHandler {
 public:
  // Makes a restore of a complete handshake, in two steps (Service::prepare, Service::begin). The steps throw where it
  // is refused.
  struct Begin {
    std::function<kj::Promise<PreparedRestore>(RestoreSpec spec, int source)> prepare;
    std::function<std::string(PreparedRestore prepared, RestoreFds fds)> begin;
  };

  Listener(RestoreContext& context, process::Origin origin, ListenerSpec spec, SourceFiles source,
           Begin begin);

  const ListenerSpec& spec() const { return spec_; }
  // The top layer of the source of targets that come now; borrowed.
  int source() const { return source_.front().get(); }
  // Tells who made it.
  process::Origin origin() const { return origin_; }
  std::size_t layers() const { return source_.size(); }
  // The path that its socket was bound at; empty where that is not in the file system.
  const std::string& path() const { return path_; }
  void boundAt(const std::string& path) { path_ = path; }
  // A connection that the supervisor accepted and keeps under `keptAs`.
  void accepted(const process::KeptName& keptAs, kj::AutoCloseFd connection);

  // Counts on where `former`, in whose place it is, has stopped.
  void goOnFor(const Listener& former);
  // Another one has taken its place: sees to the handshakes that are under way. The caller keeps the listener alive until
  // the promise resolves.
  kj::Promise<void> retire();
  // Refuses targets whose handshake is not complete. To be called once; the caller keeps the listener alive
  // until the promise resolves: when each of them has been told.
  kj::Promise<void> close();

  // Names of the restores that came by here, in order; grows.
  const std::vector<std::string>& names() const { return names_; }
  // Resolves when names() has more than `seen`.
  kj::Promise<void> whenMoreThan(std::size_t seen);

  void fill(rpc::ListenerInfo::Builder info) const;

  const rpc::Refusal& lastError() const { return lastError_; }
  std::uint64_t refused() const { return refused_; }

 private:
  struct Pending;
  kj::Promise<void> handshake(const std::shared_ptr<Pending>& pending);
  kj::Promise<void> readMore(const std::shared_ptr<Pending>& pending);
  kj::Promise<SourceFiles> lookAtSource();
  kj::Promise<SourceFiles> checkedSource() const;
  kj::Promise<void> lookAtLayer(std::size_t layer);
  void replaceLayer(std::size_t layer, kj::AutoCloseFd file);
  kj::Promise<void> complete(const std::shared_ptr<Pending>& pending, SourceFiles source);
  void begin(Pending& pending, PreparedRestore prepared, RestoreFds fds);
  void refuse(const kj::Exception& why);
  kj::Promise<void> tell(Pending& refused);
  void taskFailed(kj::Exception&& exception) override;

  RestoreContext& context_;
  const process::Origin origin_;
  ListenerSpec spec_;
  SourceFiles source_;
  std::string path_;
  bool retired_ = false;
  std::set<std::size_t> goneTold_;  // layers whose file is not there any more, and that was said
  Begin begin_;
  std::vector<std::string> names_;
  std::vector<kj::Own<kj::PromiseFulfiller<void>>> waiters_;
  rpc::Refusal lastError_;
  std::uint64_t refused_ = 0;
  kj::Canceler pending_;  // handshakes
  kj::TaskSet tasks_;
};

}  // namespace faultline::coordinator
