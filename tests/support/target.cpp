#include "tests/support/target.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <utility>

#include "uffd/uffd.h"

namespace faultline::test {

namespace {

// include/uapi/linux/fs.h of Linux 6.7.
struct PageRegion {
  std::uint64_t start, end, categories;
};
struct PmScanArg {
  std::uint64_t size, flags, start, end, walkEnd, vec, vecLen, maxPages, categoryInverted, categoryMask,
      categoryAnyofMask, returnMask;
};
constexpr unsigned long PAGEMAP_SCAN_IOCTL = _IOWR('f', 16, PmScanArg);
constexpr std::uint64_t PAGE_IS_WRITTEN_BIT = 1 << 1;

thread_local sigjmp_buf escape;
thread_local volatile bool expected = false;

void onSigbus(int, siginfo_t*, void*) {
  if (expected) siglongjmp(escape, 1);
  signal(SIGBUS, SIG_DFL);  // not ours: the access is tried again, and ends the program
}

// Installs the handler once for the process: threads that touch at one time must not take it from each other.
void expectSigbus() {
  static const bool installed = [] {
    struct sigaction action {};
    action.sa_sigaction = onSigbus;
    action.sa_flags = SA_SIGINFO;
    return sigaction(SIGBUS, &action, nullptr) == 0;
  }();
  expected = installed;
}

int openPagemap() {
  return open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
}

}  // namespace

Target::Target(const Image& image, const std::string& socket, std::uint64_t pageSize, unsigned regions,
               unsigned flags)
    : image_(image), pageSize_(pageSize) {
  std::vector<faultline_region> specs;
  const std::uint64_t each = image.bytes() / pageSize / regions * pageSize;
  // The last part of the file first: order in the message, in the file and in memory are three things.
  for (unsigned i = 0; i < regions; i++) specs.push_back({each, each * (regions - 1 - i), pageSize});
  char why[256];
  if (faultline_target_open(specs.data(), specs.size(), flags, &target_, why, sizeof why) != 0 ||
      faultline_target_connect(target_, socket.c_str(), 10'000, why, sizeof why) != 0)
    throw std::runtime_error(why);
  for (unsigned i = 0; i < regions; i++)
    parts_.push_back({0, each / pageSize, specs[i].offset,
                      static_cast<unsigned char*>(faultline_target_address(target_, i))});
  std::sort(parts_.begin(), parts_.end(), [](const Part& a, const Part& b) { return a.address < b.address; });
  for (Part& part : parts_) {
    part.first = pages_;
    pages_ += part.count;
  }
}

int Target::close() {
  return faultline_target_close(std::exchange(target_, nullptr));
}

Target::~Target() {
  if (target_ == nullptr) return;
  for (const Part& part : parts_)
    uffd::unregister(uffd(), reinterpret_cast<std::uint64_t>(part.address), part.count * pageSize_);
  // A removal may be left unread. Reading it here lets its caller go on.
  uffd_msg message;
  while (uffd::eventInFlight(uffd()) && ::read(uffd(), &message, sizeof message) > 0) continue;
  for (std::thread& thread : threads_) thread.join();
  faultline_target_close(target_);
}

volatile unsigned char* Target::address(std::uint64_t page) const {
  for (const Part& part : parts_)
    if (page < part.first + part.count) return part.address + (page - part.first) * pageSize_;
  throw std::out_of_range("page");
}

std::uint64_t Target::offset(std::uint64_t page) const {
  for (const Part& part : parts_)
    if (page < part.first + part.count) return part.offset + (page - part.first) * pageSize_;
  throw std::out_of_range("page");
}

bool Target::holdsImage(std::uint64_t page) const {
  return std::memcmp(const_cast<unsigned char*>(address(page)), image_.data() + offset(page), pageSize_) == 0;
}

bool Target::isAll(std::uint64_t page, unsigned char byte) const {
  auto* memory = const_cast<unsigned char*>(address(page));
  return memory[0] == byte && std::memcmp(memory, memory + 1, pageSize_ - 1) == 0;
}

void Target::giveBack(std::uint64_t page, std::uint64_t count) const {
  if (madvise(const_cast<unsigned char*>(address(page)), count * pageSize_, MADV_DONTNEED) != 0)
    throw std::runtime_error("madvise");
}

std::future<unsigned char> Target::readLater(std::uint64_t page) {
  return later([this, page] { return read(page); });
}
std::future<void> Target::writeLater(std::uint64_t page, unsigned char byte) {
  return later([this, page, byte] { write(page, byte); });
}
std::future<void> Target::giveBackLater(std::uint64_t page, std::uint64_t count) {
  return later([this, page, count] { giveBack(page, count); });
}

Touch Target::touch(std::uint64_t page) const {
  expectSigbus();
  volatile Touch result = Touch::sigbus;
  if (sigsetjmp(escape, 1) == 0) {
    read(page);
    result = Touch::ok;
  }
  expected = false;
  return result;
}

std::future<Touch> Target::touchLater(std::uint64_t page) {
  return later([this, page] { return touch(page); });
}

bool Target::eventInFlight() const {
  return uffd::eventInFlight(uffd());
}

Target::Queued Target::queued() const {
  std::ifstream info("/proc/self/fdinfo/" + std::to_string(uffd()));
  Queued queued;
  for (std::string key; info >> key;) {
    if (key == "pending:") info >> queued.pending;
    if (key == "total:") info >> queued.total;
  }
  return queued;
}

bool Target::inMemory(std::uint64_t page) const {
  const int fd = openPagemap();
  std::uint64_t entry = 0;
  const auto at = reinterpret_cast<std::uint64_t>(address(page)) / 4096 * sizeof entry;
  if (pread(fd, &entry, sizeof entry, static_cast<off_t>(at)) != sizeof entry) entry = 0;
  ::close(fd);
  return (entry >> 63) != 0;
}

bool Target::written(std::uint64_t page) const {
  const int fd = openPagemap();
  PageRegion found[2];
  PmScanArg scan{};
  scan.size = sizeof scan;
  scan.start = reinterpret_cast<std::uint64_t>(address(page));
  scan.end = scan.start + pageSize_;
  scan.vec = reinterpret_cast<std::uint64_t>(found);
  scan.vecLen = 2;
  scan.categoryMask = PAGE_IS_WRITTEN_BIT;
  scan.returnMask = PAGE_IS_WRITTEN_BIT;
  const long count = ioctl(fd, PAGEMAP_SCAN_IOCTL, &scan);
  ::close(fd);
  if (count < 0) throw std::runtime_error("PAGEMAP_SCAN");
  return count > 0;
}

bool hugePagesAvailable(std::uint64_t count) {
  std::ifstream info("/proc/meminfo");
  for (std::string key; info >> key;) {
    std::uint64_t free = 0;
    if (key == "HugePages_Free:" && info >> free) return free >= count;
  }
  return false;
}

}  // namespace faultline::test
