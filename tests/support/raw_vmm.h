// A VMM that says its handshake word for word as a version of Firecracker does.
#pragma once

#include <kj/io.h>
#include <linux/userfaultfd.h>

#include <cstdint>
#include <string>
#include <vector>

namespace faultline::test {

class RawVmm {
 public:
  // Memory of `sizes` bytes each, mapped and registered as Firecracker does: private, anonymous, not
  // reserved, perhaps of huge pages; UFFD_FEATURE_EVENT_REMOVE and missing pages alone, unless said
  // otherwise. `memory`: the file that it maps instead, shared, as other VMMs do; borrowed. `addresses`:
  // where; anywhere without.
  explicit RawVmm(const std::vector<std::uint64_t>& sizes, std::uint64_t pageSize = 4096,
                  std::uint64_t features = UFFD_FEATURE_EVENT_REMOVE,
                  std::uint64_t mode = UFFDIO_REGISTER_MODE_MISSING, int memory = -1,
                  const std::vector<std::uint64_t>& addresses = {}, bool privately = false);
  // Takes its memory back first.
  ~RawVmm();
  RawVmm(const RawVmm&) = delete;

  // The regions as JSON objects of these three fields and `more` (",\"page_size\":4096").
  std::string body(const std::string& more = "") const;
  void connect(const std::string& socket);
  // Sends the text and these fds by one sendmsg.
  void send(const std::string& text, const std::vector<int>& fds = {});
  void hangUp() { connection_ = nullptr; }
  // Returns when the server has closed the connection.
  void awaitHangUp();

  int uffd() const { return uffd_.get(); }
  volatile unsigned char* at(std::size_t region, std::uint64_t offset = 0) const {
    return parts_[region].address + offset;
  }

 private:
  struct Part {
    unsigned char* address;
    std::uint64_t size, offset;
  };
  kj::AutoCloseFd uffd_, connection_;
  std::vector<Part> parts_;
};

}  // namespace faultline::test
