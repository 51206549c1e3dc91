// Commands that work on files for long, without a server: an interrupt ends them in an orderly way.
#pragma once

namespace faultline::cli {

// While one is there, the first SIGINT, SIGTERM or SIGHUP is noted instead of ending the process; the second ends it.
// At most one at a time.
class Interruption {
 public:
  Interruption();
  ~Interruption();
  Interruption(const Interruption&) = delete;

  // CommandError(FAILED) where one has been noted.
  void check() const;
};

}  // namespace faultline::cli
