#include "cli/output_file.h"

#include <sys/stat.h>

#include <stdexcept>

#include "cli/errors.h"

namespace faultline::cli {

namespace {

mode_t modeOf(const std::vector<int>& sources) {
  mode_t mode = 0666;
  for (const int source : sources) {
    struct stat status {};
    if (fstat(source, &status) == 0) mode &= status.st_mode;
  }
  return mode | 0600;
}

}  // namespace

image::NewFile outputFile(const std::string& path, const std::vector<int>& sources, bool force) {
  try {
    return {path, modeOf(sources), force};
  } catch (const std::runtime_error& error) {
    throw CommandError(USAGE, error.what());
  }
}

}  // namespace faultline::cli
