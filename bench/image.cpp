#include "bench/image.h"

#include <fcntl.h>
#include <kj/io.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <vector>

namespace faultline::bench {

namespace {

// Written in large pieces, as a VMM writes its guest's memory: the page cache then has it in large pieces
// too.
constexpr std::uint64_t PAGE = 4096, CHUNK = 8u << 20;

[[noreturn]] void fail(const std::string& what, const std::string& path) {
  throw std::runtime_error("cannot " + what + " " + path + ": " + std::strerror(errno));
}

// Of a cold image, at most one page in so many may be in the page cache.
constexpr std::uint64_t MOST_LEFT_WARM = 100;

// Tells what is in the page cache without asking for any of it: even a read that must not wait starts a
// readahead (mm/filemap.c, filemap_get_pages).
class Mapped {
 public:
  Mapped(int fd, const BenchImage& image)
      : bytes_(image.dataBytes),
        at_(mmap(nullptr, bytes_, PROT_READ, MAP_SHARED, fd, 0)),
        pages_((bytes_ + PAGE - 1) / PAGE) {
    if (at_ == MAP_FAILED) fail("map", image.path);
  }
  Mapped(const Mapped&) = delete;
  Mapped& operator=(const Mapped&) = delete;
  ~Mapped() { munmap(at_, bytes_); }

  std::uint64_t cachedPages() const {
    if (mincore(at_, bytes_, pages_.data()) != 0) return pages_.size();
    return static_cast<std::uint64_t>(
        std::count_if(pages_.begin(), pages_.end(), [](auto page) { return page & 1; }));
  }

 private:
  std::uint64_t bytes_;
  void* at_;
  mutable std::vector<unsigned char> pages_;
};

}  // namespace

BenchImage makeImage(const std::string& path, std::uint64_t dataBytes, std::uint64_t holeBytes) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) fail("make", path);
  const kj::AutoCloseFd file(fd);
  std::vector<std::uint64_t> chunk(CHUNK / sizeof(std::uint64_t));
  for (std::uint64_t at = 0; at < dataBytes; at += CHUNK) {
    const std::uint64_t length = std::min(CHUNK, dataBytes - at);
    for (std::uint64_t byte = 0; byte < length; byte += sizeof(std::uint64_t))
      chunk[byte / sizeof(std::uint64_t)] = imageWord(at + byte);
    if (pwrite(fd, chunk.data(), length, static_cast<off_t>(at)) != static_cast<ssize_t>(length))
      fail("write", path);
  }
  if (ftruncate(fd, static_cast<off_t>(dataBytes + holeBytes)) != 0) fail("extend", path);
  return {path, dataBytes};
}

BenchImage makeStripedImage(const std::string& path, std::uint64_t bytes, const BenchImage::Stripe& stripe) {
  BenchImage image = makeImage(path, bytes, 0);
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) fail("open", path);
  const kj::AutoCloseFd file(fd);
  for (std::uint64_t at = stripe.data; at < bytes; at += stripe.data + stripe.hole)
    if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(at),
                  static_cast<off_t>(std::min(stripe.hole, bytes - at))) != 0)
      fail("make holes in", path);
  if (fdatasync(fd) != 0) fail("write", path);
  image.stripe = stripe;
  return image;
}

void makeWarm(const BenchImage& image, std::uint64_t bytes) {
  const int fd = open(image.path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail("open", image.path);
  const kj::AutoCloseFd file(fd);
  std::vector<char> chunk(CHUNK);
  for (std::uint64_t at = 0; at < bytes; at += CHUNK)
    if (pread(fd, chunk.data(), chunk.size(), static_cast<off_t>(at)) <= 0) fail("read", image.path);
}

void makeCold(const BenchImage& image) {
  const int fd = open(image.path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail("open", image.path);
  const kj::AutoCloseFd file(fd);
  const Mapped mapped(fd, image);
  // The kernel passes over pages that a process just now looks at: readers of the last measurement that are
  // still ending.
  for (unsigned tries = 0; tries < 1000; tries++) {
    if (fdatasync(fd) != 0 || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) != 0)
      fail("drop from the page cache", image.path);
    if (mapped.cachedPages() <= image.dataBytes / PAGE / MOST_LEFT_WARM) return;
    usleep(1000);
  }
  throw std::runtime_error(image.path + " stays in memory: choose a --directory on a disk");
}

}  // namespace faultline::bench
