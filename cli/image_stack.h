// The layers of a snapshot's memory, as a command line names them: the newest, then what it lies over.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "cli/memory_file.h"

namespace faultline::cli {

struct StackOptions {
  std::string top;
  std::vector<std::string> over;
};

// Adds --over to `command`.
void addOver(CLI::App& command, StackOptions& options);

class ImageStack {
 public:
  // Opens the layers. CommandError(USAGE) where one cannot be opened, or they are not the layers of one memory.
  explicit ImageStack(const StackOptions& options);

  const std::vector<image::StackFile>& layers() const { return layers_; }
  std::uint64_t bytes() const { return bytes_; }  // of each

 private:
  const Memory memory_;
  const std::vector<image::StackFile> layers_;
  const std::uint64_t bytes_;
};

}  // namespace faultline::cli
