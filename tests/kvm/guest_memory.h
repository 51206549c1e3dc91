// A guest's memory, restored through a page server.
//
// With vm.h, an example of what a VMM has to do: map each part as Firecracker does (private, anonymous, not
// reserved, perhaps of huge pages), register it with a userfaultfd, send that with the handshake, and touch
// nothing before. The client library does all of it (client/faultline_client.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "client/faultline_client.h"

namespace faultline::kvm {

// One contiguous part of the guest's physical memory. All in bytes.
struct MemoryPart {
  std::uint64_t guestAddress;
  std::uint64_t size;
  std::uint64_t offset;  // in the snapshot's memory file
};

class GuestMemory {
 public:
  // Maps and registers. Throws std::runtime_error, here and below, where that cannot be had.
  GuestMemory(std::vector<MemoryPart> parts, std::uint64_t pageSize);
  ~GuestMemory();
  GuestMemory(const GuestMemory&) = delete;

  // Does the handshake: from here on the memory may be used.
  void restoreFrom(const std::string& socket);
  // Takes the memory back from the server: a thread that waits for a page goes on, with zeros.
  void abandon();

  const std::vector<MemoryPart>& parts() const { return parts_; }
  std::uint64_t pageSize() const { return pageSize_; }
  // Address in the VMM.
  unsigned char* host(std::uint64_t guestAddress) const;
  // Gives the page back to the host: it reads as zeros from then on.
  void discard(std::uint64_t guestAddress);

 private:
  const std::vector<MemoryPart> parts_;
  const std::uint64_t pageSize_;
  faultline_target* target_ = nullptr;
};

}  // namespace faultline::kvm
