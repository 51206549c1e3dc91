// How far a command has come with the bytes of a file: a line on stderr that is rewritten, where that is a terminal.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "cli/interruption.h"

namespace faultline::cli {

class WorkProgress {
 public:
  // `what`: is done, and with which file. `bytes`: how much there is to do.
  WorkProgress(const std::string& what, std::uint64_t bytes);
  ~WorkProgress();  // takes its line away
  WorkProgress(const WorkProgress&) = delete;

  // Up to `offset`. CommandError(FAILED) where the command is interrupted.
  void reached(std::uint64_t offset);

 private:
  const Interruption interruption_;
  const std::string what_;
  const std::uint64_t bytes_;
  const bool terminal_;
  std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now(), shown_;
};

}  // namespace faultline::cli
