// Talking to a server whose coordinator may be replaced meanwhile, in a command that may be interrupted.
#pragma once

#include <kj/async-unix.h>

#include <chrono>
#include <functional>
#include <string>

#include "rpc/client.h"

namespace faultline::cli {

// SIGINT, SIGTERM and SIGHUP, as promises: so that a command can clean up behind itself.
class Interrupts {
 public:
  // From now on they are noted and do not end the process. Before any event loop and any child is made.
  static void capture();

  explicit Interrupts(kj::UnixEventPort& port) : port_(port), next_(listen()) {}
  // Resolves at the first that has not been acknowledged.
  kj::Promise<void> next() { return next_.addBranch(); }
  void acknowledge() { next_ = listen(); }

 private:
  kj::ForkedPromise<void> listen();

  kj::UnixEventPort& port_;
  kj::ForkedPromise<void> next_;
};

// A thread has at most one session: it has the event loop.
class Session {
 public:
  // Connects. Throws DISCONNECTED where nobody listens at `control`.
  explicit Session(const std::string& control) : client_(control), interrupts_(client_.io().unixEventPort) {}

  rpc::ControlClient& client() { return client_; }
  rpc::Coordinator::Client& coordinator() { return client_.coordinator(); }
  Interrupts& interrupts() { return interrupts_; }
  template <typename Promise>
  auto wait(Promise&& promise) {
    return client_.wait(std::forward<Promise>(promise));
  }
  kj::Promise<void> after(std::chrono::milliseconds delay);

  // After a DISCONNECTED: returns when the coordinator's successor answers. Capabilities have to be asked for
  // anew. Throws DISCONNECTED where none comes within half a minute or `hopeless` says that none will, and
  // CommandError where the user does not want to wait.
  void awaitSuccessor(const std::function<bool()>& hopeless);

 private:
  // Whether `promise` resolves in time. CommandError where the user interrupts.
  bool within(std::chrono::milliseconds limit, kj::Promise<void> promise);

  rpc::ControlClient client_;
  Interrupts interrupts_;
};

}  // namespace faultline::cli
