#include "supervisor/service_manager.h"

#include <systemd/sd-daemon.h>

#include <cstdlib>

namespace faultline::supervisor {

namespace {
using Clock = std::chrono::steady_clock;
}

ServiceManager::ServiceManager() : there_(getenv("NOTIFY_SOCKET") != nullptr) {
  std::uint64_t limit = 0;
  if (!there_ || sd_watchdog_enabled(0, &limit) <= 0) return;
  interval_ = std::chrono::microseconds(limit / 2);
  nextBeat_ = Clock::now();
}

void ServiceManager::giveBack(FdStore& kept) {
  char** names = nullptr;
  const int count = sd_listen_fds_with_names(1, &names);
  for (int i = 0; i < count; i++) {
    kept.keep(names[i], kj::AutoCloseFd(SD_LISTEN_FDS_START + i));
    free(names[i]);
  }
  free(names);
}

void ServiceManager::keep(const std::string& name, int fd) {
  if (!there_) return;
  // It would keep both otherwise.
  drop(name);
  const std::string state = "FDSTORE=1\nFDPOLL=0\nFDNAME=" + name;
  sd_pid_notify_with_fds(0, 0, state.c_str(), &fd, 1);
}

void ServiceManager::drop(const std::string& name) {
  if (there_) sd_notify(0, ("FDSTOREREMOVE=1\nFDNAME=" + name).c_str());
}

void ServiceManager::ready() {
  if (there_) sd_notify(0, "READY=1\nSTATUS=serving");
}

void ServiceManager::stopping() {
  if (there_) sd_notify(0, "STOPPING=1\nSTATUS=ending");
}

void ServiceManager::beat() {
  if (Clock::now() < nextBeat_) return;
  sd_notify(0, "WATCHDOG=1");
  nextBeat_ = Clock::now() + interval_;
}

}  // namespace faultline::supervisor
