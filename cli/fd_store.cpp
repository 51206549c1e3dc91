#include "cli/fd_store.h"

#include <algorithm>

namespace faultline::cli {

void FdStore::keep(const std::string& name, kj::AutoCloseFd fd) {
  for (Entry& entry : entries_) {
    if (entry.name != name) continue;
    entry.fd = kj::mv(fd);
    return;
  }
  entries_.push_back({name, kj::mv(fd)});
}

void FdStore::drop(const std::string& name) {
  std::erase_if(entries_, [&name](const Entry& entry) { return entry.name == name; });
}

}  // namespace faultline::cli
