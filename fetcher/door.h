// The way to a source's server, for the fetcher's threads that connect: the process that may make connections is asked by the
// loop alone.
#pragma once

#include <kj/async.h>
#include <kj/io.h>

#include <string>

#include "rpc/fetcher.capnp.h"

namespace faultline::fetcher {

class Door {
 public:
  // Loop thread.
  explicit Door(rpc::Connector::Client connector);

  // A connected socket. Waits for the loop and for the connection. Throws std::runtime_error. Any thread but the loop's.
  kj::AutoCloseFd connect() const;
  // Tell what has become of the connections. Wait for the loop, not for an answer; a failure says nothing. Any thread but the
  // loop's.
  void tellLost(const std::string& why) const;
  void tellMade() const;
  // From here on connect() fails, and nothing is told. Loop thread.
  void close() { connector_ = nullptr; }

 private:
  template <typename Call>
  void tell(Call call) const;

  const kj::Own<const kj::Executor> loop_;
  mutable kj::Maybe<rpc::Connector::Client> connector_;  // the loop's
};

}  // namespace faultline::fetcher
