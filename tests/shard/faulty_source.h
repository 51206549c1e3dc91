// A source that fails, stalls and ends when a test says so. Its bytes are an image's.
#pragma once

#include <atomic>
#include <cerrno>
#include <cstring>
#include <vector>

#include "shard/source/page_source.h"
#include "tests/support/image.h"
#include "threads/mutex.h"

namespace faultline::test {

// Everything is cold until warm() says otherwise. Any thread.
class FaultySource final : public shard::PageSource {
 public:
  explicit FaultySource(const Image& image)
      : PageSource(image.bytes()), content_(image.data(), image.data() + image.bytes()) {}

  // The next `times` reads that wait fail with `error`; 0: as at the end of a file.
  void fail(int error, unsigned times) {
    const threads::Lock lock(mutex_);
    error_ = error;
    failing_ = times;
  }
  // Reads of this page of 4 KiB, or of what contains it, wait until goOn().
  void stall(std::uint64_t offset) {
    const threads::Lock lock(mutex_);
    stalled_ = offset;
  }
  void goOn() {
    const threads::Lock lock(mutex_);
    stalled_ = NONE;
    changed_.notifyAll();
  }
  void truncate(std::uint64_t bytes) { end_ = bytes; }
  void warm(bool is) { warm_ = is; }
  // Reads of what contains this page of 4 KiB fail with EBADMSG, and it is never in memory.
  void lose(std::uint64_t offset) {
    const threads::Lock lock(mutex_);
    lost_ = offset;
  }
  unsigned reads() const { return reads_; }

  shard::Staged tryRead(std::uint64_t offset, std::size_t length, void* buffer) const override {
    {
      const threads::Lock lock(mutex_);
      if (!warm_ || (lost_ >= offset && lost_ < offset + length))
        return {shard::Staged::Kind::cold, nullptr, 0};
    }
    return bytesAt(offset, length, buffer);
  }
  shard::Staged tryView(std::uint64_t, std::size_t) const override {
    return {shard::Staged::Kind::cold, nullptr, 0};
  }
  const void* view(std::uint64_t) const override { return nullptr; }
  void release(std::uint64_t, std::size_t) const override {}
  bool zeroForGood(std::uint64_t, std::size_t) const override { return false; }
  std::optional<shard::FileRange> plainRead(std::uint64_t, std::size_t) const override {
    return std::nullopt;
  }
  shard::Staged read(std::uint64_t offset, std::size_t length, void* buffer) const override {
    reads_++;
    {
      const threads::Lock lock(mutex_);
      while (stalled_ >= offset && stalled_ < offset + length) changed_.wait(mutex_);
      if (lost_ >= offset && lost_ < offset + length) return {shard::Staged::Kind::lost, nullptr, EBADMSG};
      if (failing_ > 0) {
        failing_--;
        return {shard::Staged::Kind::lost, nullptr, error_};
      }
    }
    return bytesAt(offset, length, buffer);
  }
  shard::Staged readInPlace(std::uint64_t, std::size_t) const override {
    return {shard::Staged::Kind::cold, nullptr, 0};
  }

 private:
  static constexpr std::uint64_t NONE = ~0ull;

  shard::Staged bytesAt(std::uint64_t offset, std::size_t length, void* buffer) const {
    if (offset + length > end_) return {shard::Staged::Kind::lost, nullptr, 0};
    std::memcpy(buffer, content_.data() + offset, length);
    return shard::stagedAt(buffer, length);
  }

  const std::vector<char> content_;  // a read may outlive the test
  std::atomic<std::uint64_t> end_{NONE};
  std::atomic<bool> warm_{false};
  mutable std::atomic<unsigned> reads_{0};
  mutable threads::Mutex mutex_;
  mutable threads::Condition changed_;
  mutable unsigned failing_ GUARDED_BY(mutex_) = 0;
  int error_ GUARDED_BY(mutex_) = 0;
  std::uint64_t stalled_ GUARDED_BY(mutex_) = NONE;
  std::uint64_t lost_ GUARDED_BY(mutex_) = NONE;
};

}  // namespace faultline::test
