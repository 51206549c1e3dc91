#include "shard/sparse_bytes.h"

#include <kj/debug.h>
#include <sys/mman.h>

#include <cerrno>

namespace faultline::shard {

namespace {

void* map(std::size_t bytes) {
  void* start =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (start == MAP_FAILED) KJ_FAIL_SYSCALL("map memory for what is known of pages", errno, bytes);
  return start;
}

}  // namespace

SparseBytes::SparseBytes(std::size_t size) : size_(size), bytes_(static_cast<Byte*>(map(size))) {}

SparseBytes::~SparseBytes() {
  munmap(static_cast<void*>(bytes_), size_);
}

}  // namespace faultline::shard
