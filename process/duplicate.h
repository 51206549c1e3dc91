// Duplicates of file descriptors.
#pragma once

#include <kj/io.h>

namespace faultline::process {

// A close-on-exec duplicate. Throws kj::Exception where the fd table is full.
kj::AutoCloseFd duplicate(int fd);

}  // namespace faultline::process
