#include "bench/target_memory.h"

#include <fcntl.h>
#include <kj/io.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>

namespace faultline::bench {

namespace {
constexpr unsigned CONNECT_MS = 10'000;
constexpr std::uint64_t SMALL_PAGE = 4096;

kj::AutoCloseFd openImage(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw std::runtime_error("cannot open " + path + ": " + std::strerror(errno));
  return kj::AutoCloseFd(fd);
}
}  // namespace

TargetMemory::TargetMemory(const Backing& backing, const BenchImage& image,
                           const std::vector<faultline_region>& regions, Removals removals)
    : backing_(backing), regions_(regions) {
  if (backing.kind == Backing::Kind::server)
    openForServer(removals);
  else
    mapWithoutServer(image);
}

void TargetMemory::openForServer(Removals removals) {
  char why[256];
  faultline_target* target;
  if (faultline_target_open(regions_.data(), regions_.size(),
                            removals == Removals::told ? 0 : FAULTLINE_NO_REMOVE, &target, why,
                            sizeof why) != 0)
    throw std::runtime_error(why);
  target_.reset(target);
}

void TargetMemory::mapWithoutServer(const BenchImage& image) {
  const bool ofFile = backing_.kind == Backing::Kind::file;
  const kj::AutoCloseFd file = ofFile ? openImage(image.path) : kj::AutoCloseFd();
  for (const faultline_region& region : regions_) {
    if (region.page_size != SMALL_PAGE) throw std::runtime_error("only a server brings 2 MiB pages");
    void* address = ofFile ? mmap(nullptr, region.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE,
                                  file.get(), static_cast<off_t>(region.offset))
                           : mmap(nullptr, region.size, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (address == MAP_FAILED)
      throw std::runtime_error("cannot map " + std::to_string(region.size) +
                               " bytes: " + std::strerror(errno));
    mapped_.push_back(address);
  }
}

TargetMemory::~TargetMemory() {
  for (std::size_t i = 0; i < mapped_.size(); i++) munmap(mapped_[i], regions_[i].size);
}

void TargetMemory::connect() {
  if (target_ == nullptr) return;
  char why[256];
  if (faultline_target_connect(target_.get(), backing_.socket.c_str(), CONNECT_MS, why, sizeof why) != 0)
    throw std::runtime_error(why);
}

char* TargetMemory::address(unsigned region) const {
  return static_cast<char*>(target_ != nullptr ? faultline_target_address(target_.get(), region)
                                               : mapped_.at(region));
}

}  // namespace faultline::bench
