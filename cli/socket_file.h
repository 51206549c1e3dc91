// A listening socket and its file.
#pragma once

#include <kj/io.h>

#include <string>

namespace faultline::cli {

// A listening Unix socket, mode 0600, and its file, which goes with the object.
class SocketFile {
 public:
  // CommandError(USAGE) where it can't be made.
  explicit SocketFile(const std::string& path);
  // The file of a socket that a service before us made and left.
  struct Left {};
  SocketFile(const std::string& path, Left) : path_(path) {}
  ~SocketFile();
  SocketFile(const SocketFile&) = delete;

  const std::string& path() const { return path_; }
  // The socket itself, for the process that is to serve it. To be called once.
  kj::AutoCloseFd take() { return kj::mv(fd_); }
  // Leaves the file: another process holds the socket and goes on serving it.
  void leave() { left_ = true; }

 private:
  const std::string path_;
  kj::AutoCloseFd fd_;
  bool left_ = false;
};

}  // namespace faultline::cli
