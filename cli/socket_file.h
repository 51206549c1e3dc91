// Files of sockets that we listen on.
#pragma once

#include <kj/io.h>
#include <sys/types.h>

#include <string>

#include "rpc/connection.h"

namespace faultline::cli {

// The file of a socket, which goes with the object, unless another file has taken its place since.
class OwnFile {
 public:
  explicit OwnFile(const std::string& path);
  ~OwnFile();
  OwnFile(const OwnFile&) = delete;

  const std::string& path() const { return path_; }
  // Leaves the file where it is.
  void leave() { left_ = true; }

 private:
  const std::string path_;
  dev_t device_ = 0;
  ino_t inode_ = 0;
  bool left_ = false;
};

// A listening Unix socket and its file.
class SocketFile {
 public:
  // CommandError(USAGE) where it can't be made.
  explicit SocketFile(const std::string& path, const rpc::SocketAccess& access = {});
  // The file of a socket that a service before us made and left.
  struct Left {};
  SocketFile(const std::string& path, Left) : file_(path) {}

  const std::string& path() const { return file_.path(); }
  // The socket itself, for the process that is to serve it. To be called once.
  kj::AutoCloseFd take() { return kj::mv(fd_); }
  // Leaves the file: another process holds the socket and goes on serving it.
  void leave() { file_.leave(); }

 private:
  kj::AutoCloseFd fd_;
  OwnFile file_;  // made with the socket
};

}  // namespace faultline::cli
