// The file descriptors that a supervisor keeps by name.
#pragma once

#include <kj/io.h>

#include <string>
#include <vector>

namespace faultline::cli {

// In the order in which names were first kept: a successor may rely on it.
class FdStore {
 public:
  struct Entry {
    std::string name;
    kj::AutoCloseFd fd;
  };

  // Keeps `fd` under `name`, in place of what was kept there.
  void keep(const std::string& name, kj::AutoCloseFd fd);
  void drop(const std::string& name);
  const std::vector<Entry>& entries() const { return entries_; }

 private:
  std::vector<Entry> entries_;
};

}  // namespace faultline::cli
