#include "cli/preflight.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/io_uring.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "cli/errors.h"
#include "cli/format.h"
#include "cli/memory_file.h"
#include "cli/packed_file.h"
#include "cli/served_source.h"
#include "cli/service_unit.h"
#include "image/file_system.h"
#include "image/upper_layer.h"
#include "process/content_size.h"
#include "rpc/named_source.h"
#include "shmtracker/layout.h"
#include "shmtracker/region_table.h"
#include "uffd/probe.h"

namespace faultline::cli {

namespace {

using State = Finding::State;

// Fds of one restore and of the listener that its target came by (supervisor/listening_sockets.cpp, docs/operating.md).
constexpr std::uint64_t A_RESTORE = 5, A_LISTENER = 3, A_SHARD = 2, SET_ASIDE = 48;
constexpr std::uint32_t MOST_WORKERS = 4;  // a shard, by default
#ifndef SO_PEERPIDFD
constexpr int SO_PEERPIDFD = 77;  // Linux 6.5 and later
#endif
#ifndef UFFD_FEATURE_POISON
constexpr std::uint64_t UFFD_FEATURE_POISON = 1ull << 14;  // Linux 6.6 and later
#endif

std::string because(int error) {
  return std::strerror(error);
}

bool has(unsigned capability) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, 2> data{};
  return syscall(SYS_capget, &header, data.data()) == 0 &&
         (data[capability / 32].effective >> capability % 32 & 1) != 0;
}

rlimit limitOf(__rlimit_resource resource) {
  rlimit limit{};
  getrlimit(resource, &limit);
  return limit;
}

// --- userfaultfd ---

Finding mayUse(const uffd::Abilities& kernel) {
  using Faults = uffd::Abilities::Faults;
  if (kernel.faults == Faults::all)
    return {"userfaultfd", State::ok, kernel.byDevice ? "by /dev/userfaultfd" : "by the system call"};
  const std::string way =
      "give this user access to /dev/userfaultfd, or CAP_SYS_PTRACE, or set sysctl "
      "vm.unprivileged_userfaultfd=1";
  if (kernel.faults == Faults::ownOnly)
    return {"userfaultfd", State::missing,
            "only faults of user code would be told, not those of system calls: " + way};
  const std::string way2 = kernel.error == ENOSYS ? "a kernel with CONFIG_USERFAULTFD" : way;
  return {"userfaultfd", State::missing, "can't be used here: " + because(kernel.error) + ": " + way2};
}

void lookAtKernel(std::vector<Finding>& findings) {
  const uffd::Abilities kernel = uffd::probe();
  findings.push_back(mayUse(kernel));
  if (kernel.faults == uffd::Abilities::Faults::none) return;
  const auto feature = [&](const char* what, std::uint64_t bits, State without, const char* with,
                           const char* lost) {
    const bool there = (kernel.features & bits) == bits;
    findings.push_back({what, there ? State::ok : without, there ? with : lost});
  };
  findings.push_back({"uffd-populate", kernel.populates ? State::ok : State::missing,
                      kernel.populates
                          ? "a page was registered, copied, zeroed and given back"
                          : "the calls that put pages in place are refused: does a seccomp filter keep "
                            "ioctl(2) from this process? Start it without"});
  feature("uffd-remove", UFFD_FEATURE_EVENT_REMOVE, State::degraded, "what a target gives back is told",
          "nothing tells what a target gives back: old bytes may come back there; Linux 4.11 has it");
  const bool poisons = kernel.poisons && (kernel.features & UFFD_FEATURE_POISON) != 0;
  findings.push_back(
      {"uffd-poison", poisons ? State::ok : State::degraded,
       poisons ? "a page that is lost is an error to its target (SIGBUS)"
               : "a target that loses a page is killed, where it would get SIGBUS; Linux 6.6 has it"});
  feature("uffd-hugetlb", UFFD_FEATURE_MISSING_HUGETLBFS, State::degraded, "2 MiB pages can be served",
          "targets with 2 MiB pages are not served; Linux 4.11 has it");
  feature("uffd-shmem", UFFD_FEATURE_MISSING_SHMEM, State::degraded, "shared memory can be served",
          "targets with shared memory (memfd, tmpfs) are not served; Linux 4.11 has it");
  feature("uffd-wp", UFFD_FEATURE_PAGEFAULT_FLAG_WP, State::degraded,
          "targets may track their dirty pages with it",
          "targets that track their dirty pages by write protection are not served; Linux 5.7 has it");
  // Refused at the door (coordinator/handshake.cpp), so nothing is lost without.
  feature("uffd-minor", UFFD_FEATURE_MINOR_HUGETLBFS | UFFD_FEATURE_MINOR_SHMEM, State::ok,
          "the kernel has it; no restore uses it", "the kernel has it not; no restore uses it");
}

// --- the rest of the kernel ---

Finding ioUring() {
  io_uring_params params{};
  const int ring = static_cast<int>(syscall(SYS_io_uring_setup, 1, &params));
  if (ring >= 0) {
    close(ring);
    return {"io_uring", State::ok, "reads that have to wait cost no thread"};
  }
  return {"io_uring", State::degraded,
          "pages that are not in the page cache are read by threads, fewer at a time (" + because(errno) +
              "): sysctl kernel.io_uring_disabled=0, and no seccomp filter against it"};
}

Finding pidfd() {
  const int self = static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0));
  if (self < 0)
    return {"pidfd", State::missing,
            "pidfd_open: " + because(errno) + ": Linux 5.3 has it; a seccomp filter may hide it"};
  close(self);
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    return {"pidfd", State::missing, because(errno)};
  int peer = -1;
  socklen_t size = sizeof peer;
  const bool ofPeer = getsockopt(ends[0], SOL_SOCKET, SO_PEERPIDFD, &peer, &size) == 0;
  if (ofPeer) close(peer);
  for (const int end : ends) close(end);
  return {"pidfd", ofPeer ? State::ok : State::degraded,
          ofPeer ? "processes and targets are known by it"
                 : "a target is found by its pid, which may be another's when it ends early; Linux 6.5 has "
                   "SO_PEERPIDFD"};
}

