// A kind of source that is fetched: what it knows of itself, and its bytes.
#pragma once

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
};

// Const methods: any thread.
class Engine {
 public:
  struct Facts {
    std::uint64_t bytes;     // of the image
    std::uint64_t identity;  // two sources whose identities differ have different bytes
    bool differential;       // some of it is a layer's below
  };
  // What is known of a part without fetching it.
  enum class Known { zero, below };

  virtual ~Engine() noexcept(false) = default;  // KJ's fds may throw
  virtual const char* name() const = 0;         // of the kind, for people and metrics
  virtual Facts facts() const = 0;
  virtual void forEachKnown(const std::function<void(Range, Known)>& use) const = 0;
  // What one read should bring where the chunk at [begin, end) is wanted: it contains that.
  virtual Range unitOf(Range chunk) const = 0;
  // Fills `to` from `unit.begin` on: `unit` is what unitOf() gave. Returns 0, or errno: EBADMSG where the bytes are not
  // those of the image, ESTALE where the source has become another. Waits as long as the store does.
  virtual int read(Range unit, std::span<std::byte> to) const = 0;
  // Threads that may read at once.
  virtual unsigned depth() const = 0;
};

}  // namespace faultline::fetcher
