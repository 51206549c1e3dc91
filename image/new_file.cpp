#include "image/new_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <random>
#include <stdexcept>

namespace faultline::image {

namespace {

std::string folderOf(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path();
  return folder.empty() ? "." : folder;
}

std::runtime_error error(const std::string& path, const std::string& why) {
  return std::runtime_error(path + " is not written: " + why);
}

std::runtime_error taken(const std::string& path) {
  return error(path, "it is there already; --force replaces it");
}

std::string besides(const std::string& path) {
  return path + "." + std::to_string(std::random_device()()) + ".part";
}

}  // namespace

NewFile::NewFile(const std::string& path, mode_t mode, bool replace) : path_(path), replace_(replace) {
  struct stat there {};
  if (lstat(path.c_str(), &there) == 0) {
    if (!S_ISREG(there.st_mode))
      throw error(path, "it is there already, and no regular file; give another name");
    if (!replace) throw taken(path);
  }
  const std::string folder = folderOf(path);
  fd_ = kj::AutoCloseFd(open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, mode));
  if (fd_.get() < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) {
    temporary_ = besides(path);
    fd_ = kj::AutoCloseFd(open(temporary_.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, mode));
    if (fd_.get() < 0) temporary_.clear();
  }
  if (fd_.get() < 0)
    throw error(
        path, "its folder takes no new file: " + std::string(std::strerror(errno)) + "; give another folder");
}

NewFile::~NewFile() {
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

void NewFile::link(const std::string& name) const {
  const std::string self = "/proc/self/fd/" + std::to_string(fd_.get());
  if (linkat(AT_FDCWD, self.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) == 0) return;
  if (errno == EEXIST && name == path_) throw taken(path_);
  throw error(path_, "its name: " + std::string(std::strerror(errno)));
}

void NewFile::publish() {
  // Without it a crash could leave the name with a part of the bytes.
  if (fsync(fd_.get()) != 0) throw error(path_, std::strerror(errno));
  if (!replace_ && temporary_.empty()) {
    link(path_);
  } else {
    if (temporary_.empty()) {
      const std::string name = besides(path_);
      link(name);
      temporary_ = name;
    }
    if (renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, path_.c_str(), replace_ ? 0 : RENAME_NOREPLACE) !=
        0) {
      if (errno == EEXIST) throw taken(path_);
      throw error(path_, "its name: " + std::string(std::strerror(errno)));
    }
    temporary_.clear();
  }
  const kj::AutoCloseFd folder(open(folderOf(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() < 0 || fsync(folder.get()) != 0)
    throw std::runtime_error(
        path_ + " is written, but whether its name outlives a crash is not known: " + std::strerror(errno));
}

}  // namespace faultline::image
