// Whether files can be the layers of one source.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "image/upper_layer.h"
#include "process/file_identity.h"

namespace faultline::image {

struct StackFile {
  int file;                 // open for reading, borrowed; its position moves
  std::string name;         // for people
  std::string path;         // to find its folder
  bool told = false;        // which pages it has is told by another way than its holes
  std::uint64_t bytes = 0;  // size of the memory; 0: as many as the file has
};

// Why they cannot, naming the file and the way out; nothing where they can: at most process::MOST_LAYERS files, all of one size,
// none of them twice, and the holes of each but the last are to be believed (image/upper_layer.h, `look`). `files`: the
// top one first. A single file is nothing to be asked about. Waits for the file systems. Any thread.
std::optional<std::string> whyNotStack(const std::vector<StackFile>& files, Look look = Look::parts);

}  // namespace faultline::image
