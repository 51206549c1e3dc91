// A service of one's own, for a command that runs without a daemon.
#pragma once

#include <kj/io.h>
#include <sys/types.h>

#include <string>

#include "cli/scratch.h"
#include "cli/service_options.h"
#include "cli/socket_file.h"

namespace faultline::cli {

// Supervisor, coordinator and shards in a child process, with its control socket in a private directory.
// Ended, and waited for, by the destructor; ends by itself if this process is killed. To be made before any
// event loop and any thread.
class OwnService {
 public:
  // Returns when it serves. CommandError where it can't be started; it has said why on stderr then.
  explicit OwnService(const ServiceOptions& options);
  ~OwnService();
  OwnService(const OwnService&) = delete;

  const std::string& control() const { return control_.path(); }
  // Private, and gone with the service.
  const std::string& directory() const { return directory_.path(); }
  pid_t supervisor() const { return pid_; }
  // Readable once no answer will ever come on control() again.
  int pidfd() const { return pidfd_.get(); }
  // Its end fetches nothing that is missing yet.
  void hurry() { hurried_ = true; }
  // True once no answer will ever come on control() again.
  bool gone() const;

 private:
  void waitUntilReady(kj::AutoCloseFd ready);

  const ScratchDirectory directory_;
  SocketFile control_;
  pid_t pid_ = -1;
  kj::AutoCloseFd pidfd_;
  bool hurried_ = false;
};

}  // namespace faultline::cli
