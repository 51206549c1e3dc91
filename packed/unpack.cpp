#include "packed/unpack.h"

#include <tbb/enumerable_thread_specific.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <utility>
#include <vector>

#include "packed/error.h"
#include "packed/file.h"
#include "packed/in_order.h"
#include "packed/zeros.h"

namespace faultline::packed {

namespace {

// Frames that are one piece of work.
struct Piece {
  std::size_t first = 0, end = 0;
  std::uint64_t data = 0;  // bytes that were written
};

// Memory that one thread needs.
struct Room {
  FrameReader reader;
  std::vector<std::byte> content;
};

class Unpacking {
 public:
  using Use = std::function<std::uint64_t(const Frame&, std::span<const std::byte> content)>;

  // `use`: called by many threads with the checked bytes of each frame; returns those that it has written.
  Unpacking(const Image& image, Use use, const std::function<void(std::uint64_t)>& progress)
      : image_(image), use_(std::move(use)), progress_(progress) {}

  std::uint64_t run() {
    inOrder<Piece>([this](Piece& piece) { return next(piece); }, [this](Piece& piece) { unpack(piece); },
                   [this](Piece& piece) {
                     data_ += piece.data;
                     progress_(image_.table().frame(piece.end - 1).end());
                   });
    return data_;
  }

 private:
  bool next(Piece& piece) {
    const SeekTable& table = image_.table();
    piece = {next_, next_, 0};
    for (std::uint64_t bytes = 0; bytes < LARGEST_FRAME && piece.end < table.frames(); piece.end++)
      bytes += table.frame(piece.end).bytes;
    next_ = piece.end;
    return piece.first < piece.end;
  }

  void unpack(Piece& piece) {
    Room& room = rooms_.local();
    for (std::size_t index = piece.first; index < piece.end; index++) {
      const Frame frame = image_.table().frame(index);
      room.content.resize(frame.bytes);
      image_.read(index, room.reader, room.content);
      requireHoles(index, frame, room.content);
      piece.data += use_(frame, room.content);
    }
  }

  // Holes and zeros of the map must be zeros for zstd, too.
  void requireHoles(std::size_t index, const Frame& frame, std::span<const std::byte> content) const {
    image_.map().forEach(frame.offset, frame.end(), [&](const Extent& extent) {
      if (extent.kind != Kind::data && !isZero(content.subspan(extent.offset - frame.offset, extent.size)))
        throw Damaged(image_.name() + ": frame " + std::to_string(index) + " has other bytes than zeros at " +
                      std::to_string(extent.offset) + ", where the map of holes has " +
                      std::to_string(extent.size) + " bytes of them; pack the image again");
    });
  }

  const Image& image_;
  const Use use_;
  const std::function<void(std::uint64_t)>& progress_;
  std::size_t next_ = 0;    // of next()
  std::uint64_t data_ = 0;  // used at the end of a piece
  tbb::enumerable_thread_specific<Room> rooms_;
};

// Writes all of `content` but its pages of zeros. Returns the bytes that it has written.
std::uint64_t writeSparse(int out, const std::string& name, std::uint64_t offset,
                          std::span<const std::byte> content) {
  std::uint64_t written = 0;
  for (std::size_t at = 0; at < content.size();) {
    const auto page = [&] { return content.subspan(at, std::min<std::size_t>(PAGE, content.size() - at)); };
    const std::size_t begin = at;
    while (at < content.size() && !isZero(page())) at += page().size();
    if (at > begin) writeAt(out, name, offset + begin, content.subspan(begin, at - begin));
    written += at - begin;
    if (at < content.size()) at += page().size();
  }
  return written;
}

}  // namespace

std::uint64_t unpack(const Image& image, int out, const std::string& outName,
                     const std::function<void(std::uint64_t)>& progress) {
  // Its size first: xfs would else allocate behind its end, and keep that as space that was never written.
  if (ftruncate(out, static_cast<off_t>(image.bytes())) != 0)
    throw std::runtime_error(outName + " is not written: it cannot have " + std::to_string(image.bytes()) +
                             " bytes: " + std::strerror(errno));
  const Unpacking::Use full = [&](const Frame& frame, std::span<const std::byte> content) {
    return writeSparse(out, outName, frame.offset, content);
  };
  const Unpacking::Use differential = [&](const Frame& frame, std::span<const std::byte> content) {
    std::uint64_t written = 0;
    image.map().forEach(frame.offset, frame.end(), [&](const Extent& extent) {
      if (extent.kind == Kind::below) return;
      writeAt(out, outName, extent.offset, content.subspan(extent.offset - frame.offset, extent.size));
      written += extent.size;
    });
    return written;
  };
  return Unpacking(image, image.base().has_value() ? differential : full, progress).run();
}

void check(const Image& image, const std::function<void(std::uint64_t)>& progress) {
  Unpacking(
      image, [](const Frame&, std::span<const std::byte>) { return std::uint64_t{0}; }, progress)
      .run();
}

}  // namespace faultline::packed
