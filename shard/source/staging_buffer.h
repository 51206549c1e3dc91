// A resident, page-aligned buffer.
#pragma once

#include <cstddef>

namespace faultline::shard {

// For one thread at a time.
class StagingBuffer {
 public:
  // Throws kj::Exception where there is no memory.
  explicit StagingBuffer(std::size_t bytes);
  ~StagingBuffer();
  StagingBuffer(StagingBuffer&& other) noexcept;
  StagingBuffer& operator=(StagingBuffer&&) = delete;

  char* data() { return data_; }
  std::size_t size() const { return size_; }

 private:
  char* data_;
  std::size_t size_;
};

}  // namespace faultline::shard
