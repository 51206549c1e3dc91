// The systemd unit of a service, as systemd has it.
#pragma once

#include <cstdint>
#include <string>

namespace faultline::cli {

struct ServiceUnit {
  enum class State { noSystemd, notLoaded, loaded };
  State state = State::noSystemd;
  std::string why;                // for people, where it is not loaded
  std::uint64_t storedFds = 0;    // FileDescriptorStoreMax=
  std::uint64_t openFiles = 0;    // LimitNOFILE=
  std::uint64_t lockedBytes = 0;  // LimitMEMLOCK=; 2^64 - 1: no limit
};

// Asks systemd (org.freedesktop.systemd1 on the system bus), which has five seconds for each answer. Starts nothing.
ServiceUnit serviceUnit(const std::string& name);

}  // namespace faultline::cli
