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
  // An interrupt's effect on a wait(): ends it at once; or is seen to by the command, which has a second to get
  // the answers that it needs for that.
  enum class Interrupted { ends, command };
  // A server that answers nothing for so long is given up, whatever is being waited for.
  static constexpr std::chrono::milliseconds PATIENCE{30'000};

  // Connects. Throws DISCONNECTED where no server listens at `control`. Interrupts::capture() comes before it.
  explicit Session(const std::string& control, Interrupted interrupted = Interrupted::ends,
                   std::chrono::milliseconds patience = PATIENCE);

  rpc::ControlClient& client() { return client_; }
  rpc::Coordinator::Client& coordinator() { return client_.coordinator(); }
  Interrupts& interrupts() { return interrupts_; }
  // Fails with a reason of `failed` where it is interrupted, and with the type OVERLOADED where the server does
  // not answer.
  template <typename Promise>
  auto wait(Promise&& promise) {
    using Result = decltype(client_.wait(kj::mv(promise)));
    auto given = guard().then([]() -> Result { kj::throwFatalException(noAnswer()); });
    return client_.wait(kj::Promise<Result>(kj::mv(promise)).exclusiveJoin(kj::mv(given)));
  }
  // The restore of that name. Throws where there is none.
  rpc::Restore::Client restore(const std::string& name);
  kj::Promise<void> after(std::chrono::milliseconds delay);

  // After a DISCONNECTED: returns when the coordinator's successor answers. Capabilities have to be asked for
  // anew. Throws DISCONNECTED where none comes within half a minute or `hopeless` says that none will. An interrupt
  // throws CommandError, for a command that sees to it only where none comes in a second.
  void awaitSuccessor(const std::function<bool()>& hopeless);

 private:
  enum class Came { it, interrupt, nothing };
  // Which is first.
  Came within(std::chrono::milliseconds limit, kj::Promise<void> promise, kj::Promise<void> interrupt);

  // Fails where a wait is to end.
  kj::Promise<void> guard();
  kj::Promise<void> untilSilent();
  static kj::Exception noAnswer();

  rpc::ControlClient client_;
  Interrupts interrupts_;
  const Interrupted interrupted_;
  const std::chrono::milliseconds patience_;
  bool silent_ = false;  // the server does not answer
};

}  // namespace faultline::cli
