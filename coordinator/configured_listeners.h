// The listeners of the service's configuration, made to be as it says now (Coordinator.configure).
//
// Everything that can fail comes first: files are opened, sockets are made and given their access, in threads of their own.
// Steps that were done are undone where one fails. Then the listeners are changed, in one turn of the loop. A change that
// a coordinator's death cuts short is the configuration's half: to be asked for again.
#pragma once

#include <kj/async.h>

#include <cstdint>
#include <memory>
#include <string>

#include "coordinator/event_log.h"
#include "coordinator/listeners.h"

namespace faultline::coordinator {

// Loop thread only.
class ConfiguredListeners {
 public:
  static constexpr unsigned MOST = 10'000;

  ConfiguredListeners(Listeners& listeners, Fetcher& fetcher, EventLog& log)
      : listeners_(listeners), fetcher_(fetcher), log_(log) {}

  struct Counts {
    std::uint32_t added = 0, changed = 0, removed = 0;
  };
  // Listeners of other origins stay as they are; one of a name or socket of theirs is refused. `wanted` is copied.
  kj::Promise<Counts> configure(capnp::List<rpc::PlacedListener>::Reader wanted);

 private:
  struct One;
  struct Work;
  kj::Promise<void> prepare(const std::shared_ptr<Work>& work);
  void compare(Work& work) const;
  void requireNoneOfAnother(const Work& work) const;
  Counts commit(Work& work);

  Listeners& listeners_;
  Fetcher& fetcher_;
  EventLog& log_;
  bool underWay_ = false;
};

}  // namespace faultline::coordinator
