// The file that a command writes, as the user names it.
#pragma once

#include <string>
#include <vector>

#include "image/new_file.h"

namespace faultline::cli {

// Makes a file as open to others as the least open of `sources`, which are borrowed: a snapshot's memory has what its guest
// keeps secret. `force`: a file of that name is replaced. CommandError(USAGE) as NewFile.
image::NewFile outputFile(const std::string& path, const std::vector<int>& sources, bool force);

}  // namespace faultline::cli
