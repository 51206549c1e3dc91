#include "packed/writer.h"

#include <limits>
#include <stdexcept>
#include <utility>

#include "packed/checksum.h"
#include "packed/description.h"
#include "packed/file.h"

namespace faultline::packed {

void Writer::put(const std::vector<std::byte>& bytes) {
  constexpr std::size_t AT_ONCE = 1u << 20;
  buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  at_ += bytes.size();
  if (buffer_.size() >= AT_ONCE) flush();
}

void Writer::flush() {
  writeAt(file_, name_, at_ - buffer_.size(), buffer_);
  buffer_.clear();
}

void Writer::add(const PackedFrame& frame) {
  if (frames_ + 1 == MOST_FRAMES)  // the description is one more
    throw std::runtime_error(name_ + " is not written: the image has more than the " +
                             std::to_string(MOST_FRAMES) + " frames that a table can have");
  put(frame.packed);
  table_.add(static_cast<std::uint32_t>(frame.packed.size()), frame.bytes, frame.checksum);
  frames_++;
}

void Writer::finish(LayerMap map, std::optional<std::uint64_t> base) {
  if (descriptionBytes(map) > std::numeric_limits<std::uint32_t>::max())
    throw std::runtime_error(name_ + " is not written: its map of holes has " + std::to_string(map.size()) +
                             " parts, more than a packed image can have; flatten it over its base");
  // Its own entry as well is in the hash of the table.
  table_.add(static_cast<std::uint32_t>(descriptionBytes(map)), 0, checksumOf({}));
  put(formatDescription({base, table_.hash(), std::move(map)}));
  put(table_.finish());
  flush();
}

}  // namespace faultline::packed
