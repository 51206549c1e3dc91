#include "tests/kvm/guest_memory.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <cerrno>
#include <stdexcept>
#include <system_error>

namespace faultline::kvm {

GuestMemory::GuestMemory(std::vector<MemoryPart> parts, std::uint64_t pageSize)
    : parts_(std::move(parts)), pageSize_(pageSize) {
  std::vector<faultline_region> regions;
  regions.reserve(parts_.size());
  for (const MemoryPart& part : parts_) regions.push_back({part.size, part.offset, pageSize});
  char why[256];
  if (faultline_target_open(regions.data(), regions.size(), 0, &target_, why, sizeof why) != 0)
    throw std::runtime_error(why);
}

GuestMemory::~GuestMemory() {
  faultline_target_close(target_);
}

void GuestMemory::restoreFrom(const std::string& socket) {
  char why[256];
  if (faultline_target_connect(target_, socket.c_str(), 10'000, why, sizeof why) != 0)
    throw std::runtime_error(why);
}

void GuestMemory::abandon() {
  for (const MemoryPart& part : parts_) {
    uffdio_range range{reinterpret_cast<std::uint64_t>(host(part.guestAddress)), part.size};
    ioctl(faultline_target_uffd(target_), UFFDIO_UNREGISTER, &range);
  }
}

unsigned char* GuestMemory::host(std::uint64_t guestAddress) const {
  for (std::size_t i = 0; i < parts_.size(); i++)
    if (guestAddress >= parts_[i].guestAddress && guestAddress - parts_[i].guestAddress < parts_[i].size)
      return static_cast<unsigned char*>(faultline_target_address(target_, i)) +
             (guestAddress - parts_[i].guestAddress);
  throw std::runtime_error("the guest has no memory at " + std::to_string(guestAddress));
}

void GuestMemory::discard(std::uint64_t guestAddress) {
  // Returns when the page server has read the event.
  if (madvise(host(guestAddress), pageSize_, MADV_DONTNEED) != 0)
    throw std::system_error(errno, std::generic_category(), "MADV_DONTNEED of a guest's page");
}

}  // namespace faultline::kvm
