// What the threads of a source do: what goes before what, who reads which chunk, and what nobody waits for.

#include "fetcher/served_source.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <future>
#include <memory>
#include <set>
#include <vector>

#include "process/clock.h"
#include "tests/support/server.h"

namespace faultline::fetcher {
namespace {

using rpc::FetchMap;
using rpc::FetchRing;
using Kind = FetchRing::Answer::Kind;
using Purpose = FetchRing::Purpose;
using test::await;

constexpr std::uint64_t CHUNK = FetchMap::CHUNK, CHUNKS = 100, SECOND = 1'000'000'000;
constexpr std::uint64_t LATER = ~0ull / 2;

// A store whose reads wait where a test wants them to. Each byte of a chunk is its number, plus 1.
class Store final : public Engine {
 public:
  Store(std::uint64_t portion, std::uint64_t piece, unsigned depth, std::uint64_t unit)
      : portion_(portion), piece_(piece), depth_(depth), unit_(unit) {}

  const char* name() const override { return "packed"; }
  Facts facts() const override { return {CHUNKS * CHUNK, 1, false}; }
  void forEachKnown(const std::function<void(Range, Known)>&) const override {}
  Range unitOf(Range chunk) const override {
    return {chunk.begin / unit_ * unit_, std::min((chunk.begin / unit_ + 1) * unit_, CHUNKS * CHUNK)};
  }
  Range leastOf(Range chunk) const override { return chunk; }
  unsigned depth() const override { return depth_; }
  std::uint64_t portion() const override { return portion_; }
  std::uint64_t piece() const override { return piece_; }
  int read(Range units, std::span<std::byte> to) const override {
    threads::Lock lock(mutex_);
    const std::uint64_t first = units.begin / CHUNK, end = (units.end + CHUNK - 1) / CHUNK;
    for (std::uint64_t chunk = first; chunk < end; chunk++) {
      order_.push_back(chunk);
      std::fill_n(to.begin() + static_cast<std::ptrdiff_t>((chunk - first) * CHUNK), CHUNK,
                  static_cast<std::byte>(chunk + 1));
    }
    waiting_++;
    while (std::any_of(held_.begin(), held_.end(), [&](auto c) { return c >= first && c < end; }))
      changed_.wait(mutex_);
    waiting_--;
    const bool bad = std::any_of(bad_.begin(), bad_.end(), [&](auto c) { return c >= first && c < end; });
    return bad ? EBADMSG : 0;
  }

  void hold(std::set<std::uint64_t> chunks) {
    const threads::Lock lock(mutex_);
    held_ = std::move(chunks);
    changed_.notifyAll();
  }
  void fail(std::uint64_t chunk) {
    const threads::Lock lock(mutex_);
    bad_.insert(chunk);
  }
  // Chunks in the order in which they were read.
  std::vector<std::uint64_t> order() const {
    const threads::Lock lock(mutex_);
    return order_;
  }
  unsigned waiting() const {
    const threads::Lock lock(mutex_);
    return waiting_;
  }

 private:
  const std::uint64_t portion_, piece_;
  const unsigned depth_;
  const std::uint64_t unit_;
  mutable threads::Mutex mutex_;
  mutable threads::Condition changed_;
  std::set<std::uint64_t> held_ GUARDED_BY(mutex_), bad_ GUARDED_BY(mutex_);
  mutable std::vector<std::uint64_t> order_ GUARDED_BY(mutex_);
  mutable unsigned waiting_ GUARDED_BY(mutex_) = 0;
};

struct Served {
  explicit Served(std::uint64_t portion = CHUNK, std::uint64_t piece = 32 * CHUNK, std::uint64_t room = ~0ull,
                  unsigned depth = 4, std::uint64_t unit = CHUNK)
      : store(std::make_shared<Store>(portion, piece, depth, unit)), budget(room) {
    counters.engines["packed"];
    kj::AutoCloseFd data(memfd_create("data", MFD_CLOEXEC));
    EXPECT_EQ(ftruncate(data.get(), static_cast<off_t>(CHUNKS * CHUNK)), 0);
    auto cache = std::make_unique<Cache>(kj::mv(data), mapMemory.get(), *store, budget);
    source = std::shared_ptr<ServedSource>(
        new ServedSource(store, std::move(cache), FetchRing::attach(ringMemory.get()), counters, rate),
        [this](ServedSource* last) {
          delete last;
          gone.store(true);
        });
  }
  // Its threads go on for a moment: what they use must stay.
  ~Served() {
    store->hold({});
    source->end();
    source = nullptr;
    await([&] { return gone.load(); });
  }
  Served(const Served&) = delete;

