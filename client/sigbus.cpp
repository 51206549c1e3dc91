#include "client/sigbus.h"

#include <signal.h>

namespace faultline::target {

namespace detail {
constinit thread_local sigjmp_buf* guard = nullptr;
constinit thread_local BusError raised{};
}  // namespace detail

namespace {

void onSigbus(int, siginfo_t* info, void*) {
  if (detail::guard == nullptr) {
    signal(SIGBUS, SIG_DFL);  // the touch is made again, and ends the process
    return;
  }
  detail::raised = {static_cast<const char*>(info->si_addr), info->si_code == BUS_MCEERR_AR};
  siglongjmp(*detail::guard, 1);
}

}  // namespace

void installSigbusHandler() {
  struct sigaction action {};
  action.sa_sigaction = onSigbus;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;  // siglongjmp does not put the signal mask back
  sigaction(SIGBUS, &action, nullptr);
}

}  // namespace faultline::target
