#include "tests/support/image.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

namespace faultline::test {

Image::Image(std::uint64_t bytes) : directory_("/tmp/faultline-test-XXXXXX"), bytes_(bytes) {
  if (mkdtemp(directory_.data()) == nullptr) throw std::runtime_error("mkdtemp");
  path_ = directory_ + "/memory";
  fd_ = open(path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd_ < 0 || ftruncate(fd_, static_cast<off_t>(bytes)) != 0)
    throw std::runtime_error("cannot make " + path_);
  map_ = static_cast<char*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0));
  if (map_ == MAP_FAILED) throw std::runtime_error("cannot map " + path_);
  for (std::uint64_t page = 0; page < bytes / 4096; page++) {
    std::memset(map_ + page * 4096, static_cast<int>(1 + page % 251), 4096);
    std::memcpy(map_ + page * 4096 + 8, &page, sizeof page);
  }
}

Image::~Image() {
  munmap(map_, bytes_);
  close(fd_);
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

void Image::write(std::uint64_t offset, const void* bytes, std::uint64_t length) {
  std::memcpy(map_ + offset, bytes, length);
}

// Not through the mapping: of a page that was written to before, the kernel would not note a new mtime.
void Image::fill(std::uint64_t offset, std::uint64_t length, unsigned char byte) {
  const std::string bytes(length, static_cast<char>(byte));
  if (pwrite(fd_, bytes.data(), length, static_cast<off_t>(offset)) != static_cast<ssize_t>(length))
    throw std::runtime_error("cannot write the image");
}

void Image::hole(std::uint64_t offset, std::uint64_t length) {
  if (fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                static_cast<off_t>(length)) != 0)
    throw std::runtime_error("cannot punch a hole");
}

void Image::truncate(std::uint64_t bytes) {
  if (ftruncate(fd_, static_cast<off_t>(bytes)) != 0) throw std::runtime_error("ftruncate");
}

bool Image::makeCold() {
  std::vector<unsigned char> resident(bytes_ / 4096);
  // The kernel passes over pages that another process just now looks at.
  for (unsigned tries = 0; tries < 1000; tries++) {
    // Mapped pages would stay.
    if (fsync(fd_) != 0 || madvise(map_, bytes_, MADV_DONTNEED) != 0 ||
        posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED) != 0 || mincore(map_, bytes_, resident.data()) != 0)
      throw std::runtime_error("cannot drop " + path_ + " from the page cache");
    if (std::none_of(resident.begin(), resident.end(), [](unsigned char page) { return (page & 1) != 0; }))
      return true;
    sched_yield();
  }
  return false;
}

}  // namespace faultline::test
