// The map of what a cache has of one source: the state of each chunk, and which pages are not the source's own. Shared memory
// that the fetcher alone writes; shards map it read-only and decide by it without a call.
//
// A state is set once and never goes back: first space for the bytes, then the bytes, then the state (release; readers
// acquire). A hole of the cache's data says nothing.
#pragma once

#include <kj/io.h>

#include <atomic>
#include <cstdint>
#include <optional>

namespace faultline::rpc {

// Any thread.
class FetchMap {
 public:
  static constexpr std::uint64_t CHUNK = 64u << 10, PAGE = 4096;  // bytes

  enum class State : std::uint8_t {
    absent = 0,   // to be asked for
    present = 1,  // the cache's data has it
    zero = 2,     // all of it is zero, whatever the cache's data says
  };
  struct Facts {
    std::uint64_t bytes;     // size of the source
    std::uint64_t identity;  // stands for its content
    bool layered;            // some pages are not its own, but those of a layer below
    bool operator==(const Facts&) const = default;
  };
  enum class Access { read, write };

  // Memory for a map in which nothing is known, and which is not ready. Sealed to its size. Throws where there is none.
  static kj::AutoCloseFd create(const Facts& facts);
  // Throws kj::Exception where it is no map of this build.
  static FetchMap attach(int memory, Access access);
  FetchMap(FetchMap&& other) noexcept;
  ~FetchMap();

  const Facts& facts() const { return facts_; }
  std::uint64_t bytes() const { return facts_.bytes; }
  std::uint64_t chunks() const { return (facts_.bytes + CHUNK - 1) / CHUNK; }

  // `chunk` is one of the source; so is a range.
  // Whatever else may stand there is no state that can be believed.
  State state(std::uint64_t chunk) const {
    const std::uint8_t state = states_[chunk].load(std::memory_order_acquire);
    return state <= static_cast<std::uint8_t>(State::zero) ? static_cast<State>(state) : State::absent;
  }
  // Whether nothing of the range has to be asked for.
  bool known(std::uint64_t offset, std::uint64_t length) const;
  bool zero(std::uint64_t offset, std::uint64_t length) const;
  // Whether the page is a layer's below.
  bool below(std::uint64_t page) const {
    return facts_.layered && (below_[page / 8].load(std::memory_order_relaxed) >> page % 8 & 1) != 0;
  }
  // False until all that is known without fetching is there: before that, below() says nothing.
  bool ready() const;
  // Why nothing of the map is to be believed any more.
  enum class Broken : std::uint32_t {
    no = 0,
    disk = 1,     // the data of the cache may not be what was written
    changed = 2,  // the source has another content by now than it had: no more of it can be had
  };
  Broken broken() const;

  // --- the fetcher's ---
  void set(std::uint64_t chunk, State state) {
    states_[chunk].store(static_cast<std::uint8_t>(state), std::memory_order_release);
  }
  void setBelow(std::uint64_t firstPage, std::uint64_t lastPage);
  void setReady();
  void setBroken(Broken why);

 private:
  struct Header;
  FetchMap(void* start, std::size_t size);

  Header* header_;
  std::size_t size_;
  Facts facts_;
  std::atomic<std::uint8_t>* states_;
  std::atomic<std::uint8_t>* below_;
};

}  // namespace faultline::rpc
