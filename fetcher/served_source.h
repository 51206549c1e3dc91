// A source that is fetched for shards: its threads answer the questions of its ring, and keep what they get.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "fetcher/cache.h"
#include "fetcher/engine.h"
#include "fetcher/engine_counters.h"
#include "process/byte_rate.h"
#include "rpc/fetch_ring.h"
#include "threads/mutex.h"

namespace faultline::fetcher {

struct Counters {
  shm::Counter hits{0}, misses{0}, notKept{0};
  std::map<std::string, EngineCounters> engines;  // all there are, from the start
};

// Chunks that follow each other.
struct Chunks {
  std::uint64_t first, end;
};

// Its threads wait for its own store and for no other's. Owned by shared_ptr: a thread that waits keeps it alive. Any thread.
class ServedSource : public std::enable_shared_from_this<ServedSource> {
 public:
  // `counters`, and `rate`, which what no fault waits for keeps to, must outlive it.
  ServedSource(std::shared_ptr<const Engine> engine, std::unique_ptr<Cache> cache, rpc::FetchRing ring,
               Counters& counters, process::ByteRate& rate);

  // Answers questions from here on, those that were left by a fetcher before us first.
  void begin(rpc::FetchRing::Former former);
  // Answers no more. Does not wait.
  void end();
  // The rate has changed.
  void rateChanged() { ring_.wakeFetcher(rpc::FetchRing::Wake::all); }

  // Parts of the source, in bytes, that are to be fetched in this order beside what is asked for.
  class Wanted;
  // cancel() ends what prefetch() began: nothing more is fetched for it.
  std::shared_ptr<Wanted> prefetch(std::vector<Range> ranges);
  void cancel(const std::shared_ptr<Wanted>& wanted);

 private:
  using Question = rpc::FetchRing::Question;
  using Purpose = rpc::FetchRing::Purpose;

  // A question that is not answered yet.
  struct Asked {
    const Question question;
    std::size_t left = 0;  // chunks that are being read
    int error = 0;
    bool kept = true, answered = false;
  };
  using AskedRef = std::shared_ptr<Asked>;
  // Chunks that are read by one thread, and by no other.
  struct Reading {
    Chunks chunks;
    Range units;  // whole ones of the engine; at its ends there may be parts of other chunks
    Purpose purpose;
  };
  // The next work of a thread: an answer, a part of one that another has found, or chunks that are wanted in advance.
  using Work = std::variant<Question, Reading, Chunks>;
  struct Taken {
    std::optional<Work> work;
    std::uint64_t wait;  // ns, where there is none: then look again
  };

  void run();
  void watchCache();
  Taken take();
  std::optional<Reading> takePiece();
  std::optional<Work> takeBackground();
  void hold();
  std::optional<Chunks> takeWanted();
  std::optional<Chunks> nextOf(Wanted& wanted) REQUIRES(mutex_);
  void startThread();
  void serve(const Question& question);
  bool unclaimed(std::uint64_t chunk) const REQUIRES(mutex_);
  std::vector<Reading> claim(Chunks chunks, Purpose purpose, const AskedRef& asked) REQUIRES(mutex_);
  std::vector<Reading> claimed(Chunks chunks);
  void readAll(const std::vector<Reading>& pieces);
  void read(const Reading& reading);
  bool readPortion(const Reading& reading, Range portion, std::span<std::byte> bytes,
                   std::vector<int>& errors);
  int readSingly(std::uint64_t chunk, Range portion, std::span<std::byte> to);
  int readRange(Range range, std::span<std::byte> to);
  bool portionRead(const Reading& reading, Range range, std::span<const std::byte> bytes);
  bool giveAhead(const Asked& asked) REQUIRES(mutex_);
  void finish(const Reading& reading, std::span<const std::byte> bytes, const std::vector<int>& errors);
  void answer(const Asked& asked, const Reading& reading, std::span<const std::byte> bytes);
  Range rangeOf(std::uint64_t chunk) const;

  const std::shared_ptr<const Engine> engine_;
  const std::unique_ptr<Cache> cache_;
  rpc::FetchRing ring_;
  Counters& counters_;
  EngineCounters& own_;
  process::ByteRate& rate_;
  std::atomic<bool> ended_{false};
  std::atomic<unsigned> idle_{0}, populating_{0};
  std::atomic<bool> heldBack_{false};  // a thread, by the limit of those that populate
  threads::Mutex mutex_;
  unsigned threads_ GUARDED_BY(mutex_) = 0;
  // A chunk that is being read, and who waits for it. `bytes`: they are there, and what they came with is still being read or
  // kept; valid while it is listed.
  struct InFlight {
    std::vector<AskedRef> waiting{};
    std::span<const std::byte> bytes{};
  };
  std::map<std::uint64_t, InFlight> reading_ GUARDED_BY(mutex_);
  std::deque<Reading> pieces_ GUARDED_BY(mutex_);  // not begun by any thread
  std::deque<Question> held_ GUARDED_BY(mutex_);   // by the rate
  std::deque<std::shared_ptr<Wanted>> wanted_ GUARDED_BY(mutex_);
};

}  // namespace faultline::fetcher
