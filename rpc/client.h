// A blocking client of the control interface, for the command-line tool and for tests.
#pragma once

#include <kj/async-io.h>
#include <kj/io.h>

#include <string>

#include "rpc/connection.h"
#include "rpc/control.capnp.h"

namespace faultline::rpc {

// Owns a KJ event loop: one per thread, used in that thread only. Calls are made on coordinator() and waited
// for with wait(); failures are kj::Exception, of type DISCONNECTED where the server has gone (make a new
// client and ask for the restore by name).
class ControlClient {
 public:
  // Connects. Throws DISCONNECTED naming the path where no server listens.
  explicit ControlClient(const std::string& socketPath);
  ~ControlClient() noexcept(false);

  // Connects anew, after the server has gone. Capabilities of the old connection may still be dropped later.
  void reconnect();

  Coordinator::Client& coordinator() { return coordinator_; }
  // The restore of that name. Throws where there is none.
  Restore::Client restore(const std::string& name);

  template <typename Promise>
  auto wait(Promise&& promise) {
    return promise.wait(io_.waitScope);
  }
  kj::AsyncIoContext& io() { return io_; }

 private:
  kj::AsyncIoContext io_;
  const std::string path_;
  kj::Own<Connection> connection_;
  Coordinator::Client coordinator_;
};

}  // namespace faultline::rpc
