/* vmm SOCKET BYTES: memory of BYTES from a snapshot, by Firecracker's handshake; writes all of it to stdout.
 *   cc -o vmm vmm.c
 *   faultline restore --memory vm.mem --socket vm.sock &
 *   ./vmm vm.sock $(stat -c %s vm.mem) | cmp - vm.mem
 */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

static void check(int ok, const char* what) {
  if (!ok) perror(what), exit(1);
}

int main(int argc, char** argv) {
  if (argc != 3) return fprintf(stderr, "vmm SOCKET BYTES\n"), 2;
  const size_t size = strtoull(argv[2], NULL, 0);
  /* Nothing may touch the memory before it is registered; O_NONBLOCK is for the process that reads the events. */
  char* memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  check(memory != MAP_FAILED, "mmap");
  const int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
  check(uffd >= 0, "userfaultfd");
  /* Without EVENT_REMOVE a page that is given back before it came would come back with the snapshot's bytes. */
  struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE};
  check(ioctl(uffd, UFFDIO_API, &api) == 0, "UFFDIO_API");
  struct uffdio_register range = {{(uintptr_t)memory, size}, UFFDIO_REGISTER_MODE_MISSING, 0};
  check(ioctl(uffd, UFFDIO_REGISTER, &range) == 0, "UFFDIO_REGISTER");

  struct sockaddr_un address = {.sun_family = AF_UNIX};
  strncpy(address.sun_path, argv[1], sizeof address.sun_path - 1);
  const int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  check(connect(sock, (struct sockaddr*)&address, sizeof address) == 0, "connect");
  /* One message: the regions as JSON, the userfaultfd beside it. Nothing comes back. */
  char text[200];
  struct iovec body = {
      text,
      (size_t)snprintf(text, sizeof text,
                       "[{\"base_host_virt_addr\": %ju, \"size\": %zu, \"offset\": 0, \"page_size\": 4096}]",
                       (uintmax_t)(uintptr_t)memory, size)};
  union {
    struct cmsghdr header;
    char room[CMSG_SPACE(sizeof(int))];
  } control = {{CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
  memcpy(CMSG_DATA(&control.header), &uffd, sizeof uffd);
  const struct msghdr message = {NULL, 0, &body, 1, &control, sizeof control, 0};
  check(sendmsg(sock, &message, 0) == (ssize_t)body.iov_len, "sendmsg");
  /* The memory is served from here on. Both fds stay open: if every server were gone, a page that has not come would be
   * waited for; without our copy of the userfaultfd it would read as zeros. */
  for (size_t at = 0; at < size; at += 4096) check(fwrite(memory + at, 1, 4096, stdout) == 4096, "write");
  return fflush(stdout) == 0 ? 0 : 1;
}
