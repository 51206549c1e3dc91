// The way to a source's server, for the fetcher's threads that connect: the process that may make connections is asked by the
// loop alone.
#pragma once

#include <kj/async.h>
#include <kj/io.h>

#include <string>

#include "rpc/fetcher.capnp.h"
#include "threads/mutex.h"

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
  // What `call`, which returns a promise, comes to in the loop.
  template <typename Call>
  auto inLoop(Call call) const;
  template <typename Call>
  void tell(Call call) const;

  const kj::Own<const kj::Executor> loop_;
  // The loop has had it when it is done with a caller's stack, and the caller after that: ThreadSanitizer does not see the
  // executor's own mutex.
  mutable threads::Mutex done_;
  mutable kj::Maybe<rpc::Connector::Client> connector_;  // the loop's
};

}  // namespace faultline::fetcher
