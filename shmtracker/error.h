// The one exception of shmtracker: a segment that cannot be made, mapped or believed.
#pragma once

#include <stdexcept>
#include <string>

namespace faultline::shm {

// Thrown by creation, attachment and validation, never by the paths a fault takes.
// what() names the thing, the value found and the way out.
class SegmentError : public std::runtime_error {
 public:
  explicit SegmentError(const std::string& message) : std::runtime_error(message) {}
};

}  // namespace faultline::shm
