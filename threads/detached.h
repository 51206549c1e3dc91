// Threads that live as long as their process.
#pragma once

#include <signal.h>

#include <functional>
#include <thread>
#include <utility>

namespace faultline::threads {

// Starts a thread that takes no signal, nor do those that it starts: a thread that waits for a signal has it blocked in itself
// alone. Throws std::system_error where no thread can be made.
inline void startWithoutSignals(std::function<void()> work) {
  sigset_t all, former;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &former);
  try {
    std::thread(std::move(work)).detach();
  } catch (...) {
    pthread_sigmask(SIG_SETMASK, &former, nullptr);
    throw;
  }
  pthread_sigmask(SIG_SETMASK, &former, nullptr);
}

}  // namespace faultline::threads
