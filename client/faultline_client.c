#include "faultline_client.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "failure.h"
#include "kernel_uffd.h"

enum { SMALL_PAGE = 4096, HUGE_PAGE_SHIFT = 21, HUGE_PAGE = 1 << HUGE_PAGE_SHIFT };
/* How long a server may take to let go of a target, ms; a shard of it that is stuck is killed before. */
enum { LEAVE_MS = 3000 };

struct faultline_target {
  int uffd, socket; /* -1: none */
  unsigned flags;
  size_t count, mapped, registered; /* regions: all; the first so many are mapped; registered */
  faultline_region* regions;
  void** addresses;
};

static int checkRegion(const faultline_region* region, size_t index, const struct Why* why) {
  const unsigned long long size = region->size, offset = region->offset, page = region->page_size;
  if (page != SMALL_PAGE && page != HUGE_PAGE)
    return fail(why, EINVAL, "region %zu: pages of %llu bytes are not served; 4096 and 2097152 are", index,
                page);
  if (size == 0 || size % page != 0 || size > SIZE_MAX)
    return fail(why, EINVAL, "region %zu: its size %llu must be a multiple of its page size %llu, and not 0",
                index, size, page);
  if (offset % page != 0)
    return fail(why, EINVAL, "region %zu: its offset %llu must be a multiple of its page size %llu", index,
                offset, page);
  if (offset + size < offset)
    return fail(why, EINVAL, "region %zu: %llu bytes from offset %llu on are more than a file can have",
                index, size, offset);
  return 0;
}

/* The first number in a file of /proc or /sys; `otherwise` where there is none. */
static long readNumber(const char* path, long otherwise) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return otherwise;
  char text[32];
  const ssize_t bytes = read(fd, text, sizeof text - 1);
  close(fd);
  if (bytes <= 0) return otherwise;
  text[bytes] = '\0';
  return strtol(text, NULL, 10);
}

/* Memory that is not reserved can be mapped where there is no huge page at all, and would never come.
   Without a readable /sys, as in some containers, the mapping alone decides. */
static int requireHugePages(size_t index, const struct Why* why) {
#define POOL "/sys/kernel/mm/hugepages/hugepages-2048kB/"
  if (readNumber(POOL "nr_hugepages", 1) + readNumber(POOL "nr_overcommit_hugepages", 0) > 0) return 0;
#undef POOL
  return fail(
      why, ENOMEM,
      "region %zu: this machine has no huge pages of 2 MiB; set /proc/sys/vm/nr_hugepages to as many as "
      "the memory has",
      index);
}

static int openUffd(const struct Why* why) {
  const int flags = O_CLOEXEC | O_NONBLOCK;
  const int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  if (device >= 0) {
    const int fd = ioctl(device, USERFAULTFD_IOC_NEW, flags);
    close(device);
    if (fd >= 0) return fd;
  }
  const int fd = (int)syscall(SYS_userfaultfd, flags);
  if (fd >= 0) return fd;
  if (errno == ENOSYS)
    return fail(why, errno, "this kernel has no userfaultfd: %m; it needs CONFIG_USERFAULTFD, Linux 5.7");
  if (errno == EMFILE)
    return fail(why, errno, "cannot make a userfaultfd: %m; raise this process's limit (ulimit -n)");
  if (errno != EPERM) return fail(why, errno, "cannot make a userfaultfd: %m");
  return fail(
      why, errno,
      "cannot make a userfaultfd: %m; give this user access to /dev/userfaultfd, or CAP_SYS_PTRACE, or "
      "set sysctl vm.unprivileged_userfaultfd=1");
}

