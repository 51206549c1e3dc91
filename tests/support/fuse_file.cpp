#include "tests/support/fuse_file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <new>
#include <stdexcept>
#include <vector>

#include "process/process.h"

namespace faultline::test {

std::string FuseFile::whyNot() {
  if (access(process::siblingExecutable("test-fuse-file").c_str(), X_OK) != 0)
    return "built without libfuse3";
  if (access("/dev/fuse", R_OK | W_OK) != 0) return "no access to /dev/fuse";
  if (geteuid() != 0) return "only root may mount";
  return "";
}

FuseFile::FuseFile(const Image& image, Cache cache) {
  const int memory = memfd_create("fuse-control", 0);
  int ends[2];
  if (memory < 0 || ftruncate(memory, sizeof(FuseControl)) != 0 || pipe(ends) != 0)
    throw std::runtime_error("cannot set up a FUSE file");
  control_ =
      new (mmap(nullptr, sizeof(FuseControl), PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0)) FuseControl;
  const std::string program = process::siblingExecutable("test-fuse-file");
  std::vector<std::string> arguments = {program, image.directory(), image.path(), std::to_string(memory),
                                        std::to_string(ends[1])};
  if (cache == Cache::none) arguments.push_back("direct");
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  pid_ = fork();
  if (pid_ == 0) {
    close(ends[0]);
    execv(argv[0], argv.data());
    _exit(127);
  }
  close(ends[1]);
  close(memory);
  char byte;
  const bool mounted = ::read(ends[0], &byte, 1) == 1;
  close(ends[0]);
  if (!mounted) throw std::runtime_error("cannot mount a FUSE file system");
  path_ = "/proc/" + std::to_string(pid_) + "/root" + image.directory() + "/mem";
}

FuseFile::~FuseFile() {
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  munmap(control_, sizeof(FuseControl));
}

void FuseFile::stall(std::uint64_t offset) {
  control_->stalled = offset;
  control_->change();
}

void FuseFile::fail(int error, std::uint64_t offset) {
  control_->error = error;
  control_->failing = offset;
  control_->change();
}

}  // namespace faultline::test
