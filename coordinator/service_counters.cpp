#include "coordinator/service_counters.h"

#include <fcntl.h>
#include <kj/debug.h>
#include <spdlog/spdlog.h>
#include <sys/mman.h>
#include <sys/stat.h>

namespace faultline::coordinator {

namespace {

constexpr std::uint64_t MAGIC = 0x3174'6e75'6f63'6c66;  // "flcount1": another shape, another number
// Against a mapping whose end has gone: that would be a SIGBUS for the coordinator.
constexpr int SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

struct Shared {
  std::uint64_t magic;
  // In what a former build has as padding, and 0 where that made the memory.
  shm::Counter lastEvent;
  alignas(128) ServiceTotals totals;
};
static_assert(offsetof(Shared, totals) == 128);

Shared& sharedOf(ServiceTotals* totals) {
  return *reinterpret_cast<Shared*>(reinterpret_cast<std::byte*>(totals) - offsetof(Shared, totals));
}

bool fits(int fd) {
  struct stat status {};
  return fstat(fd, &status) == 0 && status.st_size == static_cast<off_t>(sizeof(Shared)) &&
         (fcntl(fd, F_GET_SEALS) & SEALS) == SEALS;
}

Shared& map(int fd) {
  void* at = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) KJ_FAIL_SYSCALL("mmap of the service's counters", errno);
  return *static_cast<Shared*>(at);
}

kj::AutoCloseFd make() {
  int fd;
  KJ_SYSCALL(fd = memfd_create("faultline-counters", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  kj::AutoCloseFd result(fd);
  KJ_SYSCALL(ftruncate(fd, sizeof(Shared)));
  KJ_SYSCALL(fcntl(fd, F_ADD_SEALS, SEALS));
  return result;
}

}  // namespace

void ServiceCounters::Unmap::operator()(ServiceTotals* totals) const {
  munmap(&sharedOf(totals), sizeof(Shared));
}

shm::Counter& ServiceCounters::lastEvent() const {
  return sharedOf(totals_.get()).lastEvent;
}

ServiceCounters::ServiceCounters(kj::AutoCloseFd inherited) {
  if (inherited.get() >= 0 && fits(inherited.get())) {
    Shared& shared = map(inherited.get());
    totals_.reset(&shared.totals);
    if (shared.magic == MAGIC) return;
  }
  if (inherited.get() >= 0) spdlog::warn("the service's counters are of another build: they begin anew");
  fresh_ = make();
  Shared& shared = map(fresh_.get());
  totals_.reset(&shared.totals);
  shared.magic = MAGIC;
}

}  // namespace faultline::coordinator
