#include "shard/source/fetched_file.h"

#include <kj/debug.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <utility>

#include "process/clock.h"
#include "shard/source/bus_guard.h"

namespace faultline::shard {

using rpc::FetchMap;
using Answer = rpc::FetchRing::Answer;

namespace {

constexpr std::uint64_t CHUNK = FetchMap::CHUNK;
static_assert(PageSource::PIECE / CHUNK + 1 <= 64);
// Questions that one read asks at once.
constexpr std::size_t AHEAD = 8;
// A fault's read gives the error after so long, ns, and is tried again: the fault's patience is counted from there. An answer
// is waited for as long, too, where there is no patience with errors.
constexpr std::uint64_t FAULT_READ = 1'000'000'000;

constexpr Staged ZERO{Staged::Kind::zero, nullptr, 0}, COLD{Staged::Kind::cold, nullptr, 0};
Staged lost(int error) {
  return {Staged::Kind::lost, nullptr, error};
}

}  // namespace

FetchedFile::FetchedFile(kj::AutoCloseFd data, FetchMap map, std::shared_ptr<FetchClient> client,
                         std::uint64_t bytes, std::uint64_t patience, std::string name)
    : PageSource(bytes),
      file_(std::make_shared<RawFile>(kj::mv(data), bytes, RawFile::Role::fetched)),
      map_(std::move(map)),
      client_(std::move(client)),
      used_(std::make_unique<std::atomic<std::uint64_t>[]>(map_.chunks() / 64 + 1)),
      patience_(patience == 0 ? FAULT_READ : patience),
      name_(std::move(name)) {
  KJ_REQUIRE(map_.bytes() == bytes && map_.ready(), "the map of the cache is of another source", map_.bytes(),
             bytes);
}

FetchedFile::~FetchedFile() noexcept(false) = default;

// What each chunk is counted for once, and zeros never, which are not fetched. Costs a page that is there one look at a word.
void FetchedFile::used(std::uint64_t offset, std::size_t length) const {
  for (std::uint64_t chunk = offset / CHUNK; chunk * CHUNK < offset + length; chunk++) {
    std::atomic<std::uint64_t>& word = used_[chunk / 64];
    const std::uint64_t bit = 1ull << chunk % 64;
    if ((word.load(std::memory_order_relaxed) & bit) != 0 || map_.state(chunk) == FetchMap::State::zero)
      continue;
    if ((word.fetch_or(bit, std::memory_order_relaxed) & bit) == 0)
      client_->countUsed(std::min(CHUNK, map_.bytes() - chunk * CHUNK));
  }
}

Staged FetchedFile::tryRead(std::uint64_t offset, std::size_t length, void* buffer) const {
  if (!map_.known(offset, length)) return COLD;
  if (map_.zero(offset, length)) return ZERO;
  used(offset, length);
  return file_->tryRead(offset, length, buffer);
}

Staged FetchedFile::tryView(std::uint64_t offset, std::size_t length) const {
  if (!map_.known(offset, length)) return COLD;
  if (map_.zero(offset, length)) return ZERO;
  used(offset, length);
  return file_->tryView(offset, length);
}

std::optional<FileRange> FetchedFile::plainRead(std::uint64_t offset, std::size_t length) const {
  if (!map_.known(offset, length)) return std::nullopt;
  used(offset, length);
  return file_->plainRead(offset, length);
}

std::optional<std::string> FetchedFile::whatChanged(std::uint64_t, std::size_t) const {
  switch (map_.broken()) {
    case FetchMap::Broken::no:
      return std::nullopt;
    case FetchMap::Broken::changed:
      return name_ +
             " has another content than when the restore began: was another snapshot put in its place?";
    default:
      return "what was fetched of " + name_ +
             " could not be written to the disk: it may read as something else (--cache-dir)";
  }
}

// A chunk, as all but a huge page is: the others of that are asked for by its reader.
void FetchedFile::willRead(std::uint64_t offset, std::size_t) const {
  const std::uint64_t chunk = offset / CHUNK;
  if (map_.state(chunk) != FetchMap::State::absent) return;
  const threads::Lock lock(mutex_);
  Ahead* free = nullptr;
  for (Ahead& ahead : ahead_) {
    if (!ahead.question.has_value()) free = &ahead;
    if (ahead.question.has_value() && ahead.chunk == chunk) return;
  }
  if (free == nullptr) return;
  if (auto question = client_->ask(chunk, 1, Purpose::fault, 0)) {
    free->chunk = chunk;
    free->question.emplace(std::move(*question));
  }
}

std::optional<FetchClient::Asked> FetchedFile::takeAhead(std::uint64_t chunk) const {
  const threads::Lock lock(mutex_);
  for (Ahead& ahead : ahead_) {
    if (!ahead.question.has_value() || ahead.chunk != chunk) continue;
    std::optional<FetchClient::Asked> question(std::in_place, std::move(*ahead.question));
    ahead.question.reset();
    return question;
  }
  return std::nullopt;
}

Staged FetchedFile::read(std::uint64_t offset, std::size_t length, void* buffer) const {
  return readFor(Purpose::fault, offset, length, buffer);
}

Staged FetchedFile::readToPopulate(std::uint64_t offset, std::size_t length, void* buffer) const {
  return readFor(Purpose::population, offset, length, buffer);
}

Staged FetchedFile::readFor(Purpose purpose, std::uint64_t offset, std::size_t length, void* buffer) const {
  char* to = static_cast<char*>(buffer);
  const std::uint64_t most = purpose == Purpose::fault ? std::min(patience_, FAULT_READ) : patience_;
  const Fetched fetched = fetch({offset, length, to}, purpose, process::nowNs() + most);
  if (fetched.error != 0) return lost(fetched.error);
  used(offset, length);
  if (fetched.given == 0) return map_.zero(offset, length) ? ZERO : file_->read(offset, length, buffer);
  const std::uint64_t first = offset / CHUNK;
  for (std::uint64_t chunk = first; chunk * CHUNK < offset + length; chunk++) {
    if ((fetched.given >> (chunk - first) & 1) != 0) continue;
    const std::uint64_t from = std::max(offset, chunk * CHUNK),
                        end = std::min(offset + length, (chunk + 1) * CHUNK);
    const Staged part = file_->read(from, end - from, to + (from - offset));
    if (part.kind == Staged::Kind::lost) return part;
  }
  return stagedAt(buffer, length);
}

Staged FetchedFile::readInPlace(std::uint64_t offset, std::size_t length) const {
  const Fetched fetched = fetch({offset, length, nullptr}, Purpose::population, process::nowNs() + patience_);
  if (fetched.error != 0) return lost(fetched.error);
  if (fetched.notKept) return COLD;
  used(offset, length);
  return map_.zero(offset, length) ? ZERO : file_->readInPlace(offset, length);
}

FetchedFile::Fetched FetchedFile::fetch(const Wanted& wanted, Purpose purpose, std::uint64_t deadline) const {
  // Taken in any case: it would keep its place.
  auto ahead = purpose == Purpose::fault ? takeAhead(wanted.offset / CHUNK) : std::nullopt;
  if (map_.known(wanted.offset, wanted.length)) return {};
  const std::uint64_t firstChunk = wanted.offset / CHUNK,
                      lastChunk = (wanted.offset + wanted.length - 1) / CHUNK;
  KJ_REQUIRE(lastChunk - firstChunk < 64, "more is wanted at once than a piece", wanted.offset,
             wanted.length);
  Fetched fetched;
  struct Open {
    std::uint64_t chunk;
    std::uint32_t count;
    FetchClient::Asked question;
  };
  std::deque<Open> asked;
  const auto takeAnswer = [&] {
    auto& [chunk, count, question] = asked.front();
    const Answer answer = question.await(deadline);
    switch (answer.kind) {
      case Answer::Kind::kept:
        // What a fetcher says must show in the map, which alone is believed.
        for (std::uint64_t one = chunk; one < chunk + count; one++)
          if (map_.state(one) == FetchMap::State::absent) fetched.error = EIO;
        break;
      case Answer::Kind::bytes:
        if (wanted.buffer == nullptr || count != 1) {
          fetched.notKept = true;
        } else {
          const std::uint64_t from = std::max(wanted.offset, chunk * CHUNK),
                              end = std::min(wanted.offset + wanted.length, (chunk + 1) * CHUNK);
          std::memcpy(wanted.buffer + (from - wanted.offset), question.bytes() + (from - chunk * CHUNK),
                      end - from);
          fetched.given |= 1ull << (chunk - firstChunk);
        }
        break;
      case Answer::Kind::notKept:
        if (wanted.buffer == nullptr)
          fetched.notKept = true;
        else
          fetched.error = EIO;  // no answer to a question for one
        break;
      case Answer::Kind::failed:
        fetched.error = answer.error;
        break;
      case Answer::Kind::late:
        fetched.error = ETIMEDOUT;
        break;
    }
    asked.pop_front();
  };
  // Never waits for a place with answers to come: all who have some could wait for each other's.
  const auto askFor = [&](std::uint64_t chunk, std::uint32_t count) {
    while (!asked.empty()) {
      if (auto question = client_->ask(chunk, count, purpose, 0)) return question;
      takeAnswer();
    }
    return client_->ask(chunk, count, purpose, deadline);
  };
  std::uint64_t next = firstChunk;
  if (ahead.has_value()) {
    asked.push_back({firstChunk, 1, std::move(*ahead)});
    ahead.reset();
    next++;
  }
  // Bytes come for one chunk at a time; what is to be kept only is asked for together.
  const std::uint32_t most = wanted.buffer == nullptr ? rpc::FetchRing::MOST_CHUNKS : 1;
  for (std::uint64_t chunk = next; chunk <= lastChunk && fetched.error == 0 && !fetched.notKept;) {
    std::uint32_t count = 0;
    while (count < most && chunk + count <= lastChunk && map_.state(chunk + count) == FetchMap::State::absent)
      count++;
    if (count == 0) {
      chunk++;
      continue;
    }
    if (asked.size() == AHEAD) takeAnswer();
    auto question = askFor(chunk, count);
    if (!question.has_value()) {
      fetched.error = ETIMEDOUT;
      break;
    }
    asked.push_back({chunk, count, std::move(*question)});
    chunk += count;
  }
  while (!asked.empty() && fetched.error == 0 && !fetched.notKept) takeAnswer();
  return fetched;
}

}  // namespace faultline::shard
