// The exception of shmtracker: a segment that cannot be made, mapped or believed.
#pragma once

#include <stdexcept>
#include <string>

namespace faultline::shm {

// Thrown by creation, attachment and validation; by the lock where a lock word is damaged, or a holder cannot
// be fenced. A fault's path meets it in tryLockShared(), and the committer fails the restore with its
// text. The text of what() names the thing and the value found. (Journal::read() throws std::system_error
// instead.)
class SegmentError : public std::runtime_error {
 public:
  explicit SegmentError(const std::string& message) : std::runtime_error(message) {}
};

}  // namespace faultline::shm
