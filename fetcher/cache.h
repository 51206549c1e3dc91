// A cache: what was fetched of a source, in a file that all who serve it read.
#pragma once

#include <kj/io.h>

#include <atomic>
#include <cstdint>
#include <span>

#include "fetcher/engine.h"
#include "rpc/fetch_map.h"
#include "threads/mutex.h"

namespace faultline::fetcher {

// Bytes that all caches of this process take together. Any thread.
class Budget {
 public:
  explicit Budget(std::uint64_t limit) : limit_(limit) {}
  bool take(std::uint64_t bytes) {
    if (taken_.fetch_add(bytes) + bytes <= limit_) return true;
    taken_.fetch_sub(bytes);
    return false;
  }
  // Counts bytes that are there already, whether they fit or not.
  void add(std::uint64_t bytes) { taken_.fetch_add(bytes); }
  void giveBack(std::uint64_t bytes) { taken_.fetch_sub(bytes); }
  std::uint64_t taken() const { return taken_.load(std::memory_order_relaxed); }

 private:
  const std::uint64_t limit_;
  std::atomic<std::uint64_t> taken_{0};
};

// Any thread.
class Cache {
 public:
  // `data`: of the source's size, and `map`: both open for writing. Throws where they are another source's. Fills in what
  // is known without fetching. `budget` must outlive it.
  Cache(kj::AutoCloseFd data, int map, const Engine& engine, Budget& budget);
  ~Cache();
  Cache(const Cache&) = delete;

  const rpc::FetchMap& map() const { return map_; }
  rpc::FetchMap::State state(std::uint64_t chunk) const { return map_.state(chunk); }
  // Keeps the bytes of chunks from `first` on, of each that is not there, as far as there is room for them: state() tells.
  // Only one thread at a time may keep a given chunk.
  void keep(std::uint64_t first, std::span<const std::byte> bytes);
  // Looks whether what was written came to the disk. Waits for writes that are under way. False: it did not, and the cache
  // is broken from now on.
  bool sound();
  // The source has another content than the cache began with: who rests on it is told.
  void sourceChanged() { map_.setBroken(rpc::FetchMap::Broken::changed); }

 private:
  void fillIn(const Engine& engine);
  bool write(std::uint64_t first, std::uint64_t chunks, std::span<const std::byte> bytes);

  const kj::AutoCloseFd data_;
  // Writers take turns: else they spin for the file's own lock (kernel/locking/rwsem.c) and take the CPU from those who fetch.
  threads::Mutex writing_;
  rpc::FetchMap map_;
  Budget& budget_;
  std::atomic<std::uint64_t> taken_{0};  // bytes of the budget
  std::atomic<bool> full_{false};        // told
  std::atomic<bool> written_{false};     // since sound() looked
};

}  // namespace faultline::fetcher
