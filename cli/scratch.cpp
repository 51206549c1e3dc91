#include "cli/scratch.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "cli/errors.h"

namespace faultline::cli {

ScratchDirectory::ScratchDirectory(const std::string& parent, const std::string& wayOut)
    : path_(parent + "/faultline-XXXXXX") {
  if (mkdtemp(path_.data()) == nullptr)
    throw CommandError(ENVIRONMENT,
                       "cannot make a directory in " + parent + ": " + std::strerror(errno) + "; " + wayOut);
}

ScratchDirectory::~ScratchDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace faultline::cli