static int setUp(const faultline_target* target, const struct Why* why) {
  const int tracks = (target->flags & FAULTLINE_TRACK_WRITES) != 0;
  struct uffdio_api api = {.api = UFFD_API};
  if ((target->flags & FAULTLINE_NO_REMOVE) == 0) api.features |= UFFD_FEATURE_EVENT_REMOVE;
  if (tracks)
    api.features |= UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_PAGEFAULT_FLAG_WP;
  const unsigned long long features = api.features; /* the kernel clears them where it refuses */
  if (ioctl(target->uffd, UFFDIO_API, &api) == 0) return 0;
  return fail(why, errno, "the kernel refuses the userfaultfd features 0x%llx: %m%s", features,
              tracks ? "; FAULTLINE_TRACK_WRITES needs Linux 6.7" : "");
}

static int mapRegion(faultline_target* target, size_t index, const struct Why* why) {
  const faultline_region* region = &target->regions[index];
  const int huge = region->page_size == HUGE_PAGE;
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  if (huge) {
    const int result = requireHugePages(index, why);
    if (result != 0) return result;
    flags |= MAP_HUGETLB | HUGE_PAGE_SHIFT << MAP_HUGE_SHIFT;
  }
  void* address = mmap(NULL, region->size, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (address == MAP_FAILED)
    return fail(why, errno, "region %zu: cannot map %llu bytes: %m%s", index,
                (unsigned long long)region->size,
                huge ? "; are there huge pages of 2 MiB? (/proc/sys/vm/nr_hugepages)"
                     : "; is the address space limited? (ulimit -v)");
  target->addresses[index] = address;
  target->mapped++;
  return 0;
}

static int registerRegion(faultline_target* target, size_t index, const struct Why* why) {
  const int tracks = (target->flags & FAULTLINE_TRACK_WRITES) != 0;
  struct uffdio_register request = {
      .range = {(uintptr_t)target->addresses[index], target->regions[index].size},
      .mode = UFFDIO_REGISTER_MODE_MISSING | (tracks ? UFFDIO_REGISTER_MODE_WP : 0)};
  if (ioctl(target->uffd, UFFDIO_REGISTER, &request) != 0)
    return fail(why, errno,
                "region %zu: cannot register its %llu bytes with the userfaultfd: %m; they must be private, "
                "anonymous memory of pages of %llu bytes",
                index, (unsigned long long)request.range.len,
                (unsigned long long)target->regions[index].page_size);
  target->registered++;
  if (!tracks) return 0;
  /* Arms the empty pages too, so that a first write is told from a restore. */
  struct uffdio_writeprotect protect = {.range = request.range, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
  if (ioctl(target->uffd, UFFDIO_WRITEPROTECT, &protect) == 0) return 0;
  return fail(why, errno, "region %zu: cannot arm write tracking: %m", index);
}

/* `addresses`: of memory that is mapped already; NULL: it is mapped here. */
static int build(faultline_target* target, const faultline_region* regions, void* const* addresses,
                 const struct Why* why) {
  target->regions = calloc(target->count, sizeof *target->regions);
  target->addresses = calloc(target->count, sizeof *target->addresses);
  if (target->regions == NULL || target->addresses == NULL)
    return fail(why, ENOMEM, "no memory for %zu regions", target->count);
  for (size_t i = 0; i < target->count; i++) {
    target->regions[i] = regions[i];
    const int result = checkRegion(&regions[i], i, why);
    if (result != 0) return result;
  }
  target->uffd = openUffd(why);
  if (target->uffd < 0) return target->uffd;
  int result = setUp(target, why);
  for (size_t i = 0; result == 0 && i < target->count; i++) {
    if (addresses == NULL)
      result = mapRegion(target, i, why);
    else
      target->addresses[i] = addresses[i];
    if (result == 0) result = registerRegion(target, i, why);
  }
  return result;
}

static int openTarget(const faultline_region* regions, void* const* addresses, size_t count, unsigned flags,
                      faultline_target** target, char* text, size_t size) {
  const struct Why why = {text, size};
  const unsigned known = FAULTLINE_NO_REMOVE | FAULTLINE_TRACK_WRITES;
  if (regions == NULL || count == 0 || target == NULL)
    return fail(&why, EINVAL, "a target needs at least one region, and a place to be returned in");
  if ((flags & ~known) != 0)
    return fail(&why, EINVAL, "the flags 0x%x are not known to this library", flags & ~known);
  faultline_target* made = calloc(1, sizeof *made);
  if (made == NULL) return fail(&why, ENOMEM, "no memory for a target");
  made->uffd = made->socket = -1;
  made->flags = flags;
  made->count = count;
  const int result = build(made, regions, addresses, &why);
  if (result == 0)
    *target = made;
  else
    faultline_target_close(made);
  return result;
}

int faultline_target_open(const faultline_region* regions, size_t count, unsigned flags,
                          faultline_target** target, char* why, size_t why_size) {
  return openTarget(regions, NULL, count, flags, target, why, why_size);
}

int faultline_target_open_at(const faultline_region* regions, void* const* addresses, size_t count,
                             unsigned flags, faultline_target** target, char* text, size_t size) {
  const struct Why why = {text, size};
  if (addresses == NULL) return fail(&why, EINVAL, "memory that is mapped already needs its addresses");
  return openTarget(regions, addresses, count, flags, target, text, size);
}

int faultline_target_connect(faultline_target* target, const char* socket_path, unsigned timeout_ms,
                             char* text, size_t size) {
  const struct Why why = {text, size};
  if (target->socket >= 0) return fail(&why, EISCONN, "the target is connected already");
  const int fd = faultline_handshake(socket_path, target->uffd, target->regions, target->addresses,
                                     target->count, timeout_ms, text, size);
  if (fd < 0) return fd;
  target->socket = fd;
  return 0;
}

size_t faultline_target_regions(const faultline_target* target) {
  return target->count;
}

void* faultline_target_address(const faultline_target* target, size_t region) {
  return region < target->count ? target->addresses[region] : NULL;
}

int faultline_target_uffd(const faultline_target* target) {
  return target->uffd;
}

int faultline_target_socket(const faultline_target* target) {
  return target->socket;
}

int faultline_target_wait_peer(const faultline_target* target, int timeout_ms) {
  if (target->socket < 0) return -ENOTCONN;
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  const int64_t start = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
  for (int left = timeout_ms;;) {
    struct pollfd peer = {.fd = target->socket, .events = POLLRDHUP};
    const int ready = poll(&peer, 1, left);
    if (ready > 0) return 0;
    if (ready == 0) return -ETIMEDOUT;
    if (errno != EINTR) return -errno;
    if (timeout_ms < 0) continue;
    clock_gettime(CLOCK_MONOTONIC, &now);
    const int64_t passed = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000 - start;
    left = passed < timeout_ms ? (int)(timeout_ms - passed) : 0;
  }
}

/* Whether the server has let go of the target: no thread of it puts a page in place any more. */
static int leave(const faultline_target* target) {
  if (target->socket < 0) return 0;
  shutdown(target->socket, SHUT_WR);
  return faultline_target_wait_peer(target, LEAVE_MS);
}

/* The kernel lets any userfaultfd of this process put pages into memory that is registered with any other. So addresses that
 * a server may still fill are not given back. */
static void letGo(void* address, size_t size, int serverHasLeft) {
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
  if (serverHasLeft || mmap(address, size, PROT_NONE, flags, -1, 0) == MAP_FAILED) munmap(address, size);
}

int faultline_target_close(faultline_target* target) {
  if (target == NULL) return 0;
  /* Before anything is unmapped: where unmapping raises events it would wait for a reader. */
  for (size_t i = 0; i < target->registered; i++) {
    struct uffdio_range range = {(uintptr_t)target->addresses[i], target->regions[i].size};
    ioctl(target->uffd, UFFDIO_UNREGISTER, &range);
  }
  const int result = leave(target);
  if (target->socket >= 0) close(target->socket);
  if (target->uffd >= 0) close(target->uffd);
  for (size_t i = 0; i < target->mapped; i++)
    letGo(target->addresses[i], target->regions[i].size, result == 0);
  free(target->addresses);
  free(target->regions);
  free(target);
  return result;
}
