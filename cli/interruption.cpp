#include "cli/interruption.h"

#include <signal.h>

#include "cli/errors.h"

namespace faultline::cli {

namespace {

volatile sig_atomic_t interrupted = 0;

void each(void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) sigaction(number, &action, nullptr);
}

}  // namespace

Interruption::Interruption() {
  interrupted = 0;
  each([](int) { interrupted = 1; });
}

Interruption::~Interruption() {
  each(SIG_DFL);
}

void Interruption::check() const {
  if (interrupted != 0) throw CommandError(FAILED, "interrupted; nothing is written");
}

}  // namespace faultline::cli
