/* Firecracker's UFFD handshake, the VMM's end of it: connect, one message, nothing comes back. */
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "failure.h"
#include "faultline_client.h"

enum {
  ENTRY_MAX = 224, /* bytes of one region in JSON: five numbers of at most 20 digits and their names */
  RETRY_MS = 5,    /* between two looks whether the server is there */
};

static uint64_t nowMs(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Milliseconds left until `deadline`, at least 1: a socket's time limit of 0 is none. */
static uint64_t leftMs(uint64_t deadline) {
  const uint64_t now = nowMs();
  return now < deadline ? deadline - now : 1;
}

/* How long connect waits for room in the server's backlog, and sendmsg in the socket's buffer. */
static void limitSending(int fd, uint64_t ms) {
  const struct timeval limit = {.tv_sec = (time_t)(ms / 1000), .tv_usec = (suseconds_t)(ms % 1000 * 1000)};
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

static int unreachable(const struct Why* why, int error, const char* path, unsigned timeout_ms) {
  switch (error) {
    case ENOENT:
    case ECONNREFUSED:
      return fail(why, error, "no page server listens at %s, nor came within %u ms: %m; start it first", path,
                  timeout_ms);
    case EAGAIN:
      return fail(why, error, "the page server at %s did not take the connection within %u ms: does it hang?",
                  path, timeout_ms);
    case EACCES:
      return fail(why, error,
                  "cannot reach the page server at %s: %m; run as the socket's owner, or have it made with "
                  "another mode or owner",
                  path);
    default:
      return fail(why, error, "cannot reach the page server at %s: %m", path);
  }
}

/* Connects, waiting for the server to be there. The fd, or a negative errno. */
static int connectTo(const char* path, unsigned timeout_ms, uint64_t deadline, const struct Why* why) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  const size_t length = strlen(path);
  if (length >= sizeof address.sun_path)
    return fail(why, ENAMETOOLONG, "the socket path %s has %zu bytes; at most %zu are possible", path, length,
                sizeof address.sun_path - 1);
  memcpy(address.sun_path, path, length);
  for (;;) {
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return fail(why, errno, "cannot make a socket: %m");
    limitSending(fd, leftMs(deadline));
    if (connect(fd, (const struct sockaddr*)&address, sizeof address) == 0) return fd;
    const int error = errno;
    close(fd);
    if (error == EINTR) continue;
    const int comes = error == ENOENT || error == ECONNREFUSED;
    const uint64_t left = leftMs(deadline);
    if (!comes || left <= 1) return unreachable(why, error, path, timeout_ms);
    poll(NULL, 0, left < RETRY_MS ? (int)left : RETRY_MS);
  }
}

/* The JSON array of the regions. Sizes are in bytes, as Firecracker has them, whatever the name says. To be
 * freed; NULL: no memory. */
static char* makeBody(const faultline_region* regions, void* const* addresses, size_t count, size_t* bytes) {
  char* body = count < SIZE_MAX / ENTRY_MAX - 1 ? malloc((count + 1) * ENTRY_MAX) : NULL;
  if (body == NULL) return NULL;
  char* end = body;
  for (size_t i = 0; i < count; i++) {
    const unsigned long long page_size = regions[i].page_size;
    end += sprintf(end,
                   "%c{\"base_host_virt_addr\":%llu,\"size\":%llu,\"offset\":%llu,\"page_size\":%llu,"
                   "\"page_size_kib\":%llu}",
                   i == 0 ? '[' : ',', (unsigned long long)(uintptr_t)addresses[i],
                   (unsigned long long)regions[i].size, (unsigned long long)regions[i].offset, page_size,
                   page_size);
  }
  *end++ = ']';
  *bytes = (size_t)(end - body);
  return body;
}

/* The descriptor goes with the first byte; what does not fit into one message follows it. */
static int sendBody(int fd, const char* body, size_t bytes, int uffd, uint64_t deadline) {
  struct iovec part = {.iov_base = (void*)body, .iov_len = bytes};
  union {
    struct cmsghdr header;
    char space[CMSG_SPACE(sizeof(int))];
  } control = {.space = {0}};
  struct msghdr message = {.msg_iov = &part,
                           .msg_iovlen = 1,
                           .msg_control = control.space,
                           .msg_controllen = sizeof control.space};
  control.header.cmsg_level = SOL_SOCKET;
  control.header.cmsg_type = SCM_RIGHTS;
  control.header.cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(&control.header), &uffd, sizeof uffd);
  while (part.iov_len > 0) {
    limitSending(fd, leftMs(deadline));
    const ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return errno;
    part.iov_base = (char*)part.iov_base + sent;
    part.iov_len -= (size_t)sent;
    message.msg_control = NULL;
    message.msg_controllen = 0;
  }
  return 0;
}

int faultline_handshake(const char* socket_path, int uffd, const faultline_region* regions,
                        void* const* addresses, size_t count, unsigned timeout_ms, char* text, size_t size) {
  const struct Why why = {text, size};
  if (socket_path == NULL || regions == NULL || addresses == NULL || count == 0)
    return fail(&why, EINVAL, "a handshake needs a socket path and at least one region with its address");
  size_t bytes = 0;
  char* body = makeBody(regions, addresses, count, &bytes);
  if (body == NULL) return fail(&why, ENOMEM, "no memory to describe %zu regions", count);
  const uint64_t deadline = nowMs() + timeout_ms;
  int result = connectTo(socket_path, timeout_ms, deadline, &why);
  if (result >= 0) {
    const int fd = result;
    const int error = sendBody(fd, body, bytes, uffd, deadline);
    limitSending(fd, 0);
    if (error != 0) {
      close(fd);
      result = fail(&why, error, "cannot send the handshake of %zu bytes to %s: %m%s", bytes, socket_path,
                    error == EPIPE    ? "; the server refused the connection: its log says why"
                    : error == EAGAIN ? "; the server does not read it: does it hang?"
                                      : "");
    }
  }
  free(body);
  return result;
}