  void ask(unsigned place, std::uint64_t chunk, Purpose purpose, std::uint32_t count = 1) {
    ring.ask(0, place, chunk, purpose, count);
  }
  FetchRing::Answer answer(unsigned place, std::uint64_t deadline = LATER) {
    return ring.await(0, place, deadline);
  }
  bool open(unsigned place) { return answer(place, 0).kind == Kind::late; }

  std::shared_ptr<Store> store;
  Budget budget;
  Counters counters;
  process::ByteRate rate;
  kj::AutoCloseFd ringMemory{FetchRing::create()}, mapMemory{FetchMap::create({CHUNKS * CHUNK, 1, false})};
  FetchRing ring = FetchRing::attach(ringMemory.get());
  FetchMap map = FetchMap::attach(mapMemory.get(), FetchMap::Access::read);
  std::atomic<bool> gone{false};  // the source, and so its threads
  std::shared_ptr<ServedSource> source;
};

std::vector<std::uint64_t> numbers(std::uint64_t first, std::uint64_t end) {
  std::vector<std::uint64_t> all;
  for (std::uint64_t i = first; i < end; i++) all.push_back(i);
  return all;
}

TEST(ServedSource, ARunIsOneAnswerAndEachChunkOfItIsKept) {
  Served served;
  served.source->begin(FetchRing::Former::died);
  served.ask(0, 10, Purpose::population, 32);
  EXPECT_EQ(served.answer(0).kind, Kind::kept);
  EXPECT_EQ(served.store->order(), numbers(10, 42));
  EXPECT_TRUE(served.map.known(10 * CHUNK, 32 * CHUNK));
  EXPECT_FALSE(served.map.known(9 * CHUNK, CHUNK));
  EXPECT_FALSE(served.map.known(42 * CHUNK, CHUNK));
}

TEST(ServedSource, NoChunkIsReadTwice) {
  Served served;
  served.store->hold({20});
  served.source->begin(FetchRing::Former::died);
  served.ask(0, 10, Purpose::population, 32);
  await([&] { return served.store->waiting() == 1; });
  // Of one that is being read, of one that is there as well, and of one that nobody reads.
  served.ask(1, 5, Purpose::population, 10);
  served.ask(2, 41, Purpose::population, 2);
  served.store->hold({});
  for (unsigned place = 0; place < 3; place++) EXPECT_EQ(served.answer(place).kind, Kind::kept) << place;
  auto order = served.store->order();
  std::sort(order.begin(), order.end());
  EXPECT_EQ(order, numbers(5, 43));
}

// A fault that wants a part of a run need not wait for all of it.
TEST(ServedSource, AFaultHasItsChunkWhileTheRestOfARunIsRead) {
  Served served;
  served.store->hold({20, 30});
  served.source->begin(FetchRing::Former::died);
  served.ask(0, 10, Purpose::population, 32);
  await([&] { return served.store->waiting() == 1; });
  served.ask(1, 20, Purpose::fault);
  served.store->hold({30});
  EXPECT_EQ(served.answer(1).kind, Kind::bytes);
  EXPECT_EQ(served.ring.bytes(0, 1)[CHUNK - 1], static_cast<char>(21));
  EXPECT_TRUE(served.open(0));
  served.store->hold({});
  EXPECT_EQ(served.answer(0).kind, Kind::kept);
  EXPECT_EQ(served.counters.notKept, 0u);
}

TEST(ServedSource, AFaultFindsAThreadHoweverMuchIsPopulated) {
  Served served(CHUNK, CHUNK);
  std::set<std::uint64_t> all;
  for (std::uint64_t chunk = 0; chunk < 60; chunk++) all.insert(chunk);
  served.store->hold(all);
  served.source->begin(FetchRing::Former::died);
  auto wanted = served.source->prefetch({{40 * CHUNK, 60 * CHUNK}});
  served.ask(0, 0, Purpose::population, 32);
  for (unsigned place = 1; place < 10; place++) served.ask(place, 30 + place, Purpose::population);
  await([&] { return served.store->waiting() == 3; });
  served.ask(20, 70, Purpose::fault);
  EXPECT_EQ(served.answer(20).kind, Kind::bytes);
  EXPECT_EQ(served.store->waiting(), 3u) << "one of four is left to faults";
}

TEST(ServedSource, ARunIsSpreadOverThreadsByPieces) {
  Served served(2 * CHUNK, 2 * CHUNK);
  served.store->hold({0, 2, 4});
  served.source->begin(FetchRing::Former::died);
  served.ask(0, 0, Purpose::population, 6);
  await([&] { return served.store->waiting() == 3; });
  EXPECT_TRUE(served.open(0));
  served.store->hold({});
  EXPECT_EQ(served.answer(0).kind, Kind::kept);
  auto order = served.store->order();
  std::sort(order.begin(), order.end());
  EXPECT_EQ(order, numbers(0, 6));
}

TEST(ServedSource, ADamagedChunkOfARunCostsNoOther) {
  Served served;
  served.store->fail(15);
  served.source->begin(FetchRing::Former::died);
  served.ask(0, 10, Purpose::population, 10);
  const auto answer = served.answer(0);
  EXPECT_EQ(answer.kind, Kind::failed);
  EXPECT_EQ(answer.error, EBADMSG);
  for (std::uint64_t chunk = 10; chunk < 20; chunk++)
    EXPECT_EQ(served.map.known(chunk * CHUNK, CHUNK), chunk != 15) << chunk;
}

// Nor of the unit in which it comes, whichever of them is asked for.
TEST(ServedSource, ADamagedChunkOfAUnitCostsNoOther) {
  Served served(CHUNK, 8 * CHUNK, ~0ull, 4, 8 * CHUNK);
  served.store->fail(13);
  served.store->hold({13});
  served.source->begin(FetchRing::Former::died);
  served.ask(0, 13, Purpose::fault);
  await([&] { return served.store->waiting() == 1; });
  served.ask(1, 9, Purpose::fault);
  served.ask(2, 8, Purpose::population, 8);
  served.store->hold({});
  EXPECT_NE(served.answer(1).kind, Kind::failed);
  for (const unsigned place : {0u, 2u}) {
    const auto answer = served.answer(place);
    EXPECT_EQ(answer.kind, Kind::failed);
    EXPECT_EQ(answer.error, EBADMSG);
  }
  for (std::uint64_t chunk = 8; chunk < 16; chunk++)
    EXPECT_EQ(served.map.known(chunk * CHUNK, CHUNK), chunk != 13) << chunk;
}

TEST(ServedSource, OfARunThatHasNoRoomItIsSaid) {
  Served served(CHUNK, 32 * CHUNK, 5 * CHUNK);
  served.source->begin(FetchRing::Former::died);
  served.ask(0, 10, Purpose::population, 10);
  EXPECT_EQ(served.answer(0).kind, Kind::notKept);
  EXPECT_TRUE(served.map.known(10 * CHUNK, 5 * CHUNK)) << "as many as there is room for";
  EXPECT_FALSE(served.map.known(15 * CHUNK, CHUNK));
}

// --- in advance ---

TEST(ServedSource, WhatIsWantedComesInItsOrder) {
  Served served(CHUNK, 32 * CHUNK, ~0ull, 2);  // one thread for it, so that the order is one
  auto wanted = served.source->prefetch({{50 * CHUNK, 51 * CHUNK},
                                         {7 * CHUNK + 4096, 7 * CHUNK + 8192},
                                         {90 * CHUNK, 93 * CHUNK},
                                         {7 * CHUNK, 8 * CHUNK},
                                         {CHUNKS * CHUNK, (CHUNKS + 1) * CHUNK},
                                         {~0ull - 5, ~0ull},
                                         {3 * CHUNK, 4 * CHUNK}});
  served.source->begin(FetchRing::Former::died);
  await([&] { return served.map.known(3 * CHUNK, CHUNK); });
  EXPECT_EQ(served.store->order(), (std::vector<std::uint64_t>{50, 7, 90, 91, 92, 3}));
}

TEST(ServedSource, WhatIsWantedNoMoreIsNotFetched) {
  Served served(CHUNK, CHUNK);
  served.store->hold({0, 1, 2});
  auto wanted = served.source->prefetch({{0, 50 * CHUNK}});
  served.source->begin(FetchRing::Former::died);
  await([&] { return served.store->waiting() == 3; });
  served.source->cancel(wanted);
  served.store->hold({});
  await([&] { return served.store->waiting() == 0 && served.map.known(0, 3 * CHUNK); });
  served.ask(0, 80, Purpose::population);
  EXPECT_EQ(served.answer(0).kind, Kind::kept);
  EXPECT_FALSE(served.map.known(3 * CHUNK, CHUNK));
}

// --- the rate ---

TEST(ServedSource, ARateHoldsBackWhatNoFaultWaitsFor) {
  Served served;
  served.rate.limit(CHUNK);  // a chunk a second
  served.source->begin(FetchRing::Former::died);
  served.ask(0, 0, Purpose::population, 32);
  EXPECT_EQ(served.answer(0).kind, Kind::kept) << "what the pause before allowed";
  served.ask(1, 40, Purpose::population);
  auto wanted = served.source->prefetch({{60 * CHUNK, 70 * CHUNK}});
  for (std::uint64_t chunk = 80; chunk < 90; chunk++) {
    served.ask(2, chunk, Purpose::fault);
    ASSERT_EQ(served.answer(2).kind, Kind::bytes);
    ASSERT_TRUE(served.ring.release(0, 2));
  }
  await([&] { return served.ring.heldBackAt() != 0; });
  EXPECT_TRUE(served.open(1));
  EXPECT_FALSE(served.map.known(60 * CHUNK, CHUNK));
  // A fault for a chunk that a population waits for is a fault.
  served.ask(3, 40, Purpose::fault);
  EXPECT_EQ(served.answer(3).kind, Kind::bytes);
  EXPECT_EQ(served.answer(1).kind, Kind::kept) << "what is there waits for no rate";
  served.rate.limit(0);
  served.source->rateChanged();
  await([&] { return served.map.known(60 * CHUNK, 10 * CHUNK); });
}

TEST(ServedSource, ARateIsKept) {
  Served served(CHUNK, CHUNK);
  served.rate.limit(20 * CHUNK);
  served.source->begin(FetchRing::Former::died);
  const std::uint64_t from = process::nowNs();
  for (std::uint64_t chunk = 0; chunk < 21; chunk++) {
    served.ask(0, chunk, Purpose::population);
    ASSERT_EQ(served.answer(0).kind, Kind::kept);
    ASSERT_TRUE(served.ring.release(0, 0));
  }
  EXPECT_GE(process::nowNs() - from, SECOND * 9 / 10);
}

}  // namespace
}  // namespace faultline::fetcher
