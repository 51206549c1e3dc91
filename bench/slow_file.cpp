#include "bench/slow_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <kj/io.h>
#include <linux/loop.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <barrier>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <thread>
#include <vector>

#include "bench/pipe.h"
#include "process/clock.h"
#include "process/process.h"

namespace faultline::bench {

namespace {

constexpr std::uint64_t PAGE = 4096;

std::string program() {
  return process::siblingExecutable("test-fuse-file");
}

// The file "mem" at `directory`, as the process sees it.
std::string seenBy(pid_t process, const std::string& directory) {
  return fmt::format("/proc/{}/root{}/mem", process, directory);
}

void end(pid_t process) {
  if (process <= 0) return;
  kill(process, SIGKILL);
  waitpid(process, nullptr, 0);
}

// All that is said until the other end is closed, or has said it all: a line.
std::string lineFrom(int fd) {
  std::string line;
  for (char byte; read(fd, &byte, 1) == 1 && byte != '\n';) line += byte;
  return line;
}

}  // namespace

std::string SlowFile::whyNot() {
  if (access(program().c_str(), X_OK) != 0) return "built without tests or without libfuse3";
  if (access("/dev/fuse", R_OK | W_OK) != 0) return "no access to /dev/fuse";
  return geteuid() == 0 ? "" : "only root may mount";
}

SlowFile::SlowFile(const std::string& directory, const std::string& backing, Cache cache, unsigned readMs) {
  const std::string at = std::filesystem::absolute(directory), executable = program();
  Pipe ready = makePipe();
  const std::string fd = std::to_string(ready.write.get()), delay = std::to_string(readMs);
  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ == 0) {
    setpgid(0, 0);  // an interrupt is its parent's, and reaches it as that one's end
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    fcntl(ready.write.get(), F_SETFD, 0);
    execl(executable.c_str(), executable.c_str(), at.c_str(), backing.c_str(), "-", fd.c_str(),
          cache == Cache::none ? "direct" : "cached", delay.c_str(), nullptr);
    _exit(127);
  }
  ready.write = nullptr;
  char byte;
  if (pid_ < 0 || read(ready.read.get(), &byte, 1) != 1) {
    end(pid_);
    throw std::runtime_error("cannot mount a FUSE file system");
  }
  path_ = seenBy(pid_, at);
}

SlowFile::~SlowFile() {
  end(pid_);
}

// Removes what it has made.
class SlowDisk::Ext4 {
 public:
  Ext4(const std::string& directory, std::uint64_t bytes)
      : folder_(directory + "/slow-ext4"), path_(directory + "/slow-disk") {
    std::filesystem::create_directory(folder_);
    makeImage(folder_ + "/mem", bytes, 0);
    makeImage(path_, 0, bytes + bytes / 4 + (16 << 20));
    const std::string command = fmt::format(
        "PATH=$PATH:/usr/sbin:/sbin mkfs.ext4 -q -b {} -O ^has_journal -d '{}' '{}' >/dev/null 2>&1", PAGE,
        folder_, path_);
    if (std::system(command.c_str()) != 0) throw std::runtime_error("mkfs.ext4 cannot make a file system");
    std::filesystem::remove_all(folder_);
  }
  ~Ext4() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
    std::filesystem::remove(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  const std::string folder_, path_;
};

namespace {

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error("cannot " + what + ": " + std::strerror(errno));
}

// A loop device over the file, which goes when the last that has it open has closed it. Reads are handed on at once, as many
// as come: without direct I/O one thread would make them one after the other.
kj::AutoCloseFd loopOver(int file, std::string& name) {
  const kj::AutoCloseFd control(open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  for (unsigned tries = 0; control.get() >= 0 && tries < 100; tries++) {
    const int number = ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) fail("get a loop device");
    name = "/dev/loop" + std::to_string(number);
    kj::AutoCloseFd device(open(name.c_str(), O_RDONLY | O_CLOEXEC));
    if (device.get() < 0) fail("open " + name);
    loop_config config{};
    config.fd = static_cast<__u32>(file);
    config.block_size = PAGE;
    config.info.lo_flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO;
    if (ioctl(device.get(), LOOP_CONFIGURE, &config) == 0) return device;
    if (errno != EBUSY) fail("set up " + name);  // another has taken it meanwhile
  }
  fail("set up a loop device");
}

// The life of the process that has the mount. Says "" when it is there, or what is wrong.
[[noreturn]] void holdMount(const std::string& file, const std::string& at, pid_t parent, int say) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  std::string said;
  try {
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
      fail("have a mount namespace");
    const kj::AutoCloseFd below(open(file.c_str(), O_RDONLY | O_CLOEXEC));
    if (below.get() < 0) fail("open " + file);
    std::string name;
    const kj::AutoCloseFd device = loopOver(below.get(), name);
    if (mount(name.c_str(), at.c_str(), "ext4", MS_RDONLY, nullptr) != 0) fail("mount " + name);
    said = "ready";
  } catch (const std::exception& error) {
    said = error.what();
  }
  said += '\n';
  if (write(say, said.data(), said.size()) != static_cast<ssize_t>(said.size()) || said != "ready\n")
    _exit(1);
  for (;;) pause();
}

}  // namespace

