// A file that appears under its name when it is complete, or never.
#pragma once

#include <kj/io.h>
#include <sys/types.h>

#include <string>

namespace faultline::image {

// A file that is not published leaves nothing, whatever ends the process; on file systems that have no unnamed files
// (O_TMPFILE), unless the process is killed: then a file beside `path` is. One thread. Waits for the file system.
class NewFile {
 public:
  // `replace`: whether a file of that name is replaced. Throws std::runtime_error, with the way out, where `path` is
  // taken, or its folder takes no file. `mode`: as of open(2).
  NewFile(const std::string& path, mode_t mode, bool replace);
  ~NewFile();
  NewFile(const NewFile&) = delete;

  int fd() const { return fd_.get(); }
  const std::string& path() const { return path_; }
  // Bytes first, then the name. Throws std::runtime_error.
  void publish();

 private:
  void link(const std::string& name) const;

  const std::string path_;
  const bool replace_;
  std::string temporary_;  // its name so far; empty: it has none
  kj::AutoCloseFd fd_;
};

}  // namespace faultline::image
