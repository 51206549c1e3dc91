// The shard's end of a fetch ring: its places there, shared by all threads and all restores that wait for one source.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "rpc/fetch_ring.h"
#include "threads/mutex.h"

namespace faultline::shard {

// Any thread.
class FetchClient {
 public:
  using Purpose = rpc::FetchRing::Purpose;
  using Answer = rpc::FetchRing::Answer;
  // Places that populations may have: faults find the others free.
  static constexpr unsigned MOST_POPULATING = rpc::FetchRing::PLACES / 2;

  // A question that was asked. Taken back where it goes away unanswered.
  class Asked {
   public:
    Asked(FetchClient& client, unsigned place, Purpose purpose)
        : client_(&client), place_(place), purpose_(purpose) {}
    Asked(Asked&& other) noexcept
        : client_(std::exchange(other.client_, nullptr)), place_(other.place_), purpose_(other.purpose_) {}
    Asked& operator=(Asked&&) = delete;
    ~Asked() {
      if (client_ != nullptr) client_->giveBack(place_, purpose_);
    }
    // Waits for the answer until `deadline` (ns, CLOCK_MONOTONIC). For a population the time does not count in which a rate
    // holds it back.
    Answer await(std::uint64_t deadline);
    // Of an answer that has them.
    const char* bytes() const { return client_->ring_.bytes(client_->shard_, place_); }

   private:
    FetchClient* client_;
    unsigned place_;
    Purpose purpose_;
  };

  // `shard`: our number, which no other living process has.
  FetchClient(rpc::FetchRing ring, unsigned shard);
  FetchClient(const FetchClient&) = delete;

  // A restore has had so many bytes of the source for the first time.
  void countUsed(std::uint64_t bytes) { ring_.countUsed(bytes); }
  // Asks for `count` chunks, at most FetchRing::MOST_CHUNKS. Nothing: no place was free by `deadline`; 0: none is now.
  std::optional<Asked> ask(std::uint64_t chunk, std::uint32_t count, Purpose purpose, std::uint64_t deadline);

 private:
  enum class Place : std::uint8_t {
    free,
    used,
    written
  };  // written: by a fetcher still, as it was reclaimed

  std::optional<unsigned> takePlace(Purpose purpose) REQUIRES(mutex_);
  void giveBack(unsigned place, Purpose purpose);
  bool heldBack() const;

  rpc::FetchRing ring_;
  const unsigned shard_;
  threads::Mutex mutex_;
  threads::Condition freed_;
  Place places_[rpc::FetchRing::PLACES] GUARDED_BY(mutex_);
  unsigned populating_ GUARDED_BY(mutex_) = 0;
};

// The clients of this process, one for each ring. For one thread.
class FetchClients {
 public:
  // The one of this ring, which is made where there is none.
  std::shared_ptr<FetchClient> of(int ring, unsigned shard);

 private:
  std::map<std::pair<std::uint64_t, std::uint64_t>, std::weak_ptr<FetchClient>>
      clients_;  // by device and inode
};

}  // namespace faultline::shard
