/* libfaultline-preload.so: lazy restore for a VMM that knows nothing of userfaultfd, QEMU above all.
 *
 * The VMM maps its memory from files. The mapping of a file that the environment names becomes private,
 * anonymous memory of the same size, at the same place, which the page server fills as it is touched; of the
 * files only the names and the page size are used. Later calls of the VMM on this memory are translated:
 * giving pages back is MADV_DONTNEED, whatever the VMM believes them to be.
 *
 * Memory that is named and not yet handed over cannot be touched (PROT_NONE): all regions go to the server in
 * one message, and bytes that are not the snapshot's are never read. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/magic.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "faultline_client.h"
#include "settings.h"

#define PUBLIC __attribute__((visibility("default")))

enum { HUGE_PAGE_SHIFT = 21, MESSAGE_MAX = 1024 };

/* The mapping of a memory file. */
typedef struct Taken {
  void* address; /* NULL: not mapped yet, or no more */
  size_t size;
  off64_t file_offset; /* where in the file the mapping begins */
  uint64_t page_size;
  int protection; /* that the VMM asked for */
} Taken;

static Settings settings;
/* Guards what follows. Held over the handshake, never over a call that waits for a page. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static Taken taken[MEMORY_FILES_MAX]; /* one for each of settings.files */
static faultline_target* target;      /* once all are mapped; for the process's life */

static struct {
  void* (*mmap)(void*, size_t, int, int, int, off64_t);
  int (*munmap)(void*, size_t);
  int (*madvise)(void*, size_t, int);
  int (*fallocate)(int, int, off64_t, off64_t);
} real;
static pthread_once_t found = PTHREAD_ONCE_INIT;

static void findReal(void) {
  *(void**)&real.mmap = dlsym(RTLD_NEXT, "mmap64");
  *(void**)&real.munmap = dlsym(RTLD_NEXT, "munmap");
  *(void**)&real.madvise = dlsym(RTLD_NEXT, "madvise");
  *(void**)&real.fallocate = dlsym(RTLD_NEXT, "fallocate64");
}

__attribute__((format(printf, 1, 2))) static void say(const char* format, ...) {
  char text[MESSAGE_MAX];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  dprintf(STDERR_FILENO, "faultline-preload: %s\n", text);
}

__attribute__((constructor)) static void begin(void) {
  char why[MESSAGE_MAX];
  pthread_once(&found, findReal);
  if (readSettings(&settings, why, sizeof why) == 0) return;
  say("%s", why);
  _exit(2); /* the program would go on with memory that is not the snapshot's */
}

/* The number of the memory file that `fd` is; settings.count where it is none of them. */
static size_t memoryFileOf(int fd) {
  struct stat64 mine, named;
  if (fd < 0 || settings.count == 0 || fstat64(fd, &mine) != 0) return settings.count;
  size_t i = 0;
  while (i < settings.count && !(stat64(settings.files[i].path, &named) == 0 && named.st_dev == mine.st_dev &&
                                 named.st_ino == mine.st_ino))
    i++;
  return i;
}

/* Fails an mmap: what the VMM makes of errno is its own; the reason is on stderr. */
static void* refuse(int error, const char* path, const char* what) {
  say("cannot take the memory of %s: %s", path, what);
  errno = error;
  return MAP_FAILED;
}

/* 0: of no size that is served. */
static uint64_t pageSizeOf(int fd) {
  struct statfs64 system;
  if (fstatfs64(fd, &system) != 0) return 0;
  return system.f_type == HUGETLBFS_MAGIC ? (uint64_t)system.f_bsize : 4096;
}

/* All memory files are mapped: hands them over, and lets the VMM touch them. */
static int handOver(char* why, size_t why_size) {
  faultline_region regions[MEMORY_FILES_MAX];
  void* addresses[MEMORY_FILES_MAX];
  uint64_t end = 0;
  for (size_t i = 0; i < settings.count; i++) {
    const uint64_t offset = settings.files[i].offset == OFFSET_FOLLOWS ? end : settings.files[i].offset;
    regions[i] = (faultline_region){taken[i].size, offset, taken[i].page_size};
    addresses[i] = taken[i].address;
    end = offset + taken[i].size;
  }
  faultline_target* made = NULL;
  int result = faultline_target_open_at(regions, addresses, settings.count, 0, &made, why, why_size);
  if (result == 0)
    result = faultline_target_connect(made, settings.socket, settings.timeout_ms, why, why_size);
  for (size_t i = 0; result == 0 && i < settings.count; i++)
    if (mprotect(taken[i].address, taken[i].size, taken[i].protection) != 0) {
      result = -errno;
      snprintf(why, why_size, "cannot protect %zu bytes as they were asked for: %s", taken[i].size,
               strerror(errno));
    }
  if (result != 0) {
    faultline_target_close(made);
    return result;
  }
  target = made;
  say("%zu region%s, %llu bytes of the snapshot, from %s", settings.count, settings.count == 1 ? "" : "s",
      (unsigned long long)end, settings.socket);
  return 0;
}

