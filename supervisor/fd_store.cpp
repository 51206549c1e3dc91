#include "supervisor/fd_store.h"

namespace faultline::supervisor {

void FdStore::keep(const std::string& name, kj::AutoCloseFd fd) {
  auto shared = std::make_shared<const kj::AutoCloseFd>(kj::mv(fd));
  for (Entry& entry : entries_) {
    if (entry.name != name) continue;
    entry.fd = std::move(shared);
    return;
  }
  entries_.push_back({name, std::move(shared)});
}

void FdStore::drop(const std::string& name) {
  std::erase_if(entries_, [&name](const Entry& entry) { return entry.name == name; });
}

SharedFd FdStore::find(const std::string& name) const {
  for (const Entry& entry : entries_)
    if (entry.name == name) return entry.fd;
  return nullptr;
}

}  // namespace faultline::supervisor
