#include "shard/source/fetch_client.h"

#include <kj/debug.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>

#include "process/clock.h"

namespace faultline::shard {

FetchClient::FetchClient(rpc::FetchRing ring, unsigned shard) : ring_(std::move(ring)), shard_(shard) {
  // What a process with our number has left.
  for (unsigned place = 0; place < rpc::FetchRing::PLACES; place++)
    places_[place] = ring_.reclaim(shard_, place) ? Place::free : Place::written;
}

std::optional<unsigned> FetchClient::takePlace(Purpose purpose) {
  if (purpose == Purpose::population && populating_ >= MOST_POPULATING) return std::nullopt;
  for (unsigned place = 0; place < rpc::FetchRing::PLACES; place++) {
    if (places_[place] == Place::written && ring_.reclaim(shard_, place)) places_[place] = Place::free;
    if (places_[place] != Place::free) continue;
    places_[place] = Place::used;
    populating_ += purpose == Purpose::population ? 1 : 0;
    return place;
  }
  return std::nullopt;
}

std::optional<FetchClient::Asked> FetchClient::ask(std::uint64_t chunk, Purpose purpose,
                                                   std::uint64_t deadline) {
  std::optional<unsigned> place;
  {
    const threads::Lock lock(mutex_);
    while (!(place = takePlace(purpose)).has_value()) {
      const std::uint64_t now = process::nowNs();
      if (now >= deadline) return std::nullopt;
      freed_.waitUntil(mutex_, std::chrono::steady_clock::now() + std::chrono::nanoseconds(deadline - now));
    }
  }
  ring_.ask(shard_, *place, chunk, purpose);
  return std::optional<Asked>(std::in_place, *this, *place, purpose);
}

void FetchClient::giveBack(unsigned place, Purpose purpose) {
  const bool free = ring_.release(shard_, place);
  const threads::Lock lock(mutex_);
  places_[place] = free ? Place::free : Place::written;
  populating_ -= purpose == Purpose::population ? 1 : 0;
  freed_.notifyAll();
}

std::shared_ptr<FetchClient> FetchClients::of(int ring, unsigned shard) {
  std::erase_if(clients_, [](const auto& known) { return known.second.expired(); });
  struct stat status {};
  KJ_SYSCALL(fstat(ring, &status));
  auto& known = clients_[{status.st_dev, status.st_ino}];
  auto client = known.lock();
  if (client == nullptr) known = client = std::make_shared<FetchClient>(rpc::FetchRing::attach(ring), shard);
  return client;
}

}  // namespace faultline::shard
