// A file system of one file, "mem", whose reads stall and fail as the test says (fuse_file.h), or each take a while. Run by
// FuseFile, and by the benchmarks: test-fuse-file MOUNTPOINT BACKING CONTROL-FD|- READY-FD [direct|cached [DELAY-MS]]
#define FUSE_USE_VERSION 31
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstring>
#include <new>
#include <string>
#include <thread>

#include "tests/support/fuse_control.h"

namespace {

// At once; each takes a thread while it stalls.
constexpr unsigned READS = 64;

using faultline::test::FuseControl;

int backing = -1;
int ready = -1;
bool direct = false;
std::chrono::milliseconds delay{0};
FuseControl* control = nullptr;

void* begin(fuse_conn_info* connection, fuse_config* config) {
  connection->max_background = READS;  // those that a loop device asks for are of this kind
  config->kernel_cache = direct ? 0 : 1;
  [[maybe_unused]] const ssize_t written = write(ready, "x", 1);
  close(ready);
  return nullptr;
}

int getattr(const char* path, struct stat* status, fuse_file_info*) {
  *status = {};
  if (std::strcmp(path, "/") == 0) {
    status->st_mode = S_IFDIR | 0755;
    return 0;
  }
  if (std::strcmp(path, "/mem") != 0) return -ENOENT;
  struct stat file {};
  if (fstat(backing, &file) != 0) return -errno;
  status->st_mode = S_IFREG | 0644;
  status->st_nlink = 1;
  status->st_size = file.st_size;
  status->st_blocks = file.st_blocks;
  status->st_mtim = file.st_mtim;
  return 0;
}

int open(const char* path, fuse_file_info* info) {
  if (std::strcmp(path, "/mem") != 0) return -ENOENT;
  info->direct_io = direct ? 1 : 0;
  info->keep_cache = direct ? 0 : 1;
  return 0;
}

int read(const char*, char* buffer, size_t size, off_t offset, fuse_file_info*) {
  const auto from = static_cast<std::uint64_t>(offset);
  control->reads++;
  std::this_thread::sleep_for(delay);
  if (control->slows(from, size)) {
    control->waiting++;
    while (control->slows(from, size)) control->awaitChange();
    control->waiting--;
  }
  if (const int error = control->errorOf(from, size); error != 0) {
    control->failed++;
    return -error;
  }
  const ssize_t got = pread(backing, buffer, size, offset);
  return got < 0 ? -errno : static_cast<int>(got);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) return 2;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  // The mount is this process's own: it goes with it, whatever ends it.
  if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return 3;
  backing = ::open(argv[2], O_RDONLY | O_CLOEXEC);
  const bool controlled = std::strcmp(argv[3], "-") != 0;
  void* shared =
      mmap(nullptr, sizeof(FuseControl), PROT_READ | PROT_WRITE,
           controlled ? MAP_SHARED : MAP_SHARED | MAP_ANONYMOUS, controlled ? std::stoi(argv[3]) : -1, 0);
  if (backing < 0 || shared == MAP_FAILED) return 4;
  control = controlled ? static_cast<FuseControl*>(shared) : new (shared) FuseControl;
  ready = std::stoi(argv[4]);
  direct = argc > 5 && std::strcmp(argv[5], "direct") == 0;
  if (argc > 6) delay = std::chrono::milliseconds(std::stoi(argv[6]));
  fuse_operations operations{};
  operations.init = begin;
  operations.getattr = getattr;
  operations.open = open;
  operations.read = read;
  const std::string most = std::to_string(READS);
  std::string options = "ro,max_threads=" + most + ",max_idle_threads=" + most;
  char* arguments[] = {argv[0], const_cast<char*>("-f"), const_cast<char*>("-o"), options.data(), argv[1],
                       nullptr};
  return fuse_main(5, arguments, &operations, nullptr);
}
