#include "coordinator/configured_listeners.h"

#include <capnp/message.h>

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "coordinator/call_inputs.h"
#include "coordinator/own_thread.h"
#include "coordinator/placed_listeners.h"
#include "rpc/refusal.h"

namespace faultline::coordinator {

using rpc::Reason;

namespace {

// Targets would get the same by either.
bool alike(const ListenerSpec& a, const ListenerSpec& b) {
  return a.layerNames == b.layerNames && a.policy == b.policy && a.anyUser == b.anyUser &&
         a.keepRefused == b.keepRefused;
}

}  // namespace

struct ConfiguredListeners::One {
  SocketWish wish;
  std::vector<std::string> layers;
  ListenerSpec spec{};
  SourceFiles source{};
  SocketPlace former{};  // place of the socket that it has and keeps; no path: it gets one
  std::unique_ptr<PlacedSocket> socket{};
};

struct ConfiguredListeners::Work {
  kj::Own<capnp::MallocMessageBuilder> message;
  capnp::List<rpc::PlacedListener>::Reader wanted;
  std::vector<One> ones{};
  std::size_t next = 0;
  std::vector<SocketFormerAccess> undo{};  // former access of the sockets that were changed
  bool done = false;
};

kj::Promise<ConfiguredListeners::Counts> ConfiguredListeners::configure(
    capnp::List<rpc::PlacedListener>::Reader wanted) {
  if (underWay_) rpc::refuse(Reason::NOT_READY, "another configuration is being taken: try again");
  if (wanted.size() > MOST)
    rpc::refuse(Reason::LIMIT_REACHED, "a configuration has at most " + std::to_string(MOST) + " listeners");
  auto message = kj::heap<capnp::MallocMessageBuilder>();
  message->setRoot(wanted);
  const auto copy = message->getRoot<capnp::List<rpc::PlacedListener>>().asReader();
  auto work = std::make_shared<Work>(Work{kj::mv(message), copy});
  std::set<std::string> names, paths;
  for (auto placed : copy) {
    const std::string name = placed.getSpec().getName().cStr();
    requireName(name);
    One& one = work->ones.emplace_back(One{wishFrom(placed.getSocket()), layerPathsOf(placed)});
    one.spec.name = name;
    if (!names.insert(name).second)
      rpc::refuse(Reason::BAD_INPUT, "two listeners of the configuration are called " + name);
    if (!paths.insert(one.wish.path).second)
      rpc::refuse(Reason::BAD_INPUT, "two listeners of the configuration have the socket " + one.wish.path);
  }
  requireNoneOfAnother(*work);
  compare(*work);
  underWay_ = true;
  return prepare(work).then([this, work] { return commit(*work); }).attach(kj::defer([this, work] {
    underWay_ = false;
    if (!work->done && !work->undo.empty())
      inOwnThread("the access of sockets cannot be given back", [undo = work->undo] {
        for (const SocketFormerAccess& former : undo) giveBack(former);
      }).detach([](kj::Exception&&) {});
  }));
}

// Also as it is committed: others may have made some meanwhile.
void ConfiguredListeners::requireNoneOfAnother(const Work& work) const {
  listeners_.requireNotEnded();
  for (const One& one : work.ones) {
    const auto named = listeners_.all().find(one.spec.name);
    if (named != listeners_.all().end() && named->second->origin() != process::Origin::configuration)
      rpc::refuse(
          Reason::NAME_TAKEN,
          "listener " + one.spec.name + " is not the configuration's: it was made " +
              (named->second->origin() == process::Origin::call ? "by a call; `faultline unlisten` closes it"
                                                                : "by an option of the command line"));
    const auto at = listeners_.at(one.wish.path);
    if (at.has_value() && *at != one.spec.name)
      rpc::refuse(Reason::NAME_TAKEN, "socket " + one.wish.path + " is that of listener " + *at +
                                          ": give it another, or have that one closed first");
  }
}

void ConfiguredListeners::compare(Work& work) const {
  for (One& one : work.ones) {
    const auto known = listeners_.all().find(one.spec.name);
    if (known == listeners_.all().end() || known->second->path() != one.wish.path) continue;
    one.former = known->second->spec().place;
    // A socket of a unit of the operator's: its access is that unit's to say.
    if (one.former.path.empty()) one.former.path = one.wish.path;
  }
}

// Prepares one listener after the other.
kj::Promise<void> ConfiguredListeners::prepare(const std::shared_ptr<Work>& work) {
  if (work->next == work->ones.size()) return kj::READY_NOW;
  const std::size_t at = work->next++;
  One& one = work->ones[at];
  return kj::evalNow([&] { return openLayers(fetcher_, one.layers); })
      .then([work, at](SourceFiles files) {
        One& one = work->ones[at];
        one.spec = listenerSpecFrom(work->wanted[static_cast<unsigned>(at)].getSpec(), one.layers, files);
        one.source = kj::mv(files);
        return workInOwnThread([work, at] {
          One& one = work->ones[at];
          // A file that another process has removed is made anew: no target could come by its socket.
          if (one.former.path.empty() || (one.former.inode != 0 && !isThere(one.former)))
            one.socket = std::make_unique<PlacedSocket>(one.wish);
          else if (one.former.inode != 0)
            if (auto former = giveAccess(one.former, one.wish)) work->undo.push_back(*former);
        });
      })
      .catch_([name = one.spec.name](kj::Exception&& error) {
        const rpc::Refusal refusal = rpc::refusalOf(error);
        rpc::refuse(refusal.reason, "listener " + name + ": " + refusal.message);
      })
      .then([this, work] { return prepare(work); });
}

ConfiguredListeners::Counts ConfiguredListeners::commit(Work& work) {
  requireNoneOfAnother(work);
  for (const One& one : work.ones)
    if (one.socket == nullptr && listeners_.all().count(one.spec.name) == 0)
      rpc::refuse(Reason::NOT_READY, "listener " + one.spec.name + " was closed meanwhile: try again");
  Counts counts;
  std::set<std::string> names;
  for (const One& one : work.ones) names.insert(one.spec.name);
  std::vector<std::string> gone;
  for (const auto& [name, listener] : listeners_.all())
    if (listener->origin() == process::Origin::configuration && names.count(name) == 0) gone.push_back(name);
  for (const std::string& name : gone) listeners_.close(name);
  counts.removed = static_cast<std::uint32_t>(gone.size());
  for (One& one : work.ones) {
    const auto known = listeners_.all().find(one.spec.name);
    if (one.socket != nullptr) one.spec.place = one.socket->place();
    if (known == listeners_.all().end()) {
      listeners_.listen(process::Origin::configuration, std::move(one.spec), one.socket->take(),
                        kj::mv(one.source));
      counts.added++;
    } else if (one.socket != nullptr) {
      listeners_.change(std::move(one.spec), kj::mv(one.source), one.socket->take());
      counts.changed++;
    } else if (!alike(known->second->spec(), one.spec)) {
      one.spec.place = known->second->spec().place;
      listeners_.change(std::move(one.spec), kj::mv(one.source), nullptr);
      counts.changed++;
    }
    if (one.socket != nullptr) one.socket->keep();
  }
  work.done = true;
  if (counts.added + counts.changed + counts.removed > 0)
    log_.planned("configuration: " + std::to_string(counts.added) + " listeners are new, " +
                 std::to_string(counts.changed) + " changed, " + std::to_string(counts.removed) + " closed");
  return counts;
}

}  // namespace faultline::coordinator
