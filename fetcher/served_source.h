// A source that is fetched for shards: its threads answer the questions of its ring, and keep what they get.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "fetcher/cache.h"
#include "fetcher/engine.h"
#include "fetcher/engine_counters.h"
#include "rpc/fetch_ring.h"
#include "threads/mutex.h"

namespace faultline::fetcher {

struct Counters {
  shm::Counter hits{0}, misses{0}, notKept{0};
  std::map<std::string, EngineCounters> engines;  // all there are, from the start
};

// Its threads wait for its own store and for no other's. Owned by shared_ptr: a thread that waits keeps it alive.
class ServedSource : public std::enable_shared_from_this<ServedSource> {
 public:
  // `counters` must outlive it.
  ServedSource(std::shared_ptr<const Engine> engine, std::unique_ptr<Cache> cache, rpc::FetchRing ring,
               Counters& counters);

  // Answers questions from here on, those that were left by a fetcher before us first.
  void begin();
  // Answers no more. Does not wait.
  void end();

 private:
  using Question = rpc::FetchRing::Question;
  using Purpose = rpc::FetchRing::Purpose;

  void run();
  void watchCache();
  std::optional<Question> take();
  void startThread();
  void serve(const Question& question);
  void fetch(Range unit);
  void answer(const Question& question, int error, Range unit, std::span<const std::byte> bytes);

  const std::shared_ptr<const Engine> engine_;
  const std::unique_ptr<Cache> cache_;
  rpc::FetchRing ring_;
  Counters& counters_;
  EngineCounters& own_;
  std::atomic<bool> ended_{false};
  std::atomic<unsigned> idle_{0}, populating_{0};
  std::atomic<bool> heldBack_{false};  // a thread, by the limit of those that populate
  threads::Mutex mutex_;
  unsigned threads_ GUARDED_BY(mutex_) = 0;
  // What is being read, by where it begins and ends, and who waits for it.
  std::map<std::pair<std::uint64_t, std::uint64_t>, std::vector<Question>> reading_ GUARDED_BY(mutex_);
};

}  // namespace faultline::fetcher
