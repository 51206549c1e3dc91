#include "shard/source/read_ring.h"

#include <sys/syscall.h>
#include <unistd.h>

namespace faultline::shard {

namespace {

// liburing 2.3 declares these two calls and does not export them.
bool holdTo(io_uring& ring, io_uring_restriction& restriction) {
  return syscall(SYS_io_uring_register, ring.ring_fd, IORING_REGISTER_RESTRICTIONS, &restriction, 1) == 0;
}
bool enable(io_uring& ring) {
  return syscall(SYS_io_uring_register, ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0) == 0;
}

}  // namespace

bool makeReadRing(io_uring& ring, unsigned entries, int event) {
  if (io_uring_queue_init(entries, &ring, IORING_SETUP_R_DISABLED) != 0) return false;
  io_uring_restriction read{};
  read.opcode = IORING_RESTRICTION_SQE_OP;
  read.sqe_op = IORING_OP_READ;
  if (io_uring_register_eventfd(&ring, event) == 0 && holdTo(ring, read) && enable(ring)) return true;
  io_uring_queue_exit(&ring);
  return false;
}

}  // namespace faultline::shard
