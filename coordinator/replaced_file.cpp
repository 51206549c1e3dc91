#include "coordinator/replaced_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "coordinator/own_thread.h"

namespace faultline::coordinator {

namespace {

FileNow look(const std::string& path, int fd) {
  struct stat open {
  }, there{};
  if (fstat(fd, &open) != 0) return {};
  if (stat(path.c_str(), &there) != 0) {
    if (errno == ENOENT || errno == ENOTDIR) return {FileNow::What::gone};
    return {FileNow::What::unreadable, kj::AutoCloseFd(), std::strerror(errno)};
  }
  if (there.st_dev == open.st_dev && there.st_ino == open.st_ino) return {};
  // A pipe would make us wait for its writer.
  if (!S_ISREG(there.st_mode)) return {FileNow::What::unreadable, kj::AutoCloseFd(), "it is no regular file"};
  kj::AutoCloseFd now(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (now.get() < 0) return {FileNow::What::unreadable, kj::AutoCloseFd(), std::strerror(errno)};
  return {FileNow::What::replaced, kj::mv(now)};
}

}  // namespace

kj::Promise<std::shared_ptr<FileNow>> whatIsAt(std::string path, kj::AutoCloseFd open) {
  auto own = std::make_shared<kj::AutoCloseFd>(kj::mv(open));
  auto now = std::make_shared<FileNow>();
  return inOwnThread("a file cannot be looked at",
                     [path = std::move(path), own, now] { *now = look(path, own->get()); })
      .then([now] { return now; });
}

}  // namespace faultline::coordinator
