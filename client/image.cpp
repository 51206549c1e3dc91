#include "client/image.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace faultline::target {

namespace {

[[noreturn]] void refuse(const std::string& path, const std::string& why) {
  throw UsageError("cannot use the image " + path + ": " + why);
}

}  // namespace

Image::Image(const std::string& path, std::uint64_t pageSize) : pageSize_(pageSize) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) refuse(path, std::strerror(errno));
  struct stat status {};
  fstat(fd, &status);
  bytes_ = S_ISREG(status.st_mode) ? static_cast<std::uint64_t>(status.st_size) : 0;
  if (S_ISBLK(status.st_mode) && ioctl(fd, BLKGETSIZE64, &bytes_) != 0) bytes_ = 0;
  void* start = MAP_FAILED;
  if (bytes_ > 0 && bytes_ % pageSize == 0) start = mmap(nullptr, bytes_, PROT_READ, MAP_SHARED, fd, 0);
  const int error = errno;
  close(fd);
  if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode))
    refuse(path, "it is not a regular file and not a block device");
  if (bytes_ == 0 || bytes_ % pageSize != 0)
    refuse(path, "its " + std::to_string(bytes_) + " bytes are not a multiple of the page size " +
                     std::to_string(pageSize));
  if (start == MAP_FAILED) refuse(path, std::strerror(error));
  start_ = static_cast<const char*>(start);
}

Image::~Image() {
  munmap(const_cast<char*>(start_), bytes_);
}

}  // namespace faultline::target
