// On what a file lies.
#pragma once

#include <string>

namespace faultline::image {

// The type of its file system, as /proc/self/mountinfo names it (ext4, fuse.sshfs). Its magic number in hexadecimal
// (statfs(2)) where it is mounted in another mount namespace alone. Empty: that is not to be found out. Any thread.
std::string fileSystemOf(int file);

}  // namespace faultline::image
