// The memory that a fetcher shares with shards, with arbitrary bytes in it: a map is refused, or no look at it leads out of it;
// a ring's junk harms no question that is sound.
//
// Input: a byte that says which of the two, then records of an offset (4 bytes), a length (1 byte) and so many bytes, which are
// put over sound memory.

#include <kj/exception.h>
#include <spdlog/spdlog.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "fetcher/served_source.h"
#include "process/clock.h"
#include "rpc/fetch_map.h"
#include "rpc/fetch_ring.h"
#include "tests/fuzz/require.h"

using namespace faultline;

namespace {

using rpc::FetchMap;
using rpc::FetchRing;
constexpr std::uint64_t CHUNK = FetchMap::CHUNK, PAGE = FetchMap::PAGE;
constexpr FetchMap::Facts FACTS{10 * CHUNK + PAGE, 77, true};

std::span<char> mapped(int memory, std::size_t size) {
  void* start = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
  fuzz::require(start != MAP_FAILED, "the memory can be mapped");
  return {static_cast<char*>(start), size};
}

void put(std::span<char> memory, const std::uint8_t* input, std::size_t size) {
  while (size > 5) {
    std::uint32_t at;
    std::memcpy(&at, input, sizeof at);
    at %= static_cast<std::uint32_t>(memory.size());
    const std::size_t length = std::min({std::size_t{input[4]}, size - 5, memory.size() - at});
    std::memcpy(memory.data() + at, input + 5, length);
    input += 5 + length;
    size -= 5 + length;
  }
}

// --- the map, as a shard reads it ---

void lookAtMap(const std::uint8_t* input, std::size_t size) {
  static const kj::AutoCloseFd memory = FetchMap::create(FACTS);
  static const std::span<char> bytes =
      mapped(memory.get(), static_cast<std::size_t>(lseek(memory.get(), 0, SEEK_END)));
  static const std::vector<char> sound(bytes.begin(), bytes.end());
  std::copy(sound.begin(), sound.end(), bytes.begin());
  put(bytes, input, size);
  try {
    const FetchMap map = FetchMap::attach(memory.get(), FetchMap::Access::read);
    fuzz::require(map.chunks() * CHUNK >= map.bytes() && map.chunks() <= bytes.size(),
                  "chunks lie in the memory");
    for (std::uint64_t chunk = 0; chunk < map.chunks(); chunk++) {
      const FetchMap::State state = map.state(chunk);
      fuzz::require(state == FetchMap::State::absent || state == FetchMap::State::present ||
                        state == FetchMap::State::zero,
                    "a chunk has one of the states");
    }
    for (std::uint64_t page = 0; page * PAGE < map.bytes(); page++) (void)map.below(page);
    const bool zero = map.zero(0, map.bytes());
    fuzz::require(!zero || map.known(0, map.bytes()), "what is zero is known");
    (void)map.ready();
    (void)map.broken();
  } catch (const kj::Exception& refused) {
    fuzz::require(refused.getDescription().size() > 0, "a refusal says why");
  }
}

// --- the ring, as a fetcher serves it ---

// Each byte of it is its chunk's number, plus 1.
class Numbers final : public fetcher::Engine {
 public:
  const char* name() const override { return "packed"; }
  Facts facts() const override { return {FACTS.bytes, FACTS.identity, FACTS.layered}; }
  void forEachKnown(const std::function<void(fetcher::Range, Known)>&) const override {}
  fetcher::Range unitOf(fetcher::Range chunk) const override { return chunk; }
  int read(fetcher::Range units, std::span<std::byte> to) const override {
    for (std::uint64_t at = units.begin; at < units.end; at++)
      to[at - units.begin] = static_cast<std::byte>(at / CHUNK + 1);
    return 0;
  }
  unsigned depth() const override { return 3; }
};

// The place of the shard that asks.
constexpr unsigned SHARD = 5, PLACE = 7;

struct Served {
  // Of the places, before the bytes of answers.
  static constexpr std::size_t PLACES = 260u << 10;

  kj::AutoCloseFd memory = FetchRing::create();
  std::span<char> bytes = mapped(memory.get(), PLACES);
  const std::vector<char> sound{bytes.begin(), bytes.end()};
  FetchRing ring = FetchRing::attach(memory.get());
  const std::size_t word = wordOfPlace(), doorbell = doorbellOfRing();  // offsets
  kj::AutoCloseFd map = FetchMap::create(FACTS);
  // None may be kept: each question is fetched for.
  fetcher::Budget budget{0};
  fetcher::Counters counters;
  process::ByteRate rate;
  std::atomic<bool> gone{false};  // the source, and so its threads
  std::shared_ptr<fetcher::ServedSource> source;

