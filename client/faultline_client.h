/* The target's side of a restore, for people who write VMMs and checkpointers. C, no dependency but libc.
 *
 *   faultline_target *target;
 *   char why[256];
 *   if (faultline_target_open(regions, count, 0, &target, why, sizeof why) != 0) ...
 *   if (faultline_target_connect(target, "/run/vm.sock", 5000, why, sizeof why) != 0) ...
 *   ... use the memory: each page comes when it is first touched ...
 *   faultline_target_close(target);
 *
 * The protocol is Firecracker's UFFD handshake (docs/firecracker.md): a VMM that speaks it needs none of
 * this.
 *
 * Every function that can fail returns 0 or a negative errno, and writes one line into `why` (at most
 * `why_size` bytes with the final NUL; may be NULL) which names the thing, the value and the way out. A
 * target may be used by any thread, but opened, connected and closed by one at a time. */
#ifndef FAULTLINE_CLIENT_H
#define FAULTLINE_CLIENT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct faultline_target faultline_target;

/* One region of memory and the range of the snapshot's memory file that belongs in it. All in bytes,
 * multiples of page_size, which is 4096, or 2097152 for hugetlb memory. */
typedef struct faultline_region {
  uint64_t size;
  uint64_t offset; /* in the memory file */
  uint64_t page_size;
} faultline_region;

enum {
  /* Do not ask for REMOVE events. Only for memory that is never given back (no balloon, no MADV_DONTNEED):
   * pages given back before they were touched would come back with the snapshot's bytes. */
  FAULTLINE_NO_REMOVE = 1,
  /* Register for asynchronous write tracking as well (Linux 6.7): pages written after their restore are told
   * by PAGEMAP_SCAN's PAGE_IS_WRITTEN; pages that came in and were not written are clean. */
  FAULTLINE_TRACK_WRITES = 2,
};

/* Maps the regions (private, anonymous), makes a userfaultfd as Firecracker does (/dev/userfaultfd, else the
 * system call; non-blocking, close-on-exec, faults from the kernel included) and registers the regions for
 * missing pages. Nothing may touch the memory before faultline_target_connect has returned. `flags`: of the
 * enum above. */
int faultline_target_open(const faultline_region* regions, size_t count, unsigned flags,
                          faultline_target** target, char* why, size_t why_size);

/* Does the handshake with the server that listens on `socket_path`, waiting up to `timeout_ms` for it to be
 * there. From here on faults are answered by the server. The connection is kept until close, as Firecracker
 * does. */
int faultline_target_connect(faultline_target* target, const char* socket_path, unsigned timeout_ms,
                             char* why, size_t why_size);

size_t faultline_target_regions(const faultline_target* target);
void* faultline_target_address(const faultline_target* target, size_t region);
/* Borrowed; valid until close. */
int faultline_target_uffd(const faultline_target* target);
/* The handshake's connection, -1 before connect. Borrowed. Readable: the server has closed it. */
int faultline_target_socket(const faultline_target* target);

/* Unregisters, unmaps and closes everything. Nothing may use the memory any more. NULL is allowed. */
void faultline_target_close(faultline_target* target);

/* The handshake alone, for memory and a userfaultfd of the caller's own. `addresses[i]`: where region i is
 * mapped. Returns the connected socket, to be kept open for the target's life, or a negative errno. */
int faultline_handshake(const char* socket_path, int uffd, const faultline_region* regions,
                        void* const* addresses, size_t count, unsigned timeout_ms, char* why,
                        size_t why_size);

#ifdef __cplusplus
}
#endif
#endif
