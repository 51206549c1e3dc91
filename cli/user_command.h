// A program of the user's that a command of ours runs, and waits for.
#pragma once

#include <kj/io.h>
#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

namespace faultline::cli {

// Not killed by the destructor.
class UserCommand {
 public:
  // Looked for along PATH. It has our streams, our process group, the environment with `more` in it, and signals as they
  // are by default. CommandError with NOT_RUN or NOT_FOUND_ON_PATH where it cannot be started.
  UserCommand(const std::vector<std::string>& arguments, const std::map<std::string, std::string>& more);

  // Exit codes of shells for a program that is not one, and for one that is not there.
  static constexpr int NOT_RUN = 126, NOT_FOUND_ON_PATH = 127;

  int pidfd() const { return pidfd_.get(); }
  void signal(int number) const;
  // Waits for its end: its exit code, or 128 and the signal that killed it. To be called once.
  int wait();

 private:
  pid_t pid_ = -1;
  kj::AutoCloseFd pidfd_;
};

}  // namespace faultline::cli