std::string SlowDisk::whyNot() {
  if (std::string why = SlowFile::whyNot(); !why.empty()) return why;
  if (access("/dev/loop-control", R_OK | W_OK) != 0) return "no access to /dev/loop-control";
  if (std::system("PATH=$PATH:/usr/sbin:/sbin; command -v mkfs.ext4 >/dev/null") != 0)
    return "mkfs.ext4 is not installed";
  return "";
}

SlowDisk::SlowDisk(const std::string& directory, std::uint64_t bytes, unsigned readMs)
    : ext4_(std::make_unique<Ext4>(directory, bytes)),
      file_(directory, ext4_->path(), SlowFile::Cache::none, readMs) {
  const std::string at = std::filesystem::absolute(directory);
  std::filesystem::remove(
      ext4_->path());  // the file system has it open: nothing stays, whatever ends this process
  Pipe said = makePipe();
  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ == 0) holdMount(file_.path(), at, parent, said.write.get());
  said.write = nullptr;
  const std::string line = pid_ > 0 ? lineFrom(said.read.get()) : "cannot start a process";
  if (line != "ready") {
    end(pid_);
    throw std::runtime_error(line.empty() ? "cannot mount an ext4 over a FUSE file" : line);
  }
  path_ = seenBy(pid_, at);
}

SlowDisk::~SlowDisk() {
  end(pid_);
}

double readsPerSecond(const Workload& workload, const BenchImage& image) {
  const std::vector<std::uint32_t> order = touchOrder(workload, image);
  const kj::AutoCloseFd file(open(image.path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) throw std::runtime_error("cannot open " + image.path);
  std::barrier together(workload.threads + 1);
  std::atomic<unsigned> wrong = 0;
  std::vector<std::thread> readers;
  for (unsigned i = 0; i < workload.threads; i++)
    readers.emplace_back([&, i] {
      together.arrive_and_wait();
      alignas(PAGE) std::uint64_t page[PAGE / sizeof(std::uint64_t)];
      for (std::size_t n = order.size() * i / workload.threads; n < order.size() * (i + 1) / workload.threads;
           n++) {
        const std::uint64_t offset = order[n] * PAGE;
        if (pread(file.get(), page, PAGE, static_cast<off_t>(offset)) != static_cast<ssize_t>(PAGE) ||
            page[0] != image.word(offset))
          wrong++;
      }
    });
  const std::uint64_t from = process::nowNs();
  together.arrive_and_wait();
  for (std::thread& reader : readers) reader.join();
  const std::uint64_t took = process::nowNs() - from;
  if (wrong != 0)
    throw std::runtime_error(fmt::format("{} reads of {} were wrong", wrong.load(), image.path));
  return static_cast<double>(order.size()) / (static_cast<double>(took) * 1e-9);
}

}  // namespace faultline::bench