  Served() {
    spdlog::default_logger();  // is made before, and so ends after the threads that log
    counters.engines["packed"];
    auto engine = std::make_shared<Numbers>();
    kj::AutoCloseFd data(memfd_create("data", MFD_CLOEXEC));
    fuzz::require(ftruncate(data.get(), static_cast<off_t>(FACTS.bytes)) == 0, "a cache can be made");
    auto cache = std::make_unique<fetcher::Cache>(kj::mv(data), map.get(), *engine, budget);
    source = std::shared_ptr<fetcher::ServedSource>(
        new fetcher::ServedSource(engine, std::move(cache), FetchRing::attach(memory.get()), counters, rate),
        [this](fetcher::ServedSource* last) {
          delete last;
          gone = true;
          gone.notify_one();
        });
    source->begin(rpc::FetchRing::Former::died);
  }
  // Gives place and doorbell numbers that they never had: the sound memory has old ones again, for which an answer may be under way,
  // and by which a thread that is about to wait would miss a question.
  void renumber() {
    static std::uint32_t number = 1u << 30;
    number += 2;
    std::atomic_ref(*reinterpret_cast<std::uint64_t*>(bytes.data() + word))
        .store(std::uint64_t{number} << 16);
    std::atomic_ref(*reinterpret_cast<std::uint32_t*>(bytes.data() + doorbell)).store(number);
  }

  // What its threads use must stay until they have ended.
  ~Served() {
    source->end();
    source = nullptr;
    gone.wait(false);
  }
  Served(const Served&) = delete;

 private:
  // It lies before the chunk that is asked for (rpc/fetch_ring.cpp).
  std::size_t wordOfPlace() {
    constexpr std::uint64_t SOME = 0x1122334455667788;
    ring.ask(SHARD, PLACE, SOME, FetchRing::Purpose::fault);
    const char* chunk =
        std::search(bytes.data(), bytes.data() + bytes.size(), reinterpret_cast<const char*>(&SOME),
                    reinterpret_cast<const char*>(&SOME) + sizeof SOME);
    fuzz::require(chunk != bytes.data() + bytes.size(), "the place is found");
    std::copy(sound.begin(), sound.end(), bytes.begin());
    return static_cast<std::size_t>(chunk - bytes.data()) - sizeof(std::uint64_t);
  }
  // The only number that a wake changes.
  std::size_t doorbellOfRing() {
    ring.wakeFetcher(FetchRing::Wake::all);
    const auto changed = std::mismatch(sound.begin(), sound.end(), bytes.begin()).first;
    fuzz::require(changed != sound.end(), "the doorbell is found");
    std::copy(sound.begin(), sound.end(), bytes.begin());
    return static_cast<std::size_t>(changed - sound.begin());
  }
};

void serveRing(const std::uint8_t* input, std::size_t size) {
  constexpr std::uint64_t LONG = 20'000'000'000;  // ns
  static Served served;
  static std::uint64_t chunk = 0;
  std::copy(served.sound.begin(), served.sound.end(), served.bytes.begin());
  put(served.bytes, input, size);
  // Its place may have any bytes, too, until the shard takes it.
  const std::uint64_t from = process::nowNs();
  while (!served.ring.reclaim(SHARD, PLACE))
    if (process::nowNs() - from > 1'000'000) {  // a fetcher seems to write there, and does not
      std::copy(served.sound.begin(), served.sound.end(), served.bytes.begin());
      break;
    }
  served.renumber();
  chunk = (chunk + 1) % ((FACTS.bytes + CHUNK - 1) / CHUNK);
  served.ring.ask(SHARD, PLACE, chunk, FetchRing::Purpose::fault);
  const FetchRing::Answer answer = served.ring.await(SHARD, PLACE, process::nowNs() + LONG);
  fuzz::require(answer.kind == FetchRing::Answer::Kind::bytes, "a sound question is answered");
  const char* bytes = served.ring.bytes(SHARD, PLACE);
  fuzz::require(bytes[0] == static_cast<char>(chunk + 1) && bytes[PAGE - 1] == static_cast<char>(chunk + 1),
                "with its own bytes");
  fuzz::require(served.ring.release(SHARD, PLACE), "and its place is free again");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* input, std::size_t size) {
  if (size == 0) return 0;
  if ((input[0] & 1) != 0)
    serveRing(input + 1, size - 1);
  else
    lookAtMap(input + 1, size - 1);
  return 0;
}
