// The pause between two looks at something, which ends early where there is a reason to look at once.
#pragma once

#include <kj/async.h>
#include <kj/timer.h>

namespace faultline::coordinator {

// One pause at a time. Loop thread only.
class HurriedPause {
 public:
  // `timer` is borrowed.
  explicit HurriedPause(kj::Timer& timer) : timer_(timer) {}

  // A look begins: it sees what hurry() was called for until now.
  void lookBegins() { hurried_ = false; }
  // Resolves after `length`; as soon as hurry() is called; at once where it was called since the last look began.
  kj::Promise<void> pause(kj::Duration length);
  void hurry();

 private:
  kj::Timer& timer_;
  kj::Own<kj::PromiseFulfiller<void>> ends_;  // ends the last pause; null before the first
  bool hurried_ = false;
};

}  // namespace faultline::coordinator
