// The image as it is in its file; the restored memory is compared with it.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace faultline::target {

// Arguments of the user do not fit together.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The machine does not allow it: no userfaultfd, no huge pages, no server.
struct EnvironmentError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Mapped read-only. Constant after construction.
class Image {
 public:
  // UsageError: not there, not readable, empty, or not made of whole pages of `pageSize` bytes.
  Image(const std::string& path, std::uint64_t pageSize);
  ~Image();
  Image(const Image&) = delete;

  const char* page(std::uint64_t index) const { return start_ + index * pageSize_; }
  std::uint64_t pages() const { return bytes_ / pageSize_; }
  std::uint64_t pageSize() const { return pageSize_; }

 private:
  const std::uint64_t pageSize_;
  std::uint64_t bytes_ = 0;
  const char* start_ = nullptr;
};

}  // namespace faultline::target