/* The mapping of memory file `i`. */
static void* take(size_t i, void* wish, size_t size, int protection, int flags, int fd, off64_t offset) {
  char why[MESSAGE_MAX];
  const char* path = settings.files[i].path;
  const uint64_t page_size = pageSizeOf(fd);
  if (page_size != 4096 && page_size != 1u << HUGE_PAGE_SHIFT)
    return refuse(ENOTSUP, path,
                  "its pages are neither of 4 KiB nor of 2 MiB; mount hugetlbfs with pagesize=2M");
  if (size % page_size != 0) return refuse(EINVAL, path, "its size must be a multiple of its pages' size");
  if (target != NULL || taken[i].address != NULL)
    return refuse(EBUSY, path, "it is mapped a second time, and only one mapping of it can be served");
  flags &= MAP_FIXED | MAP_FIXED_NOREPLACE | MAP_32BIT;
  flags |= MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  if (page_size != 4096) flags |= MAP_HUGETLB | HUGE_PAGE_SHIFT << MAP_HUGE_SHIFT;
  void* address = real.mmap(wish, size, PROT_NONE, flags, -1, 0);
  if (address == MAP_FAILED) return refuse(errno, path, strerror(errno));
  taken[i] = (Taken){address, size, offset, page_size, protection};
  for (size_t other = 0; other < settings.count; other++)
    if (taken[other].address == NULL) return address;
  const int result = handOver(why, sizeof why);
  if (result == 0) return address;
  taken[i].address = NULL;
  real.munmap(address, size);
  return refuse(-result, path, why);
}

PUBLIC void* mmap64(void* wish, size_t size, int protection, int flags, int fd, off64_t offset) {
  pthread_once(&found, findReal);
  const size_t i = (flags & MAP_ANONYMOUS) == 0 ? memoryFileOf(fd) : settings.count;
  if (i == settings.count) return real.mmap(wish, size, protection, flags, fd, offset);
  pthread_mutex_lock(&mutex);
  void* address = take(i, wish, size, protection, flags, fd, offset);
  const int error = errno;
  pthread_mutex_unlock(&mutex);
  errno = error;
  return address;
}

PUBLIC void* mmap(void* wish, size_t size, int protection, int flags, int fd, off_t offset) {
  return mmap64(wish, size, protection, flags, fd, offset);
}

/* Memory that the VMM unplugs is its own to do with what it likes from then on. */
PUBLIC int munmap(void* address, size_t size) {
  pthread_once(&found, findReal);
  pthread_mutex_lock(&mutex);
  for (size_t i = 0; i < settings.count; i++)
    if (taken[i].address >= address && (char*)taken[i].address + taken[i].size <= (char*)address + size)
      taken[i].address = NULL;
  pthread_mutex_unlock(&mutex);
  return real.munmap(address, size);
}

static int isTaken(const void* address) {
  int result = 0;
  pthread_mutex_lock(&mutex);
  for (size_t i = 0; i < settings.count && !result; i++)
    result = taken[i].address != NULL && (const char*)address >= (const char*)taken[i].address &&
             (const char*)address < (const char*)taken[i].address + taken[i].size;
  pthread_mutex_unlock(&mutex);
  return result;
}

/* MADV_REMOVE is how shared memory is given back; on private memory it is EINVAL. */
PUBLIC int madvise(void* address, size_t size, int advice) {
  pthread_once(&found, findReal);
  return real.madvise(address, size, advice == MADV_REMOVE && isTaken(address) ? MADV_DONTNEED : advice);
}

/* A hole that is punched into a memory file: these pages are given back. The file has nothing of them. */
PUBLIC int fallocate64(int fd, int mode, off64_t offset, off64_t size) {
  pthread_once(&found, findReal);
  const size_t i = (mode & FALLOC_FL_PUNCH_HOLE) != 0 ? memoryFileOf(fd) : settings.count;
  if (i == settings.count) return real.fallocate(fd, mode, offset, size);
  pthread_mutex_lock(&mutex);
  const Taken memory = taken[i];
  pthread_mutex_unlock(&mutex);
  if (memory.address == NULL) return real.fallocate(fd, mode, offset, size);
  const off64_t begin = offset > memory.file_offset ? offset - memory.file_offset : 0;
  const off64_t end = offset + size - memory.file_offset;
  const off64_t limit = end < (off64_t)memory.size ? end : (off64_t)memory.size;
  return begin < limit ? real.madvise((char*)memory.address + begin, (size_t)(limit - begin), MADV_DONTNEED)
                       : 0;
}

PUBLIC int fallocate(int fd, int mode, off_t offset, off_t size) {
  return fallocate64(fd, mode, offset, size);
}
