#include "cli/socket_file.h"

#include <kj/exception.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/errors.h"
#include "process/message.h"

namespace faultline::cli {

namespace {

kj::AutoCloseFd makeSocket(const std::string& path, const rpc::SocketAccess& access) {
  kj::AutoCloseFd fd;
  auto failure = kj::runCatchingExceptions([&] { fd = rpc::listenAt(path, access); });
  KJ_IF_MAYBE (e, failure) {
    throw CommandError(USAGE, "socket: " + process::messageOf(*e));
  }
  return fd;
}

}  // namespace

OwnFile::OwnFile(const std::string& path) : path_(path) {
  struct stat status {};
  if (lstat(path_.c_str(), &status) != 0) return;
  device_ = status.st_dev;
  inode_ = status.st_ino;
}

OwnFile::~OwnFile() {
  struct stat status {};
  if (left_ || lstat(path_.c_str(), &status) != 0) return;
  if (status.st_dev == device_ && status.st_ino == inode_) unlink(path_.c_str());
}

SocketFile::SocketFile(const std::string& path, const rpc::SocketAccess& access)
    : fd_(makeSocket(path, access)), file_(path) {}

}  // namespace faultline::cli
