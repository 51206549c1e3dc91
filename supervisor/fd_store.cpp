#include "supervisor/fd_store.h"

#include <iterator>
#include <utility>

namespace faultline::supervisor {

void FdStore::keep(const std::string& name, kj::AutoCloseFd fd) {
  keep(name, std::make_shared<const kj::AutoCloseFd>(kj::mv(fd)));
}

void FdStore::keep(const std::string& name, SharedFd fd) {
  const auto found = byName_.find(name);
  if (found != byName_.end()) {
    found->second->fd = std::move(fd);
    return;
  }
  entries_.push_back({name, std::move(fd)});
  byName_[name] = std::prev(entries_.end());
}

void FdStore::drop(const std::string& name) {
  const auto found = byName_.find(name);
  if (found == byName_.end()) return;
  entries_.erase(found->second);
  byName_.erase(found);
}

SharedFd FdStore::find(const std::string& name) const {
  const auto found = byName_.find(name);
  return found == byName_.end() ? nullptr : found->second->fd;
}

}  // namespace faultline::supervisor
