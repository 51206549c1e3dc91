/* A program that maps files as a VMM maps its memory, and does with it what its arguments say, one after the
 * other; says on stdout what came of each. Regions are numbered as they are mapped.
 *
 *   map PATH               maps all of the file, shared                -> mapped, or failed ERRNO
 *   read REGION OFFSET     one byte                                    -> the byte
 *   write REGION OFFSET    a byte that is not 0
 *   remove REGION OFFSET SIZE   madvise with MADV_REMOVE               -> given back, or failed ERRNO
 *   dontneed REGION OFFSET SIZE   madvise with MADV_DONTNEED           -> the same
 *   punch REGION OFFSET SIZE    a hole in the file                     -> the same
 *   unmap REGION */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { REGIONS_MAX = 8 };
static struct {
  int fd;
  size_t size;
  volatile unsigned char* memory;
} regions[REGIONS_MAX];
static size_t count;

static void map(const char* path) {
  struct stat status;
  const int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0 || fstat(fd, &status) != 0 || count == REGIONS_MAX) exit(3);
  const size_t size = (size_t)status.st_size;
  void* memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) {
    printf("failed %s\n", strerrorname_np(errno));
    return;
  }
  regions[count].fd = fd;
  regions[count].size = size;
  regions[count++].memory = memory;
  printf("mapped\n");
}

int main(int argc, char** argv) {
  char** next = argv + 1;
  setvbuf(stdout, NULL, _IOLBF, 0);
  while (next < argv + argc) {
    const char* what = *next++;
    if (strcmp(what, "map") == 0) {
      map(*next++);
      continue;
    }
    const size_t region = strtoul(*next++, NULL, 10);
    if (strcmp(what, "unmap") == 0) {
      munmap((void*)regions[region].memory, regions[region].size);
      continue;
    }
    const size_t offset = strtoul(*next++, NULL, 10);
    volatile unsigned char* at = regions[region].memory + offset;
    if (strcmp(what, "read") == 0) {
      printf("%u\n", *at);
      continue;
    }
    if (strcmp(what, "write") == 0) {
      *at = 0xa5;
      continue;
    }
    const size_t size = strtoul(*next++, NULL, 10);
    int result = -1;
    if (strcmp(what, "remove") == 0) result = madvise((void*)at, size, MADV_REMOVE);
    if (strcmp(what, "dontneed") == 0) result = madvise((void*)at, size, MADV_DONTNEED);
    if (strcmp(what, "punch") == 0)
      result = fallocate(regions[region].fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                         (off_t)size);
    if (result == 0)
      printf("given back\n");
    else
      printf("failed %s\n", strerrorname_np(errno));
  }
  return 0;
}
