#include "shard/source/fetch_client.h"

#include <kj/debug.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>

#include "process/clock.h"

namespace faultline::shard {

namespace {
// ns after a fetcher has said that a rate holds populations back: it says so more often while that is so.
constexpr std::uint64_t HELD_BACK = 1'000'000'000;
}  // namespace

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

bool FetchClient::heldBack() const {
  return ring_.heldBackAt() + HELD_BACK >= process::nowNs();
}

FetchClient::Answer FetchClient::Asked::await(std::uint64_t deadline) {
  for (;;) {
    const Answer answer = client_->ring_.await(client_->shard_, place_, deadline);
    if (answer.kind != Answer::Kind::late || purpose_ != Purpose::population || !client_->heldBack())
      return answer;
    deadline = process::nowNs() + HELD_BACK;
  }
}

std::optional<FetchClient::Asked> FetchClient::ask(std::uint64_t chunk, std::uint32_t count, Purpose purpose,
                                                   std::uint64_t deadline) {
  std::optional<unsigned> place;
  {
    const threads::Lock lock(mutex_);
    while (!(place = takePlace(purpose)).has_value()) {
      const std::uint64_t now = process::nowNs();
      if (now >= deadline) {
        if (deadline == 0 || purpose != Purpose::population || !heldBack()) return std::nullopt;
        deadline = now + HELD_BACK;
      }
      freed_.waitUntil(mutex_, std::chrono::steady_clock::now() + std::chrono::nanoseconds(deadline - now));
    }
  }
  ring_.ask(shard_, *place, chunk, purpose, count);
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
