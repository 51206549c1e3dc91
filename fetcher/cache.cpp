#include "fetcher/cache.h"

#include <fcntl.h>
#include <kj/debug.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "packed/zeros.h"
#include "process/content_size.h"

namespace faultline::fetcher {

using rpc::FetchMap;
using State = FetchMap::State;

namespace {

constexpr std::uint64_t CHUNK = FetchMap::CHUNK, PAGE = FetchMap::PAGE;

}  // namespace

Cache::Cache(kj::AutoCloseFd data, int map, const Engine& engine, Budget& budget)
    : data_(kj::mv(data)), map_(FetchMap::attach(map, FetchMap::Access::write)), budget_(budget) {
  const Engine::Facts facts = engine.facts();
  const bool same = map_.facts() == FetchMap::Facts{facts.bytes, facts.identity, facts.differential};
  if (!same) sourceChanged();
  KJ_REQUIRE(same, "the source has another content than it had when the restore began", facts.bytes,
             map_.facts().bytes);
  KJ_REQUIRE(process::contentBytes(data_.get()) == facts.bytes,
             "the cache's data has another size than the image", facts.bytes);
  if (!map_.ready()) fillIn(engine);
  taken_ = process::bytesOnDisk(data_.get());
  written_ = taken_ > 0;  // by a fetcher before us
  budget_.add(taken_);
}

Cache::~Cache() {
  budget_.giveBack(taken_);
}

// A fetcher before us may have done a part of it: the same again changes nothing.
void Cache::fillIn(const Engine& engine) {
  // Zero for readers is what is zero, and what they must not take from here.
  std::uint64_t begin = 0, end = 0;
  const auto flush = [&] {
    const bool last = end == map_.bytes();
    for (std::uint64_t chunk = (begin + CHUNK - 1) / CHUNK;
         last ? chunk < map_.chunks() : (chunk + 1) * CHUNK <= end; chunk++)
      map_.set(chunk, State::zero);
  };
  engine.forEachKnown([&](Range range, Engine::Known known) {
    if (known == Engine::Known::below) map_.setBelow(range.begin / PAGE, (range.end + PAGE - 1) / PAGE);
    if (range.begin != end) {
      if (end > begin) flush();
      begin = range.begin;
    }
    end = range.end;
  });
  if (end > begin) flush();
  map_.setReady();
}

// Neighbours are written at once: the page cache then has them in large pieces, which are mapped as a whole.
void Cache::keep(std::uint64_t first, std::span<const std::byte> bytes) {
  const std::uint64_t end = first + (bytes.size() + CHUNK - 1) / CHUNK;
  const auto part = [&](std::uint64_t chunk, std::uint64_t count) {
    const std::uint64_t at = (chunk - first) * CHUNK;
    return bytes.subspan(at, std::min(count * CHUNK, bytes.size() - at));
  };
  for (std::uint64_t chunk = first; chunk < end && map_.broken() == FetchMap::Broken::no;) {
    std::uint64_t count = 0;
    while (chunk + count < end && map_.state(chunk + count) == State::absent &&
           !packed::isZero(part(chunk + count, 1)))
      count++;
    if (count == 0) {
      if (map_.state(chunk) == State::absent) map_.set(chunk, State::zero);
      chunk++;
      continue;
    }
    // Without room for all chunks, there may be room for some.
    if (!write(chunk, count, part(chunk, count)) && count > 1)
      for (std::uint64_t one = chunk; one < chunk + count; one++)
        if (!write(one, 1, part(one, 1))) break;
    chunk += count;
  }
}

// False: there is no room.
bool Cache::write(std::uint64_t first, std::uint64_t chunks, std::span<const std::byte> bytes) {
  const auto offset = static_cast<off_t>(first * CHUNK);
  const auto size = static_cast<off_t>(bytes.size());
  if (!budget_.take(chunks * CHUNK)) {
    if (chunks == 1 && !full_.exchange(true))
      spdlog::warn("a cache has reached its limit (--cache-size): what is fetched is not kept");
    return false;
  }
  threads::Lock lock(writing_);
  // Space first: later there may be none, when the bytes are on their way to the disk and the chunk is believed.
  int error = fallocate(data_.get(), 0, offset, size) == 0 ? 0 : errno;
  for (std::size_t done = 0; error == 0 && done < bytes.size();) {
    const ssize_t put =
        pwrite(data_.get(), bytes.data() + done, bytes.size() - done, offset + static_cast<off_t>(done));
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) error = put < 0 ? errno : EIO;
    done += static_cast<std::size_t>(std::max<ssize_t>(put, 0));
  }
  lock.unlock();
  if (error != 0) {
    budget_.giveBack(chunks * CHUNK);
    if (chunks == 1 && !full_.exchange(true))
      spdlog::warn("what is fetched cannot be kept: {} (--cache-dir)", std::strerror(error));
    return false;
  }
  taken_ += chunks * CHUNK;
  written_ = true;
  full_ = false;
  for (std::uint64_t chunk = first; chunk < first + chunks; chunk++) map_.set(chunk, State::present);
  return true;
}

bool Cache::sound() {
  if (map_.broken() != FetchMap::Broken::no) return false;
  if (!written_.exchange(false)) return true;
  // Does not begin to write: waits for what the kernel writes, and tells what has failed of it.
  if (sync_file_range(data_.get(), 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE) == 0) {
    written_ = true;  // later writes fail later
    return true;
  }
  if (errno != EIO && errno != ENOSPC && errno != EDQUOT) return true;  // not to be told here
  spdlog::critical("a cache could not be written to the disk: {}", std::strerror(errno));
  map_.setBroken(FetchMap::Broken::disk);
  return false;
}

}  // namespace faultline::fetcher
