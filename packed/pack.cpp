#include "packed/pack.h"

#include <tbb/enumerable_thread_specific.h>

#include <algorithm>
#include <span>
#include <utility>

#include "packed/file.h"
#include "packed/in_order.h"
#include "packed/layer_map.h"
#include "packed/seek_table.h"
#include "packed/writer.h"
#include "packed/zeros.h"

namespace faultline::packed {

namespace {

// Bytes that are one piece of work: the largest frame, or the usual ones in its place.
constexpr std::uint64_t PIECE = LARGEST_FRAME;

struct Piece {
  std::uint64_t begin = 0, size = 0;                  // image's bytes
  std::vector<DataRange> data;                        // in it
  std::vector<std::byte> content;                     // its bytes
  std::vector<PackedFrame> frames;                    // of them
  std::vector<std::pair<std::uint64_t, Kind>> kinds;  // kinds of its bytes, in order
};

std::uint64_t pageUp(std::uint64_t offset) {
  return (offset + PAGE - 1) / PAGE * PAGE;
}

class Packing {
 public:
  Packing(const PackInput& in, int out, const std::string& outName, const PackOptions& options,
          const std::function<void(std::uint64_t)>& progress)
      : in_(in),
        options_(options),
        progress_(progress),
        writer_(out, outName),
        packers_([level = options.level] { return Packer(level); }) {
    const std::vector<std::byte> zeros(PIECE);
    Packer packer(options.level);
    zeroPiece_ = packer.pack(zeros);
    zeroFrame_ = packer.pack(std::span(zeros).first(FRAME));
  }

  PackSummary run() {
    inOrder<Piece>([this](Piece& piece) { return next(piece); }, [this](Piece& piece) { packPiece(piece); },
                   [this](Piece& piece) { write(piece); });
    PackSummary summary{.bytes = in_.bytes,
                        .zero = map_.bytesOf(Kind::zero),
                        .below = map_.bytesOf(Kind::below),
                        .frames = writer_.frames()};
    writer_.finish(std::move(map_), options_.base);
    summary.fileBytes = writer_.fileBytes();
    return summary;
  }

 private:
  // The next piece, and what is data in it.
  bool next(Piece& piece) {
    if (at_ == in_.bytes) return false;
    piece.begin = at_;
    piece.size = std::min(PIECE, in_.bytes - at_);
    piece.data.clear();
    const std::uint64_t end = at_ + piece.size;
    for (; range_ < in_.data.size() && in_.data[range_].offset < end; range_++) {
      const DataRange& range = in_.data[range_];
      const std::uint64_t begin = std::max(range.offset, at_);
      const std::uint64_t stop = std::min(range.offset + range.size, end);
      piece.data.push_back({begin, stop - begin});
      if (range.offset + range.size > end) break;  // goes on in the next piece
    }
    at_ = end;
    return true;
  }

  void packPiece(Piece& piece) {
    piece.frames.clear();
    piece.kinds.clear();
    if (piece.data.empty() && piece.size == PIECE) {
      piece.frames.push_back(zeroPiece_);
      piece.kinds.emplace_back(PIECE, kindOfHole());
      return;
    }
    piece.content.assign(piece.size, std::byte{0});
    for (const DataRange& range : piece.data)
      readAt(in_.file, in_.name, range.offset,
             std::span(piece.content).subspan(range.offset - piece.begin, range.size));
    auto data = piece.data.begin();
    for (std::uint64_t at = 0; at < piece.size; at += FRAME) packFrame(piece, at, data);
  }

  // The frame that begins `at` in the piece. `data`: the first range that may be in it.
  void packFrame(Piece& piece, std::uint64_t at, std::vector<DataRange>::iterator& data) {
    const std::span<const std::byte> content =
        std::span(piece.content).subspan(at, std::min<std::uint64_t>(FRAME, piece.size - at));
    const bool zero = isZero(content);
    if (zero && content.size() == FRAME)
      piece.frames.push_back(zeroFrame_);
    else
      piece.frames.push_back(packers_.local().pack(content));
    const Kind kind = zero ? Kind::zero : Kind::data;
    if (!options_.base.has_value()) {
      piece.kinds.emplace_back(content.size(), kind);
      return;
    }
    // A page with some data is this layer's.
    const std::uint64_t begin = piece.begin + at, end = begin + content.size();
    std::uint64_t reached = begin;
    for (; data != piece.data.end() && data->offset < end; data++) {
      const std::uint64_t from = std::max(data->offset / PAGE * PAGE, reached);
      const std::uint64_t to = std::min(pageUp(data->offset + data->size), end);
      if (from > reached) piece.kinds.emplace_back(from - reached, Kind::below);
      if (to > from) piece.kinds.emplace_back(to - from, kind);
      reached = std::max(to, reached);
      if (data->offset + data->size > end) break;  // goes on in the next frame
    }
    if (reached < end) piece.kinds.emplace_back(end - reached, Kind::below);
  }

  void write(Piece& piece) {
    for (const PackedFrame& frame : piece.frames) writer_.add(frame);
    for (const auto& [bytes, kind] : piece.kinds) map_.append(bytes, kind);
    progress_(piece.begin + piece.size);
  }

  Kind kindOfHole() const { return options_.base.has_value() ? Kind::below : Kind::zero; }

  const PackInput& in_;
  const PackOptions options_;
  const std::function<void(std::uint64_t)>& progress_;
  // Of next():
  std::uint64_t at_ = 0;
  std::size_t range_ = 0;
  // Of write():
  Writer writer_;
  LayerMap map_;

  tbb::enumerable_thread_specific<Packer> packers_;
  PackedFrame zeroPiece_, zeroFrame_;
};

}  // namespace

PackSummary pack(const PackInput& in, int out, const std::string& outName, const PackOptions& options,
                 const std::function<void(std::uint64_t)>& progress) {
  return Packing(in, out, outName, options, progress).run();
}

}  // namespace faultline::packed
