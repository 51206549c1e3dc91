// A copy of an image on a file system, or a block device, that the test makes.
#pragma once

#include <sys/types.h>

#include <string>

#include "tests/support/image.h"

namespace faultline::test {

// A process of its own mounts it, in a mount namespace of its own: nothing of it is left when that ends, and
// it ends with this object or with the test.
class MountedFile {
 public:
  // `kind`: ext4, xfs, btrfs, squashfs, erofs, overlay, tmpfs, loop (the block device itself), full (an ext4 whose disk
  // takes less than it has room for, so that late writes fail), or a variant that the script `mount` has: ext4-1k. Its
  // holes are the image's where the file system has them. If that is not possible here, whyNot() says so.
  MountedFile(const Image& image, const std::string& kind);
  ~MountedFile();
  MountedFile(const MountedFile&) = delete;

  const std::string& whyNot() const { return whyNot_; }
  const std::string& path() const { return path_; }
  // Out of the page cache, as far as the file system lets go of it.
  void makeCold() const;

 private:
  std::string path_, whyNot_;
  pid_t pid_ = -1;
  int input_ = -1;
};

}  // namespace faultline::test
