// A kind of source that is fetched: what it knows of itself, and its bytes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

namespace faultline::fetcher {

// A part of a source, in bytes.
struct Range {
  std::uint64_t begin, end;
  std::uint64_t size() const { return end - begin; }
  // What the two have in common; where that is nothing, its begin is not before its end.
  Range within(const Range& other) const { return {std::max(begin, other.begin), std::min(end, other.end)}; }
};

// Const methods: any thread.
class Engine {
 public:
  struct Facts {
    std::uint64_t bytes;     // size of the image
    std::uint64_t identity;  // two sources whose identities differ have different bytes
    bool differential;       // some of it is a layer's below
    std::uint64_t base = 0;  // fingerprint of what is below, where it is differential
  };
  // Kinds of parts that are known without being fetched: zeros, and what is a layer's below.
  enum class Known { zero, below };

  virtual ~Engine() noexcept(false) = default;  // KJ's fds may throw
  virtual const char* name() const = 0;         // the kind's name, for people and metrics
  virtual Facts facts() const = 0;
  // The fingerprint of a file with these bytes: `faultline info` shows it, and a differential image names its base by it.
  // Reads samples. Throws std::system_error. Waits for the store. Some have it for their identity.
  virtual std::uint64_t fingerprint() const { return facts().identity; }
  virtual void forEachKnown(const std::function<void(Range, Known)>& use) const = 0;
  // Returns what one read should bring where the chunk at [begin, end) is wanted: a range that contains the chunk.
  virtual Range unitOf(Range chunk) const = 0;
  // The least that can be read of that to have the chunk.
  virtual Range leastOf(Range chunk) const { return unitOf(chunk); }
  // Fills `to` from `units.begin` on: `units` is what unitOf() or leastOf() gave, or several of those that follow each other. Returns 0, or
  // errno: EBADMSG where the bytes are not those of the image, ESTALE where the source has become another. Waits as long as
  // the store does.
  virtual int read(Range units, std::span<std::byte> to) const = 0;
  // Threads that may read at once.
  virtual unsigned depth() const = 0;
  // How many of them may read what no fault waits for; fewer than depth().
  virtual unsigned background() const { return std::max(1u, depth() - std::max(1u, depth() / 8)); }
  // Bytes that one read brings at least where more is wanted than a unit. A fault that wants some of them waits for that read.
  virtual std::uint64_t portion() const { return 1; }
  // Bytes that one thread takes on, by one portion after the other; a unit at least.
  virtual std::uint64_t piece() const { return portion(); }
};

}  // namespace faultline::fetcher
