#include "shmtracker/journal.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "shmtracker/read_now.h"

namespace faultline::shm {

std::span<const uffd_msg> Journal::read(int uffd) {
  for (;;) {
    const ssize_t got = readNow(uffd, messages_.data(), messages_.size_bytes());
    if (got >= 0) return messages_.first(static_cast<std::size_t>(got) / sizeof(uffd_msg));
    if (errno == EAGAIN) return {};
    if (errno != EINTR) throw std::system_error(errno, std::generic_category(), "read from the userfaultfd");
  }
}

void Journal::clear(std::size_t count) {
  std::memset(messages_.data(), 0, count * sizeof(uffd_msg));
}

bool Journal::empty() const {
  return std::all_of(messages_.begin(), messages_.end(), [](const uffd_msg& m) { return m.event == 0; });
}

}  // namespace faultline::shm
