#include "shard/source/staging_buffer.h"

#include <kj/debug.h>
#include <sys/mman.h>

#include <cerrno>
#include <utility>

namespace faultline::shard {

StagingBuffer::StagingBuffer(std::size_t bytes) : size_(bytes) {
  void* start =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (start == MAP_FAILED) KJ_FAIL_SYSCALL("allocate a staging buffer", errno, bytes);
  data_ = static_cast<char*>(start);
  // Best effort: without the lock, reclaim could make a copy wait for swap.
  mlock(start, bytes);
}

StagingBuffer::~StagingBuffer() {
  if (data_ != nullptr) munmap(data_, size_);
}

StagingBuffer::StagingBuffer(StagingBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(other.size_) {}

}  // namespace faultline::shard
