// Whether a file looks like a packed image, before any of it is parsed: packed/ alone reads one.
#pragma once

namespace faultline::image {

// True where it ends as the zstd seekable format does (docs/packed.md). Opening it shows what it is then. `file`: open
// for reading, borrowed. Throws std::system_error where it cannot be read. Waits for the file. Any thread.
bool looksPacked(int file);

}  // namespace faultline::image