Finding seccomp() {
  const std::uint32_t action = SECCOMP_RET_ERRNO;
  if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0)
    return {"seccomp", State::ok, "shards can be confined"};
  return {"seccomp", State::missing,
          "shards cannot be confined, and end: " + because(errno) +
              ": a kernel with CONFIG_SECCOMP_FILTER, or seccomp among the calls of a container's filter"};
}

// --- limits ---

Finding memlock(const Needs& needs) {
  if (has(CAP_IPC_LOCK))
    return {"memlock", State::ok, "CAP_IPC_LOCK: " + humanBytes(needs.lockedBytes) + " are needed"};
  const std::uint64_t limit = limitOf(RLIMIT_MEMLOCK).rlim_cur;
  if (limit >= needs.lockedBytes)
    return {"memlock", State::ok, humanBytes(needs.lockedBytes) + " are needed, and may be locked"};
  return {"memlock", State::missing,
          humanBytes(limit) + " may be locked, " + humanBytes(needs.lockedBytes) +
              " are needed: raise it (ulimit -l, LimitMEMLOCK=) or grant CAP_IPC_LOCK"};
}

Finding openFiles(const Needs& needs) {
  const std::uint64_t limit = limitOf(RLIMIT_NOFILE).rlim_max;  // the supervisor takes all of it
  const std::string counts =
      std::to_string(needs.files) + " files are needed, " + std::to_string(limit) + " may be open";
  if (limit >= needs.files) return {"files", State::ok, counts};
  return {"files", State::missing, counts + ": raise it (ulimit -Hn, LimitNOFILE=)"};
}

Finding storeOf(const Plan& plan, const Needs& needs) {
  const ServiceUnit unit = serviceUnit(plan.unit);
  const std::string lost = "; the death of `faultline serve` itself would end the service";
  if (unit.state != ServiceUnit::State::loaded) return {"fd-store", State::degraded, unit.why + lost};
  if (unit.storedFds == 0)
    return {"fd-store", State::degraded, plan.unit + " has no FileDescriptorStoreMax=" + lost};
  const auto tooSmall = [&](const char* setting, std::uint64_t value, std::uint64_t needed) {
    return Finding{"fd-store", State::missing,
                   plan.unit + " has " + setting + std::to_string(value) + ", and " + std::to_string(needed) +
                       " are needed: raise it by a drop-in (systemctl edit " + plan.unit + ")"};
  };
  if (unit.storedFds < needs.storedFds)
    return tooSmall("FileDescriptorStoreMax=", unit.storedFds, needs.storedFds);
  if (unit.openFiles < needs.files) return tooSmall("LimitNOFILE=", unit.openFiles, needs.files);
  if (unit.lockedBytes < needs.lockedBytes)
    return tooSmall("LimitMEMLOCK=", unit.lockedBytes, needs.lockedBytes);
  return {"fd-store", State::ok,
          plan.unit + " keeps " + std::to_string(unit.storedFds) + " files over a restart, " +
              std::to_string(needs.storedFds) + " are needed"};
}

