// Whether an NBD export still has the content that it had. Exports have no identity: their size and samples of their bytes stand
// for one.
#pragma once

#include <cstdint>
#include <map>

#include "fetcher/nbd_connection.h"

namespace faultline::fetcher {

// Both calls wait for the server, which may say nothing for `silence` ns; throw NbdFailure, after which the connection may only be
// destroyed. One thread at a time.
class NbdIdentity {
 public:
  // Learns what the export has. Returns the checksum of the samples. Once it has returned, isShownBy() may be called.
  std::uint64_t learn(NbdConnection& connection, std::uint64_t silence);
  // Whether this connection shows the same, as far as it can be read: places that the server fails, or ends the connection at, are
  // left out. They cost the pages that are there, and no others. Fails where most of them are.
  bool isShownBy(NbdConnection& connection, std::uint64_t silence);

 private:
  static constexpr unsigned TRIES = 3;  // of a place at another connection

  NbdSamples sampled(NbdConnection& connection, std::uint64_t silence);

  std::uint64_t bytes_ = 0;
  NbdSamples samples_;
  NbdSampling sampling_{.tries = TRIES};
  std::map<std::size_t, unsigned> deaths_;  // deaths of connections, by the place that was asked for
};

}  // namespace faultline::fetcher
