// The target program in a process of its own.
#pragma once

#include <kj/async-io.h>
#include <kj/io.h>

#include <string>
#include <vector>

#include "process/process.h"

namespace faultline::cli {

// Killed, if it still runs, by the destructor. Loop thread only.
class TargetProcess {
 public:
  // Starts faultline-target with `arguments`. Throws where that is not possible.
  TargetProcess(kj::AsyncIoContext& io, const std::vector<std::string>& arguments);
  ~TargetProcess();
  TargetProcess(const TargetProcess&) = delete;

  // Resolves when it begins to report (its stdout), or ends without a report.
  kj::Promise<void> whenReporting();
  // Its whole report, once it has closed its stdout. After whenReporting().
  kj::Promise<std::string> report();
  // Waits for its end. The exit code; 128 + the signal where it was killed.
  int wait();

 private:
  static constexpr std::size_t CHUNK = 4096;

  process::ChildProcess process_;
  kj::Own<kj::AsyncInputStream> output_;
  char first_[CHUNK];  // output that came with whenReporting()
  std::size_t firstBytes_ = 0;
};

}  // namespace faultline::cli
