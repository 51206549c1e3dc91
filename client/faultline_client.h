/* The target's side of a restore, for people who write VMMs and checkpointers. C; needs nothing but libc.
 *
 *   faultline_target *target;
 *   char why[256];
 *   if (faultline_target_open(regions, count, 0, &target, why, sizeof why) != 0) ...
 *   if (faultline_target_connect(target, "/run/vm.sock", 5000, why, sizeof why) != 0) ...
 *   ... use the memory: each page comes when it is first touched ...
 *   faultline_target_close(target);
 *
 * The protocol is Firecracker's UFFD handshake (a stream socket, one message: a JSON array of regions, and
 * the userfaultfd by SCM_RIGHTS; nothing comes back): a VMM that speaks it needs none of this.
 *
 * Every function that returns an int returns 0, or a negative errno; those that take `why` then write one
 * line there (at most `why_size` bytes with the final NUL; may be NULL) which names the thing, the value and
 * the way out. A target may be used by any thread, but opened, connected and closed by one at a time.
 *
 * If no page server answers any more, a touched page is waited for, for ever: the memory holds either the
 * right bytes or nothing. A page that the server cannot give raises SIGBUS (BUS_MCEERR_AR). */
#ifndef FAULTLINE_CLIENT_H
#define FAULTLINE_CLIENT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct faultline_target faultline_target;

/* A region of memory and the range of the snapshot's memory file that belongs in it. All in bytes,
 * multiples of page_size, which is 4096, or 2097152 for hugetlb memory. */
typedef struct faultline_region {
  uint64_t size;   /* not 0 */
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

/* Maps the regions (private, anonymous, not reserved), makes a userfaultfd as Firecracker does
 * (/dev/userfaultfd, else the system call; non-blocking, close-on-exec, faults from the kernel included) and
 * registers the regions for missing pages. The memory must not be touched before faultline_target_connect
 * has returned. `flags`: of the enum above. `*target` is set on success only.
 * -EINVAL: arguments; -EPERM, -ENOSYS: userfaultfd is not allowed, or not there; -ENOMEM: address space, or
 * hugetlb pages are asked for and the machine has none. The number of huge pages is not checked: they are taken
 * as they are touched. */
int faultline_target_open(const faultline_region* regions, size_t count, unsigned flags,
                          faultline_target** target, char* why, size_t why_size);

/* Opens a target over memory of the caller's own: region i is mapped at `addresses[i]`, a multiple of its
 * page_size, private and anonymous, of pages of page_size, and nothing has touched it yet: a page that is
 * there already never faults, and so never gets the snapshot's bytes. faultline_target_close unregisters the
 * memory and does not unmap it. A VMM calls this that must choose its addresses itself. -EINVAL, -EBUSY,
 * -ENOMEM: also where the memory is not so, or not mapped. */
int faultline_target_open_at(const faultline_region* regions, void* const* addresses, size_t count,
                             unsigned flags, faultline_target** target, char* why, size_t why_size);

/* Does the handshake with the server that listens on `socket_path`, waiting up to `timeout_ms` for it to be
 * there and to take the connection. From here on faults are answered by the server. The connection is kept
 * until close, as Firecracker does. -EISCONN: it was done already. Otherwise as faultline_handshake. */
int faultline_target_connect(faultline_target* target, const char* socket_path, unsigned timeout_ms,
                             char* why, size_t why_size);

size_t faultline_target_regions(const faultline_target* target);
/* The address of region number `region` of faultline_target_open's list; NULL where there is no such region. */
void* faultline_target_address(const faultline_target* target, size_t region);
/* Borrowed; valid until close. */
int faultline_target_uffd(const faultline_target* target);
/* The handshake's connection, -1 before connect. Borrowed. Hangs up (POLLRDHUP) when the server has closed
 * it. */
int faultline_target_socket(const faultline_target* target);

/* Waits until the server has closed the connection: 0. -ETIMEDOUT: it has not, after `timeout_ms` (0: look
 * only; negative: no limit). -ENOTCONN: before connect. A server that is replaced by a successor may close it
 * and go on serving all the same: this alone is no reason to end. */
int faultline_target_wait_peer(const faultline_target* target, int timeout_ms);

/* Unregisters, unmaps and closes everything. The memory must not be used any more; no thread may be waiting
 * for a page of it, nor in an madvise of it: an madvise ends only when its event is read. NULL is allowed.
 * Waits up to 3 s until the server has let go of the restore: 0. -ETIMEDOUT: it has not. Then the addresses stay
 * reserved, without memory, until the process ends; and memory of faultline_target_open_at must not be
 * registered with another userfaultfd, whose pages this server would go on filling. */
int faultline_target_close(faultline_target* target);

/* The handshake alone, for memory and a userfaultfd of the caller's own: `addresses[i]` is where region i is
 * mapped, and `uffd` is set up (UFFDIO_API), non-blocking and registered for missing pages of all regions.
 * Returns the connected socket (close-on-exec), to be kept open for the target's life, or a negative errno:
 * -ENOENT, -ECONNREFUSED: no process listens there; -EAGAIN: the server does not take the connection; others of
 * connect(2) and sendmsg(2). */
int faultline_handshake(const char* socket_path, int uffd, const faultline_region* regions,
                        void* const* addresses, size_t count, unsigned timeout_ms, char* why,
                        size_t why_size);

#ifdef __cplusplus
}
#endif
#endif
