// An export of an NBD server. An export has no identity of its own: its size, and a checksum over samples of it, stand for
// one, and are compared at each new connection, so that bytes of two snapshots are not mixed.
//
// Threads that read send and receive themselves: the first of them does it for all, and hands that on as it leaves. A
// connection that is lost is made anew, in a thread of its own, while there is something to read; what was under way on it is
// asked again, each alone, so that what kills connections is found and costs itself.
#pragma once

#include <kj/io.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "fetcher/engine.h"
#include "fetcher/engine_counters.h"
#include "rpc/nbd_uri.h"

namespace faultline::fetcher {

class NbdEngine final : public Engine {
 public:
  // To the server, by others. Any thread but the loop's.
  struct Way {
    // A new connection. Waits. Throws std::exception for people.
    std::function<kj::AutoCloseFd()> connect;
    // Tell people that the last connection is lost; and that there is one again, which shows the same. Wait for nothing long.
    std::function<void(const std::string& why)> tellLost;
    std::function<void()> tellMade;
  };

  // Connects, and learns what there is. `patience`: ns that a read waits for the server. `counters` must outlive it. Throws
  // std::exception, naming the source, where the server cannot be used. Waits, some seconds at most.
  NbdEngine(const std::string& uri, Way way, std::uint64_t patience, EngineCounters& counters);
  ~NbdEngine() noexcept(false) override;

  const char* name() const override { return "nbd"; }
  Facts facts() const override;
  void forEachKnown(const std::function<void(Range, Known)>& use) const override;
  Range unitOf(Range chunk) const override { return chunk; }
  // ESTALE where the server has another content than it had: from then on always.
  int read(Range unit, std::span<std::byte> to) const override;
  unsigned depth() const override;
  unsigned background() const override;

 private:
  class State;
  // Shared with the thread that connects, which may be waiting for the server when we end.
  const std::shared_ptr<State> state_;
};

}  // namespace faultline::fetcher
