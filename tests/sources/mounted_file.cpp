#include "tests/sources/mounted_file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <stdexcept>

namespace faultline::test {

namespace {

std::string lineFrom(int fd) {
  std::string line;
  for (char byte; ::read(fd, &byte, 1) == 1 && byte != '\n';) line += byte;
  return line;
}

}  // namespace

MountedFile::MountedFile(const Image& image, const std::string& kind) {
  const std::string work = image.directory() + "/mount-" + kind;
  int in[2], out[2];
  if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0) throw std::runtime_error("no pipes");
  pid_ = fork();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(in[0], STDIN_FILENO);
    dup2(out[1], STDOUT_FILENO);
    execlp("sh", "sh", "-c", "mkdir -p \"$3\" && exec unshare --mount --propagation private \"$0\" \"$@\"",
           FAULTLINE_MOUNT_SCRIPT, kind.c_str(), image.path().c_str(), work.c_str(), nullptr);
    _exit(127);
  }
  close(in[0]);
  close(out[1]);
  input_ = in[1];
  const std::string line = lineFrom(out[0]);
  close(out[0]);
  if (line.starts_with("ready "))
    path_ = line.substr(6);
  else
    whyNot_ = kind + ": " + (line.size() > 3 ? line.substr(3) : "no mount namespace here");
}

MountedFile::~MountedFile() {
  close(input_);
  waitpid(pid_, nullptr, 0);
}

void MountedFile::makeCold() const {
  const int fd = open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  close(fd);
}

}  // namespace faultline::test
