// Map of an image: what it has of each page, as a packed file tells it.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace faultline::packed {

inline constexpr std::uint64_t PAGE = 4096;  // bytes; the grain of the map

enum class Kind : std::uint8_t {
  data = 0,
  zero = 1,   // own bytes of this layer, all 0
  below = 2,  // not in this layer: what the layer below has
};

struct Extent {
  std::uint64_t offset, size;  // bytes of the image
  Kind kind;

  std::uint64_t end() const { return offset + size; }
  bool operator==(const Extent&) const = default;
};

// The kinds of all pages of an image. The last page may be a part of one. Const methods: any thread.
class LayerMap {
 public:
  LayerMap() = default;
  // All of one kind. `bytes`: of the image.
  LayerMap(std::uint64_t bytes, Kind kind) { append(bytes, kind); }

  // The next `bytes` are of this kind: whole pages, unless they are the last.
  void append(std::uint64_t bytes, Kind kind);

  std::uint64_t bytes() const { return bytes_; }
  std::uint64_t bytesOf(Kind kind) const;
  // Neighbours are of different kinds. How many there are:
  std::size_t size() const { return runs_.size(); }

  // Calls back for each part of [begin, end), in order; `end` is in the image.
  void forEach(std::uint64_t begin, std::uint64_t end, const std::function<void(const Extent&)>& use) const;
  // Whether all of [begin, end), which is not empty, is of this kind.
  bool isAll(std::uint64_t begin, std::uint64_t end, Kind kind) const;
  // The first byte at or behind `offset` that is of another kind; bytes() where there is none.
  std::uint64_t nextOtherThan(Kind kind, std::uint64_t offset) const;

 private:
  struct Run {
    std::uint64_t begin;
    Kind kind;
  };
  // The run that has this offset, which is in the image.
  std::size_t runAt(std::uint64_t offset) const;
  std::uint64_t endOf(std::size_t run) const {
    return run + 1 < runs_.size() ? runs_[run + 1].begin : bytes_;
  }

  std::vector<Run> runs_;
  std::uint64_t bytes_ = 0;
};

}  // namespace faultline::packed
