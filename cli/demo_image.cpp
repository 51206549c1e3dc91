#include "cli/demo_image.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <random>
#include <stdexcept>
#include <vector>

namespace faultline::cli {

namespace {

constexpr std::uint64_t PAGE = 4096;
constexpr std::uint64_t AREA = 64;  // pages of one kind in a row, at most

// The bytes of the machine's own programs and libraries, one after the other, begun again at the end.
class MachineBytes {
 public:
  MachineBytes() {
    for (const char* root : {"/usr/lib", "/usr/bin", "/usr/share"}) {
      std::error_code error;
      for (std::filesystem::recursive_directory_iterator
               it(root, std::filesystem::directory_options::skip_permission_denied, error),
           end;
           !error && it != end; it.increment(error))
        if (it->is_regular_file(error) && !it->is_symlink(error) && it->file_size(error) >= PAGE)
          files_.push_back(it->path());
      std::sort(files_.begin(), files_.end());
      if (files_.size() > 20'000) break;
    }
    if (files_.empty()) throw std::runtime_error("no files of at least 4 KiB under /usr to make an image of");
  }
  ~MachineBytes() {
    if (fd_ >= 0) close(fd_);
  }
  MachineBytes(const MachineBytes&) = delete;

  void fill(char* page) {
    for (std::size_t tries = 0; tries <= files_.size(); tries++) {
      if (fd_ >= 0 && read(fd_, page, PAGE) == static_cast<ssize_t>(PAGE)) return;
      if (fd_ >= 0) close(fd_);
      fd_ = open(files_[next_++ % files_.size()].c_str(), O_RDONLY | O_CLOEXEC);
    }
    throw std::runtime_error("the files under /usr cannot be read");
  }

 private:
  std::vector<std::string> files_;
  std::size_t next_ = 0;
  int fd_ = -1;
};

}  // namespace

DemoImage makeDemoImage(const std::string& path, std::uint64_t bytes, std::uint64_t seed,
                        const std::function<void(std::uint64_t)>& progress) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) throw std::runtime_error("cannot make the image " + path + ": " + std::strerror(errno));
  struct Closer {
    int fd;
    ~Closer() { close(fd); }
  } closer{fd};
  if (ftruncate(fd, static_cast<off_t>(bytes)) != 0)
    throw std::runtime_error("cannot give the image " + path + " its " + std::to_string(bytes) +
                             " bytes: " + std::strerror(errno));

  MachineBytes machine;
  std::mt19937_64 random(seed);
  DemoImage image;
  image.pages = bytes / PAGE;
  std::vector<char> area(AREA * PAGE);
  for (std::uint64_t page = 0; page < image.pages;) {
    const std::uint64_t count = std::min(1 + random() % AREA, image.pages - page);
    const unsigned kind = random() % 10;
    for (std::uint64_t i = 0; i < count; i++) {
      char* to = area.data() + i * PAGE;
      if (kind < 6)
        machine.fill(to);
      else if (kind == 6)
        std::memset(to, 0, PAGE);
      else if (kind == 7)
        for (std::uint64_t at = 0; at < PAGE; at += 8) {
          const std::uint64_t word = random();
          std::memcpy(to + at, &word, 8);
        }
    }
    if (kind < 6)
      image.fromFiles += count;
    else if (kind == 6)
      image.zeros += count;
    else if (kind == 7)
      image.random += count;
    else
      image.holes += count;
    if (kind < 8 && pwrite(fd, area.data(), count * PAGE, static_cast<off_t>(page * PAGE)) !=
                        static_cast<ssize_t>(count * PAGE))
      throw std::runtime_error("cannot write the image " + path + " (" + std::to_string(bytes) + " bytes): " +
                               std::strerror(errno) + "; is there room? choose another place with --dir");
    page += count;
    progress(page);
  }
  return image;
}

}  // namespace faultline::cli
