#include "fetcher/served_source.h"

#include <sched.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "process/clock.h"

namespace faultline::fetcher {

using rpc::FetchMap;
using rpc::FetchRing;
using State = FetchMap::State;

namespace {

constexpr std::uint64_t CHUNK = FetchMap::CHUNK;
constexpr std::uint64_t LOOK = 1'000'000'000;  // ns, between looks at what has become of the cache
constexpr std::uint64_t FOR_EVER = 3600ull * 1'000'000'000;
// A thread that the rate holds back waits so long at most: what it tells the shards must not grow old.
constexpr std::uint64_t LONGEST_HOLD = 100'000'000;  // ns
constexpr unsigned MOST_LOOKS = 1024;                // at parts of a list, with the mutex held

}  // namespace

struct ServedSource::Wanted {
  const std::vector<Range> ranges;
  std::size_t next = 0;    // position
  std::uint64_t done = 0;  // bytes of it
};

ServedSource::ServedSource(std::shared_ptr<const Engine> engine, std::unique_ptr<Cache> cache, FetchRing ring,
                           Counters& counters, process::ByteRate& rate)
    : engine_(std::move(engine)),
      cache_(std::move(cache)),
      ring_(std::move(ring)),
      counters_(counters),
      own_(counters.engines.at(engine_->name())),
      rate_(rate) {}

void ServedSource::begin(FetchRing::Former former) {
  ring_.recover(former);
  startThread();
  std::thread([self = shared_from_this()] { self->watchCache(); }).detach();
}

void ServedSource::end() {
  ended_ = true;
  ring_.wakeFetcher(FetchRing::Wake::all);
}

// --- threads ---

void ServedSource::startThread() {
  const threads::Lock lock(mutex_);
  if (threads_ == engine_->depth()) return;
  try {
    std::thread([self = shared_from_this()] { self->run(); }).detach();
    threads_++;
  } catch (const std::system_error& error) {
    // A thread that is there does it all, later.
    if (threads_ == 0) throw;
  }
}

// Faults first. Work that no fault waits for never has all threads: a fault finds one that waits for nothing. Nor does it take
// a chunk before the rate lets it be read, so that no fault waits for the rate.
ServedSource::Taken ServedSource::take() {
  if (auto fault = ring_.take(Purpose::fault)) return {*fault, 0};
  std::uint64_t wait = FOR_EVER;
  const bool may = populating_.fetch_add(1) < engine_->background();
  if (!may) heldBack_ = true;
  if (may) {
    if (auto piece = takePiece()) return {*piece, 0};
    const std::uint64_t now = process::nowNs(), held = rate_.tryTake(CHUNK, now);
    if (held == 0) {
      if (auto work = takeBackground()) return {work, 0};
      rate_.gaveBack(CHUNK);
    } else {
      hold();
      ring_.holdBack(now);
      wait = std::min(held, LONGEST_HOLD);
    }
  }
  populating_--;
  return {std::nullopt, wait};
}

std::optional<ServedSource::Reading> ServedSource::takePiece() {
  const threads::Lock lock(mutex_);
  if (pieces_.empty()) return std::nullopt;
  const Reading piece = pieces_.front();
  pieces_.pop_front();
  return piece;
}

// Takes populations to hold back; answers those whose chunks are all there by now, which wait for no rate.
void ServedSource::hold() {
  const threads::Lock lock(mutex_);
  while (auto population = ring_.take(Purpose::population)) held_.push_back(*population);
  std::erase_if(held_, [&](const Question& question) {
    const std::uint64_t chunks = cache_->map().chunks(), end = question.chunk + question.count;
    if (!ring_.isOpen(question)) return true;
    if (question.chunk >= chunks || end > chunks || question.count > FetchRing::MOST_CHUNKS) return false;
    for (std::uint64_t chunk = question.chunk; chunk < end; chunk++)
      if (cache_->state(chunk) == State::absent) return false;
    shm::count(counters_.hits);
    ring_.answerKept(question);
    return true;
  });
}

std::optional<ServedSource::Work> ServedSource::takeBackground() {
  {
    const threads::Lock lock(mutex_);
    if (!held_.empty()) {
      const Question question = held_.front();
      held_.pop_front();
      return question;
    }
  }
  if (auto population = ring_.take(Purpose::population)) return *population;
  if (auto chunks = takeWanted()) return *chunks;
  return std::nullopt;
}

void ServedSource::run() {
  while (!ended_) {
    const std::uint32_t seen = ring_.doorbell();
    idle_++;
    const Taken taken = take();
    if (!taken.work.has_value()) {
      ring_.awaitQuestion(seen, taken.wait);
      idle_--;
      continue;
    }
    // A question that comes while this thread waits for the store finds another thread.
    if (idle_.fetch_sub(1) == 1) startThread();
    if (const auto* question = std::get_if<Question>(&*taken.work)) {
      serve(*question);
      if (question->purpose == Purpose::fault) continue;
    } else if (const auto* piece = std::get_if<Reading>(&*taken.work)) {
      read(*piece);
    } else {
      readAll(claimed(std::get<Chunks>(*taken.work)));
    }
    populating_--;
    if (heldBack_.exchange(false)) ring_.wakeFetcher(FetchRing::Wake::one);
  }
}

void ServedSource::watchCache() {
  while (!ended_ && cache_->sound()) {
    const timespec time{LOOK / 1'000'000'000, LOOK % 1'000'000'000};
    nanosleep(&time, nullptr);
  }
}

// --- in advance ---

std::shared_ptr<ServedSource::Wanted> ServedSource::prefetch(std::vector<Range> ranges) {
  auto wanted = std::make_shared<Wanted>(Wanted{std::move(ranges)});
  {
    const threads::Lock lock(mutex_);
    wanted_.push_back(wanted);
  }
  ring_.wakeFetcher(FetchRing::Wake::all);
  return wanted;
}

void ServedSource::cancel(const std::shared_ptr<Wanted>& wanted) {
  const threads::Lock lock(mutex_);
  std::erase(wanted_, wanted);
}

// The next chunks that are wanted and not there, of the list that came first; several where they follow each other. Looks at
// a part of a list at a time, since faults want the mutex as well.
std::optional<Chunks> ServedSource::takeWanted() {
  for (;;) {
    const threads::Lock lock(mutex_);
    if (wanted_.empty()) return std::nullopt;
    Wanted& wanted = *wanted_.front();
    if (auto found = nextOf(wanted)) return found;
    if (wanted.next == wanted.ranges.size()) wanted_.pop_front();
  }
}

std::optional<Chunks> ServedSource::nextOf(Wanted& wanted) {
  const std::uint64_t most = std::max<std::uint64_t>(1, std::min(engine_->piece(), rate_.portion()) / CHUNK);
  std::optional<Chunks> found;
  for (unsigned looks = 0; looks < MOST_LOOKS && wanted.next < wanted.ranges.size(); looks++) {
    const Range& range = wanted.ranges[wanted.next];
    const std::uint64_t at = range.begin + wanted.done, end = std::min(range.end, cache_->map().bytes());
    if (at < range.begin || at >= end) {
      wanted.next++;
      wanted.done = 0;
      continue;
    }
    const std::uint64_t chunk = at / CHUNK;
    const bool again = found.has_value() && chunk + 1 == found->end;
    const bool ours = again || unclaimed(chunk);
    if (found.has_value() && !again) {
      if (!ours || chunk != found->end || found->end - found->first == most) return found;
      found->end++;
    } else if (ours && !again) {
      found = Chunks{chunk, chunk + 1};
    }
    wanted.done = (chunk + 1) * CHUNK - range.begin;
  }
  return found;
}

// --- questions ---

Range ServedSource::rangeOf(std::uint64_t chunk) const {
  return {chunk * CHUNK, std::min((chunk + 1) * CHUNK, cache_->map().bytes())};
}

// A state is set before its chunk counts as read.
bool ServedSource::unclaimed(std::uint64_t chunk) const {
  return !reading_.contains(chunk) && cache_->state(chunk) == State::absent;
}

// Takes those of the chunks that are not there and that no thread reads, by pieces, and their neighbours that come along.
// `asked`, where there is one, waits for all that are not there.
std::vector<ServedSource::Reading> ServedSource::claim(Chunks chunks, Purpose purpose,
                                                       const AskedRef& asked) {
  const std::uint64_t most = std::max<std::uint64_t>(1, engine_->piece() / CHUNK);
  std::vector<Reading> readings;
  for (std::uint64_t chunk = chunks.first; chunk < chunks.end; chunk++) {
    const bool ours = unclaimed(chunk);
    if (!ours && !reading_.contains(chunk)) continue;
    auto& waiting = reading_[chunk].waiting;
    if (asked != nullptr) {
      waiting.push_back(asked);
      asked->left++;
    }
    if (!ours) continue;
    const Range unit = engine_->unitOf(rangeOf(chunk));
    if (!readings.empty() && readings.back().chunks.end == chunk &&
        chunk - readings.back().chunks.first < most) {
      readings.back().chunks.end = chunk + 1;
      readings.back().units.end = unit.end;
    } else {
      readings.push_back({{chunk, chunk + 1}, unit, purpose});
    }
  }
  for (Reading& reading : readings) {
    auto& [first, end] = reading.chunks;
    while (first > 0 && rangeOf(first - 1).begin >= reading.units.begin && unclaimed(first - 1))
      reading_.try_emplace(--first);
    while (end < cache_->map().chunks() && rangeOf(end).end <= reading.units.end && unclaimed(end))
      reading_.try_emplace(end++);
  }
  if (purpose == Purpose::population) {
    // Before it is read, since others look meanwhile. A chunk was paid for at the door.
    std::uint64_t bytes = 0;
    for (const Reading& reading : readings) bytes += reading.units.size();
    rate_.took(bytes, process::nowNs());
    rate_.gaveBack(CHUNK);
  }
  return readings;
}

std::vector<ServedSource::Reading> ServedSource::claimed(Chunks chunks) {
  const threads::Lock lock(mutex_);
  return claim(chunks, Purpose::population, nullptr);
}

void ServedSource::serve(const Question& question) {
  const std::uint64_t chunks = cache_->map().chunks();
  if (question.count > FetchRing::MOST_CHUNKS || question.chunk >= chunks ||
      question.count > chunks - question.chunk)
    return ring_.answerFailed(question, EINVAL);
  const auto asked = std::make_shared<Asked>(Asked{question});
  std::vector<Reading> readings;
  bool there;
  {
    const threads::Lock lock(mutex_);
    readings = claim({question.chunk, question.chunk + question.count}, question.purpose, asked);
    there = asked->left == 0;
    if (!there && giveAhead(*asked)) asked->answered = true;
  }
  if (there) {
    shm::count(counters_.hits);
    return ring_.answerKept(question);
  }
  readAll(readings);
}

// --- reading ---

// The first by this thread, the others by whichever comes by.
void ServedSource::readAll(const std::vector<Reading>& pieces) {
  if (pieces.empty()) return;
  if (pieces.size() > 1) {
    {
      const threads::Lock lock(mutex_);
      pieces_.insert(pieces_.end(), pieces.begin() + 1, pieces.end());
    }
    ring_.wakeFetcher(FetchRing::Wake::all);
  }
  read(pieces.front());
}

void ServedSource::read(const Reading& reading) {
  thread_local std::vector<std::byte> buffer;
  const Range all = reading.units;
  if (buffer.size() < all.size()) buffer.resize(all.size());
  const std::span<std::byte> bytes = std::span(buffer).first(all.size());
  std::vector<int> errors(reading.chunks.end - reading.chunks.first);  // errno, by chunk
  shm::count(counters_.misses, errors.size());
  bool answered = false;
  for (std::uint64_t at = all.begin; at < all.end;) {
    Range portion{at, at};
    do portion.end = engine_->unitOf(rangeOf(portion.end / CHUNK)).end;
    while (portion.end < all.end && portion.size() < engine_->portion());
    portion.end = std::min(portion.end, all.end);
    answered |= readPortion(reading, portion, bytes, errors);
    at = portion.end;
  }
  // To keep a chunk takes as long as a fault does, which would wait for it where its threads share a CPU with this one.
  if (answered) sched_yield();
  for (std::uint64_t first = reading.chunks.first; first < reading.chunks.end;) {
    std::uint64_t end = first;
    while (end < reading.chunks.end && errors[end - reading.chunks.first] == 0) end++;
    if (end > first)
      cache_->keep(first, bytes.subspan(first * CHUNK - all.begin, rangeOf(end - 1).end - first * CHUNK));
    first = std::max(end, first + 1);
  }
  finish(reading, bytes, errors);
}

// Reads a part of `reading`, whole units, and sets the errors of chunks that have one. Of what is damaged each chunk is read by
// itself: others that come in the same unit are good. Whether a fault has been answered ahead.
bool ServedSource::readPortion(const Reading& reading, Range portion, std::span<std::byte> bytes,
                               std::vector<int>& errors) {
  const auto at = [&](Range range) { return bytes.subspan(range.begin - reading.units.begin, range.size()); };
  const int all = readRange(portion, at(portion));
  if (all == 0) return portionRead(reading, portion, bytes);
  bool answered = false;
  for (std::uint64_t chunk = reading.chunks.first; chunk < reading.chunks.end; chunk++) {
    const Range its = rangeOf(chunk).within(portion);
    if (its.begin >= its.end) continue;
    if (const int error = all == EBADMSG ? readSingly(chunk, portion, at(its)) : all; error != 0)
      errors[chunk - reading.chunks.first] = error;
    else
      answered |= portionRead(reading, its, bytes);
  }
  return answered;
}

// Reads what a chunk has of a portion that is damaged somewhere. Not in place: others may use what comes along.
int ServedSource::readSingly(std::uint64_t chunk, Range portion, std::span<std::byte> to) {
  const Range its = rangeOf(chunk), part = engine_->leastOf(its).within(portion);
  if (part.size() == portion.size()) return EBADMSG;
  std::vector<std::byte> content(part.size());
  const int error = readRange(part, content);
  const auto from =
      content.begin() + static_cast<std::ptrdiff_t>(std::max(its.begin, part.begin) - part.begin);
  if (error == 0) std::copy_n(from, to.size(), to.begin());
  return error;
}

int ServedSource::readRange(Range range, std::span<std::byte> to) {
  const std::uint64_t before = process::nowNs();
  const int error = engine_->read(range, to);
  const std::uint64_t after = process::nowNs();
  own_.latency.record(after - before);
  shm::count(own_.requests);
  shm::count(error == 0 ? own_.bytes : own_.errors, error == 0 ? range.size() : 1);
  if (error == ESTALE) cache_->sourceChanged();
  return error;
}

// Faults that wait for what is there by now need not wait for what else is read, nor for the disk's room. Whether one has been
// answered so.
bool ServedSource::portionRead(const Reading& reading, Range range, std::span<const std::byte> bytes) {
  ring_.countFetched(range.size());
  bool answered = false;
  const threads::Lock lock(mutex_);
  for (std::uint64_t chunk = std::max(reading.chunks.first, range.begin / CHUNK); chunk < reading.chunks.end;
       chunk++) {
    const Range its = rangeOf(chunk);
    if (its.end > range.end) break;
    // The part of it that came with the portion before may be a damaged one.
    if (its.begin < range.begin) continue;
    InFlight& flight = reading_[chunk];
    flight.bytes = bytes.subspan(its.begin - reading.units.begin, its.size());
    for (const AskedRef& asked : flight.waiting)
      if (!asked->answered && giveAhead(*asked)) answered = asked->answered = true;
  }
  return answered;
}

// A fault's bytes, where they are there.
bool ServedSource::giveAhead(const Asked& asked) {
  const Question& question = asked.question;
  if (question.purpose != Purpose::fault || question.count != 1) return false;
  const auto flight = reading_.find(question.chunk);
  if (flight == reading_.end() || flight->second.bytes.empty()) return false;
  ring_.answerBytes(question, flight->second.bytes);
  return true;
}

void ServedSource::finish(const Reading& reading, std::span<const std::byte> bytes,
                          const std::vector<int>& errors) {
  std::vector<AskedRef> ready;
  {
    const threads::Lock lock(mutex_);
    for (std::uint64_t chunk = reading.chunks.first; chunk < reading.chunks.end; chunk++) {
      const bool kept = cache_->state(chunk) != State::absent;
      const auto found = reading_.find(chunk);
      for (const AskedRef& asked : found->second.waiting) {
        if (const int error = errors[chunk - reading.chunks.first]; error != 0) asked->error = error;
        asked->kept = asked->kept && kept;
        if (--asked->left > 0) continue;
        if (asked->error == 0 && !asked->kept) shm::count(counters_.notKept, asked->question.count);
        if (!std::exchange(asked->answered, true)) ready.push_back(asked);
      }
      reading_.erase(found);
    }
  }
  for (const AskedRef& asked : ready) answer(*asked, reading, bytes);
}

// `bytes`: of `reading`, which has read the last of what was asked for.
void ServedSource::answer(const Asked& asked, const Reading& reading, std::span<const std::byte> bytes) {
  const Question& question = asked.question;
  if (asked.error != 0) return ring_.answerFailed(question, asked.error);
  if (question.count > 1) return asked.kept ? ring_.answerKept(question) : ring_.answerNotKept(question);
  if (cache_->state(question.chunk) != State::absent) return ring_.answerKept(question);
  const Range range = rangeOf(question.chunk);
  ring_.answerBytes(question, bytes.subspan(range.begin - reading.units.begin, range.size()));
}

}  // namespace faultline::fetcher
