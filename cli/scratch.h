// A private directory that goes with its content.
#pragma once

#include <string>

namespace faultline::cli {

class ScratchDirectory {
 public:
  // Makes `parent`/faultline-XXXXXX, mode 0700. CommandError(ENVIRONMENT) with `wayOut` where that fails.
  ScratchDirectory(const std::string& parent, const std::string& wayOut);
  ~ScratchDirectory();
  ScratchDirectory(const ScratchDirectory&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace faultline::cli
