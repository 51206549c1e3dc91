#include "fetcher/served_source.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "process/clock.h"

namespace faultline::fetcher {

using rpc::FetchMap;
using rpc::FetchRing;

namespace {

constexpr std::uint64_t CHUNK = FetchMap::CHUNK;
constexpr std::uint64_t LOOK = 1'000'000'000;  // ns, between looks at what has become of the cache
constexpr std::uint64_t FOR_EVER = 3600ull * 1'000'000'000;

}  // namespace

ServedSource::ServedSource(std::shared_ptr<const Engine> engine, std::unique_ptr<Cache> cache, FetchRing ring,
                           Counters& counters)
    : engine_(std::move(engine)),
      cache_(std::move(cache)),
      ring_(std::move(ring)),
      counters_(counters),
      own_(counters.engines.at(engine_->name())) {}

void ServedSource::begin() {
  ring_.recover();
  startThread();
  std::thread([self = shared_from_this()] { self->watchCache(); }).detach();
}

void ServedSource::end() {
  ended_ = true;
  ring_.wakeFetcher(FetchRing::Wake::all);
}

void ServedSource::startThread() {
  const threads::Lock lock(mutex_);
  if (threads_ == engine_->depth()) return;
  try {
    std::thread([self = shared_from_this()] { self->run(); }).detach();
    threads_++;
  } catch (const std::system_error& error) {
    // One that is there does it all, later.
    if (threads_ == 0) throw;
  }
}

// Populations never have all threads: a fault finds one that waits for nothing.
std::optional<FetchRing::Question> ServedSource::take() {
  if (auto fault = ring_.take(Purpose::fault)) return fault;
  const unsigned most = std::max(1u, engine_->depth() / 2);
  const bool may = populating_.fetch_add(1) < most;
  if (!may) heldBack_ = true;
  if (may)
    if (auto population = ring_.take(Purpose::population)) return population;
  populating_--;
  return std::nullopt;
}

void ServedSource::run() {
  while (!ended_) {
    const std::uint32_t seen = ring_.doorbell();
    idle_++;
    auto question = take();
    if (!question.has_value()) {
      ring_.awaitQuestion(seen, FOR_EVER);
      idle_--;
      continue;
    }
    // What comes while this one waits for the store finds another.
    if (idle_.fetch_sub(1) == 1) startThread();
    serve(*question);
    if (question->purpose == Purpose::population) {
      populating_--;
      if (heldBack_.exchange(false)) ring_.wakeFetcher(FetchRing::Wake::one);
    }
  }
}

void ServedSource::watchCache() {
  while (!ended_ && cache_->sound()) {
    const timespec time{LOOK / 1'000'000'000, LOOK % 1'000'000'000};
    nanosleep(&time, nullptr);
  }
}

void ServedSource::serve(const Question& question) {
  if (question.chunk >= cache_->map().chunks()) return ring_.answerFailed(question, EINVAL);
  if (cache_->state(question.chunk) != FetchMap::State::absent) {
    shm::count(counters_.hits);
    return ring_.answerKept(question);
  }
  const std::uint64_t begin = question.chunk * CHUNK;
  const Range unit = engine_->unitOf({begin, std::min(begin + CHUNK, cache_->map().bytes())});
  {
    const threads::Lock lock(mutex_);
    const auto [reading, first] = reading_.try_emplace({unit.begin, unit.end});
    reading->second.push_back(question);
    if (!first) return;
  }
  shm::count(counters_.misses);
  fetch(unit);
}

void ServedSource::fetch(Range unit) {
  thread_local std::vector<std::byte> bytes;
  if (bytes.size() < unit.size()) bytes.resize(unit.size());
  const std::span<std::byte> got = std::span(bytes).first(unit.size());
  const std::uint64_t before = process::nowNs();
  const int error = engine_->read(unit, got);
  own_.latency.record(process::nowNs() - before);
  shm::count(own_.requests);
  shm::count(error == 0 ? own_.bytes : own_.errors, error == 0 ? unit.size() : 1);
  if (error == 0) {
    const std::uint64_t all = cache_->map().bytes();
    for (std::uint64_t chunk = (unit.begin + CHUNK - 1) / CHUNK; chunk * CHUNK < unit.end; chunk++) {
      const std::uint64_t end = std::min((chunk + 1) * CHUNK, all);
      if (end <= unit.end) cache_->keep(chunk, got.subspan(chunk * CHUNK - unit.begin, end - chunk * CHUNK));
    }
  }
  if (error == ESTALE) cache_->sourceChanged();
  std::vector<Question> waiting;
  {
    const threads::Lock lock(mutex_);
    const auto found = reading_.find({unit.begin, unit.end});
    waiting = std::move(found->second);
    reading_.erase(found);
  }
  for (const Question& question : waiting) answer(question, error, unit, got);
}

void ServedSource::answer(const Question& question, int error, Range unit, std::span<const std::byte> bytes) {
  if (error != 0) return ring_.answerFailed(question, error);
  if (cache_->state(question.chunk) != FetchMap::State::absent) return ring_.answerKept(question);
  shm::count(counters_.notKept);
  const std::uint64_t begin = question.chunk * CHUNK;
  ring_.answerBytes(question, bytes.subspan(begin - unit.begin, std::min(CHUNK, unit.end - begin)));
}

}  // namespace faultline::fetcher
