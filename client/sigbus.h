// A touch of a page that cannot be had raises SIGBUS: here it becomes a value.
#pragma once

#include <setjmp.h>

#include <atomic>
#include <optional>

namespace faultline::target {

struct BusError {
  const char* address;  // the touched address
  bool poisoned;        // BUS_MCEERR_AR, as UFFDIO_POISON makes it; else there was no memory for the page
};

// For the whole process, once. A SIGBUS outside guarded() ends the process as ever.
void installSigbusHandler();

namespace detail {
extern constinit thread_local sigjmp_buf* guard;  // set by the guarded() that this thread is in
extern constinit thread_local BusError raised;

#ifdef __SANITIZE_THREAD__
constexpr int SAVE_MASK = 1;  // its own handler, which calls ours, blocks every signal, SA_NODEFER or not
#else
constexpr int SAVE_MASK = 0;  // one system call less for each touch
#endif
}  // namespace detail

// Runs `work`; the error, where it raised SIGBUS: then `work` was left where it stood, so it must hold
// nothing that a destructor gives back, and what it has stored may be stored or not. Not to be nested. Any
// thread.
template <typename Work>
[[gnu::noinline]] std::optional<BusError> guarded(Work& work) {
  sigjmp_buf here;
  if (sigsetjmp(here, detail::SAVE_MASK) != 0) {
    detail::guard = nullptr;
    return detail::raised;
  }
  detail::guard = &here;
  // The compiler knows nothing of a signal: without these it may move an access of `work` out of the guard.
  std::atomic_signal_fence(std::memory_order_seq_cst);
  work();
  std::atomic_signal_fence(std::memory_order_seq_cst);
  detail::guard = nullptr;
  return std::nullopt;
}

}  // namespace faultline::target
