// The bytes of a restore's segment, for tests that damage them.
#pragma once

#include <sys/mman.h>
#include <sys/stat.h>

#include "rpc/fd.h"
#include "tests/support/server.h"

namespace faultline::test {

class SegmentBytes {
 public:
  explicit SegmentBytes(Server& server) {
    auto request = server.hooks().segmentRequest();
    request.setRestore(Server::restoreName().c_str());
    auto response = server.wait(request.send());
    fd_ = server.wait(rpc::requireFd(response.getSegment(), "segment"));
    struct stat status {};
    fstat(fd_.get(), &status);
    size_ = static_cast<std::size_t>(status.st_size);
    start_ =
        static_cast<unsigned char*>(mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0));
  }
  ~SegmentBytes() { munmap(start_, size_); }
  SegmentBytes(const SegmentBytes&) = delete;

  unsigned char& operator[](std::size_t i) { return start_[i]; }
  std::size_t size() const { return size_; }

 private:
  kj::AutoCloseFd fd_;
  std::size_t size_;
  unsigned char* start_;
};

}  // namespace faultline::test
