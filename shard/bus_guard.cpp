#include "shard/bus_guard.h"

#include <setjmp.h>
#include <signal.h>

#include <cstdint>

namespace faultline::shard {

namespace {

thread_local sigjmp_buf escape;
thread_local volatile sig_atomic_t guarded = 0;

void onSigbus(int signal, siginfo_t*, void*) {
  if (guarded != 0) siglongjmp(escape, 1);
  // Not ours: the default action, on return to the instruction.
  ::signal(signal, SIG_DFL);
}

bool allZero(const void* start, std::size_t bytes) {
  const auto* words = static_cast<const std::uint64_t*>(start);
  for (std::size_t i = 0; i < bytes / 8; i += 8) {
    const std::uint64_t any = words[i] | words[i + 1] | words[i + 2] | words[i + 3] | words[i + 4] |
                              words[i + 5] | words[i + 6] | words[i + 7];
    if (any != 0) return false;
  }
  return true;
}

}  // namespace

void installBusGuard() {
  struct sigaction action {};
  action.sa_sigaction = onSigbus;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGBUS, &action, nullptr);
}

SourceContent contentOf(const void* start, std::size_t bytes) {
  if (sigsetjmp(escape, 0) != 0) {
    guarded = 0;
    return SourceContent::lost;
  }
  guarded = 1;
  const bool zero = allZero(start, bytes);
  guarded = 0;
  return zero ? SourceContent::zero : SourceContent::data;
}

}  // namespace faultline::shard