Finding hugePages() {
  const std::string pool = "/sys/kernel/mm/hugepages/hugepages-2048kB/";
  const auto number = [&](const char* name) {
    std::uint64_t value = 0;
    std::ifstream(pool + name) >> value;
    return value;
  };
  const std::uint64_t all = number("nr_hugepages"), free = number("free_hugepages");
  const std::string counts = std::to_string(free) + " of " + std::to_string(all) + " pages of 2 MiB are free";
  if (free > 0) return {"hugetlb", State::ok, counts};
  return {"hugetlb", State::degraded,
          counts + ": targets with 2 MiB pages cannot run; sysctl vm.nr_hugepages=N makes a pool"};
}

// --- memory files ---

// Whether mincore(2) tells of it to a shard, which has no capabilities (mm/mincore.c, can_do_mincore).
bool isToldOf(int file) {
  struct stat status {};
  return fstat(file, &status) == 0 && (status.st_uid == geteuid() || (status.st_mode & S_IWOTH) != 0);
}

// Of a source that a server has.
Finding served(const std::string& uri) {
  try {
    const SnapshotIdentity identity = askServer(rpc::makeNamedSource(uri).get(), uri);
    return {"memory", State::ok, uri + ": " + humanBytes(identity.bytes) + ", the lowest layer only"};
  } catch (const std::exception& error) {
    return {"memory", State::missing, error.what()};
  }
}

Finding memoryFile(const std::string& path, bool lowest) {
  if (rpc::SourceUri::isMeant(path)) return served(path);
  kj::AutoCloseFd file;
  try {
    file = openMemory(path);
  } catch (const CommandError& error) {
    return {"memory", State::missing, error.what()};
  }
  const std::string fileSystem = image::fileSystemOf(file.get());
  const std::string facts = path + ": " + humanBytes(process::contentBytes(file.get()).value_or(0)) +
                            (fileSystem.empty() ? "" : " on " + fileSystem);
  if (isPacked(file.get(), path)) {
    try {
      const PackedFile packed = packedFile(kj::mv(file), path);
      return {"memory", State::ok, facts + ", a packed image of " + humanBytes(packed.image.bytes())};
    } catch (const CommandError& error) {
      return {"memory", State::missing, error.what()};
    }
  }
  const auto whyNot = image::whyNotUpper(file.get(), path);
  if (whyNot.has_value() && !lowest)
    return {"memory", State::missing, path + " can't be an upper layer: " + *whyNot};
  const std::string served = whyNot.has_value() ? ", the lowest layer only" : ", any layer";
  if (!isToldOf(file.get()))
    return {"memory", State::degraded,
            facts + served +
                "; it is another user's: what is in memory is not told, so 2 MiB pages wait for a read, and "
                "dense faults cost a copy more"};
  return {"memory", State::ok, facts + served};
}

void lookAtMemory(std::vector<Finding>& findings, const std::vector<std::string>& layers) {
  for (const std::string& path : layers) findings.push_back(memoryFile(path, &path == &layers.back()));
  if (layers.size() < 2) return;
  try {
    openStack(layers);
    findings.push_back({"stack", State::ok, "the files can be served as one memory"});
  } catch (const CommandError& error) {
    findings.push_back({"stack", State::missing, error.what()});
  }
}

}  // namespace

const char* nameOf(State state) {
  switch (state) {
    case State::ok:
      return "ok";
    case State::degraded:
      return "degraded";
    case State::missing:
      return "missing";
  }
  return "?";
}

Needs needsOf(const Plan& plan) {
  const std::uint64_t pages = std::max<std::uint64_t>(1, plan.bytes / 4096);
  const std::array<shm::Region, 1> regions{{{0, pages * 4096, 0, 4096}}};
  const std::uint32_t extents = shm::RegionTable::extentsOf(regions);
  const std::uint64_t segment = shm::Layout::of(1, extents, pages, MOST_WORKERS).end;
  const std::uint64_t lower = plan.layers.empty() ? 0 : plan.layers.size() - 1;
  const std::uint64_t kept = plan.restores * (A_RESTORE + A_LISTENER + 2 * lower) + plan.shards * A_SHARD;
  return {plan.restores * segment, kept + SET_ASIDE, kept};
}

std::vector<Finding> preflight(const Plan& plan) {
  const Needs needs = needsOf(plan);
  std::vector<Finding> findings;
  lookAtKernel(findings);
  findings.push_back(ioUring());
  findings.push_back(pidfd());
  findings.push_back(seccomp());
  findings.push_back(memlock(needs));
  findings.push_back(openFiles(needs));
  findings.push_back(storeOf(plan, needs));
  findings.push_back(hugePages());
  lookAtMemory(findings, plan.layers);
  return findings;
}

}  // namespace faultline::cli
