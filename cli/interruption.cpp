#include "cli/interruption.h"

#include <signal.h>

#include <atomic>

#include "cli/errors.h"

namespace faultline::cli {

namespace {

std::atomic<bool> interrupted = false;  // any thread may take the signal
static_assert(std::atomic<bool>::is_always_lock_free);

void each(void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) sigaction(number, &action, nullptr);
}

}  // namespace

Interruption::Interruption() {
  interrupted = false;
  each([](int) { interrupted = true; });
}

Interruption::~Interruption() {
  each(SIG_DFL);
}

void Interruption::check() const {
  if (interrupted) throw CommandError(FAILED, "interrupted; nothing is written");
}

}  // namespace faultline::cli
