// A connection to an NBD server, by libnbd, with deadlines of ours: libnbd's own calls wait for ever.
#pragma once

#include <kj/io.h>
#include <poll.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "fetcher/engine.h"
#include "fetcher/nbd_library.h"
#include "fetcher/tls_handshake.h"
#include "rpc/nbd_uri.h"

namespace faultline::fetcher {

// A connection that cannot be made or used, for people.
struct NbdFailure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Checksums of places of an export (image/sampled_checksum.h), in order; nothing: of a place that could not be read.
using NbdSamples = std::vector<std::optional<std::uint64_t>>;

// How an export is sampled.
struct NbdSampling {
  std::set<std::size_t> leaveOut{};  // places, by number
  bool singly = false;               // place by place, `at` telling which
  std::size_t at = 0;                // the place that was last asked for
  unsigned tries = 1;                // for a place that the server fails
  bool all = false;                  // a place that cannot be read is a failure; else it is left out
  std::uint64_t silence = 0;         // ns that the server may say nothing
};

// A read under way. Must not move, nor the memory that it fills, until it is over or its connection is gone.
struct NbdRead {
  Range range;
  std::byte* to;
  bool over = false;
  int error = 0;  // errno, where it is over
};

// Used by one thread at a time. Destroyed at any time: what is under way is then never filled in.
class NbdConnection {
 public:
  // Has the export opened over `socket`, which is connected. Waits until `deadline` (ns, CLOCK_MONOTONIC). Throws NbdFailure.
  NbdConnection(const NbdLibrary& library, const rpc::NbdUri& uri, kj::AutoCloseFd socket,
                std::uint64_t deadline);
  ~NbdConnection();
  NbdConnection(const NbdConnection&) = delete;

  std::uint64_t bytes() const { return bytes_; }
  // Whether the server says that several connections show the same.
  bool multiple() const { return multiple_; }

  // --- without waiting ---
  // Begins to read. False: it could not be begun; `read` is over, or the connection is dead().
  bool begin(NbdRead& read);
  // wish(): what to poll for. handle(): takes what came of it; reads may be over then.
  pollfd wish() const;
  void handle(short events);
  bool dead() const;
  std::string error() const;  // why the last call failed, for people

  // --- waiting until `deadline`; throw NbdFailure, after which the connection may only be destroyed: what is under way has
  // memory that is gone ---
  // Reads samples. `checksum`: set to that over all of them, where each could be read.
  NbdSamples samples(std::uint64_t deadline, NbdSampling& how, std::uint64_t& checksum);
  // The parts that the server knows to be zero, ascending; none where it does not tell. False: not all were asked for.
  bool zeros(std::uint64_t deadline, const std::function<void(Range)>& use);

 private:
  void waitOn(std::uint64_t deadline, const std::function<bool()>& over);
  void connect(kj::AutoCloseFd socket, std::uint64_t deadline, const std::optional<TlsHandshake>& tls,
               const rpc::NbdUri& uri);
  void require(int result, const char* what) const;

  const NbdLibrary& library_;
  nbd_handle* const handle_;
  std::uint64_t bytes_ = 0;
  bool multiple_ = false;
  bool tellsZeros_ = false;
};

}  // namespace faultline::fetcher
