#include "shard/source/hole_map.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace faultline::shard {

HoleMap::HoleMap(std::uint64_t bytes)
    : bytes_(bytes),
      pieces_((bytes + PIECE - 1) / PIECE),
      known_(std::make_unique<std::atomic<Is>[]>(pieces_)) {}

bool HoleMap::all(std::uint64_t offset, std::uint64_t length, bool (*is)(Is)) const {
  if (length == 0 || offset >= bytes_ || length > bytes_ - offset) return false;
  for (std::uint64_t piece = offset / PIECE; piece <= (offset + length - 1) / PIECE; piece++)
    if (!is(known_[piece].load(std::memory_order_relaxed))) return false;
  return true;
}

bool HoleMap::covers(std::uint64_t offset, std::uint64_t length) const {
  return all(offset, length, [](Is is) { return is == Is::hole; });
}

bool HoleMap::knows(std::uint64_t offset, std::uint64_t length) const {
  return all(offset, length, [](Is is) { return is != Is::unknown; });
}

void HoleMap::mark(std::uint64_t first, std::uint64_t last, Is what) {
  for (std::uint64_t piece = first; piece < std::min(last, pieces_); piece++)
    known_[piece].store(what, std::memory_order_relaxed);
}

void HoleMap::lookUp(int file, std::uint64_t offset) {
  const std::uint64_t piece = offset / PIECE, start = piece * PIECE;
  const off_t data = lseek(file, static_cast<off_t>(start), SEEK_DATA);
  if (data < 0 && errno != ENXIO) return mark(piece, pieces_, Is::data);
  // ENXIO: no data from here to the file's end, wherever that is by now.
  const off_t end = data < 0 ? lseek(file, 0, SEEK_END) : data;
  const std::uint64_t hole = end < 0 ? start : static_cast<std::uint64_t>(end);
  // The last piece of the source may be short.
  const std::uint64_t firstData = hole >= bytes_ ? pieces_ : std::max(hole / PIECE, piece);
  mark(piece, firstData, Is::hole);
  if (firstData == pieces_) return;
  const off_t next = data < 0 ? data : lseek(file, data, SEEK_HOLE);
  const std::uint64_t lastData = next < 0 ? firstData : (static_cast<std::uint64_t>(next) - 1) / PIECE;
  mark(firstData, std::max(firstData, lastData) + 1, Is::data);
}

}  // namespace faultline::shard
