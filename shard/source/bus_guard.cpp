#include "shard/source/bus_guard.h"

#include <setjmp.h>
#include <signal.h>

#include <cstdint>
#include <cstring>

namespace faultline::shard {

namespace {

thread_local sigjmp_buf escape;
thread_local volatile sig_atomic_t guarded = 0;

void onSigbus(int signal, siginfo_t*, void*) {
  if (guarded != 0) siglongjmp(escape, 1);
  // Not ours: the default action, on return to the instruction.
  ::signal(signal, SIG_DFL);
}

// Runs `read`, which must not own anything: false where it was left because of a SIGBUS.
template <typename Read>
bool readable(Read read) {
  if (sigsetjmp(escape, 0) != 0) {
    guarded = 0;
    return false;
  }
  guarded = 1;
  read();
  guarded = 0;
  return true;
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
  SourceContent content = SourceContent::lost;
  readable([&] { content = allZero(start, bytes) ? SourceContent::zero : SourceContent::data; });
  return content;
}

bool touchPages(const void* start, std::size_t bytes, std::size_t stride) {
  return readable([=] {
    for (std::size_t at = 0; at < bytes; at += stride) static_cast<const volatile char*>(start)[at];
  });
}

bool copyOut(const void* start, std::size_t bytes, void* to) {
  return readable([=] { std::memcpy(to, start, bytes); });
}

}  // namespace faultline::shard
