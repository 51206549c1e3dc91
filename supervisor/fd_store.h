// The file descriptors that a supervisor keeps by name.
#pragma once

#include <kj/io.h>

#include <list>
#include <memory>
#include <string>
#include <unordered_map>

namespace faultline::supervisor {

// An fd that may be on its way to a coordinator while its name is dropped or kept anew. Never null.
using SharedFd = std::shared_ptr<const kj::AutoCloseFd>;

// In the order in which names were first kept: a successor may rely on it.
class FdStore {
 public:
  struct Entry {
    std::string name;
    SharedFd fd;
  };

  FdStore() = default;
  FdStore(FdStore&&) = default;
  FdStore& operator=(FdStore&&) = default;

  // Keeps `fd` under `name`, in place of what was kept there.
  void keep(const std::string& name, kj::AutoCloseFd fd);
  void keep(const std::string& name, SharedFd fd);
  void drop(const std::string& name);
  // The fd that is kept under `name`; null where there is none.
  SharedFd find(const std::string& name) const;
  const std::list<Entry>& entries() const { return entries_; }

 private:
  std::list<Entry> entries_;
  std::unordered_map<std::string, std::list<Entry>::iterator> byName_;
};

}  // namespace faultline::supervisor
