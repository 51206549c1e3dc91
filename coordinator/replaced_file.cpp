#include "coordinator/replaced_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <thread>

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

kj::Promise<kj::Own<FileNow>> whatIsAt(std::string path, int open) {
  auto paf = kj::newPromiseAndCrossThreadFulfiller<kj::Own<FileNow>>();
  // By a pointer that a thread may drop whatever its destructor throws.
  auto fulfiller = std::make_shared<decltype(paf.fulfiller)>(kj::mv(paf.fulfiller));
  std::thread([path = std::move(path), open, fulfiller] {
    (*fulfiller)->fulfill(kj::heap<FileNow>(look(path, open)));
  }).detach();
  return kj::mv(paf.promise);
}

}  // namespace faultline::coordinator
