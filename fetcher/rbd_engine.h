// A snapshot of a Ceph block device. A cluster that does not answer is waited for: librados asks again by itself; a client that
// the cluster has shut out begins anew.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "fetcher/engine.h"
#include "fetcher/engine_counters.h"
#include "rpc/rbd_uri.h"

namespace faultline::fetcher {

class RbdEngine final : public Engine {
 public:
  // `patience`: ns that a read waits for the cluster. `counters` must outlive it. Throws std::runtime_error, naming the source,
  // where it cannot be used. Waits, some seconds at most.
  RbdEngine(const rpc::RbdUri& uri, std::uint64_t patience, EngineCounters& counters);
  ~RbdEngine() override;

  const char* name() const override { return "rbd"; }
  Facts facts() const override;
  std::uint64_t fingerprint() const override;
  void forEachKnown(const std::function<void(Range, Known)>& use) const override;
  Range unitOf(Range chunk) const override { return chunk; }
  // ESTALE where the snapshot is no more what it was: from then on always.
  int read(Range unit, std::span<std::byte> to) const override;
  unsigned depth() const override { return 32; }
  std::uint64_t portion() const override { return 1u << 20; }

 private:
  class State;
  // Shared with threads that ask the cluster how it is.
  const std::shared_ptr<State> state_;
};

}  // namespace faultline::fetcher
