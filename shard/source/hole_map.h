// Which pieces of a source are holes, as far as it has been looked up.
//
// A look (SEEK_DATA) may wait for the file system, so it is made where waiting is allowed, and its answer is
// kept for those who must not wait.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

namespace faultline::shard {

// A byte for each 2 MiB. Any thread.
class HoleMap {
 public:
  static constexpr std::uint64_t PIECE = 2u << 20;  // bytes

  // `bytes` of the source.
  explicit HoleMap(std::uint64_t bytes);

  // True where every piece that the range touches is known to be a hole.
  bool covers(std::uint64_t offset, std::uint64_t length) const;
  // True where each piece of the range has been looked up.
  bool knows(std::uint64_t offset, std::uint64_t length) const;
  // Looks up the piece of `offset` in `file`, and further pieces that the kernel's answer covers. Waits for
  // the file system. A file that does not tell its holes is data.
  void lookUp(int file, std::uint64_t offset);

 private:
  enum class Is : std::uint8_t { unknown, hole, data };  // data: in part at least
  bool all(std::uint64_t offset, std::uint64_t length, bool (*is)(Is)) const;
  void mark(std::uint64_t first, std::uint64_t last, Is what);

  const std::uint64_t bytes_, pieces_;
  const std::unique_ptr<std::atomic<Is>[]> known_;
};

}  // namespace faultline::shard
