// A service of one's own, for a command that runs without a daemon.
#pragma once

#include <kj/io.h>
#include <sys/types.h>

#include <string>

#include "cli/common.h"

namespace faultline::cli {

// Supervisor, coordinator and shards in a child process, with its control socket in a private directory.
// Ended, and waited for, by the destructor.
class OwnService {
 public:
  // Returns when it serves. CommandError(FAILED) where it can't be started.
  explicit OwnService(const ServiceOptions& options);
  ~OwnService();
  OwnService(const OwnService&) = delete;

  const std::string& control() const { return control_; }
  pid_t supervisor() const { return pid_; }

 private:
  std::string directory_;
  std::string control_;
  pid_t pid_ = -1;
};

}  // namespace faultline::cli
