// The journal: the buffer of read(uffd, ...) is this memory, so nothing that was read is ever lost.
//
// A message that lies here was read and is not yet published; everything else is zero. uffd_msg.event is
// never zero, so a successor finds what its predecessor had read. Replaying a REMOVE is harmless.
//
//   read() -> publish every event -> clear()
#pragma once

#include <linux/userfaultfd.h>

#include <span>

namespace faultline::shm {

// A view of the ring in the segment. For the holder of the write side only.
class Journal {
 public:
  explicit Journal(std::span<uffd_msg> messages) : messages_(messages) {}

  // Reads what is pending on `uffd` (non-blocking) into the front of the journal, which must be clear.
  // Fewer messages than capacity() means that nothing more was pending. Returns none where nothing was.
  // Throws std::system_error on any other failure of read(2).
  std::span<const uffd_msg> read(int uffd);

  // Forgets the first `count` messages, once they are published.
  void clear(std::size_t count);

  // All slots, for replay: those with event == 0 hold nothing. A predecessor may have died while clearing, so
  // zero slots may precede messages.
  std::span<const uffd_msg> all() const { return messages_; }
  bool empty() const;
  std::size_t capacity() const { return messages_.size(); }

 private:
  std::span<uffd_msg> messages_;
};

}  // namespace faultline::shm
