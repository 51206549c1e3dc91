#include "shard/source.h"

#include <fcntl.h>
#include <kj/debug.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "failpoints/failpoints.h"
#include "shard/bus_guard.h"
#include "shard/read_progress.h"

namespace faultline::shard {

namespace {

using failpoints::Failpoints;

constexpr std::size_t PAGE = 4096;

// mincore() says of a file that is neither ours nor writable for us that all of it is there (mm/mincore.c,
// can_do_mincore).
bool tellsResidency(int file) {
  struct stat status {};
  return fstat(file, &status) == 0 && (geteuid() == 0 || status.st_uid == geteuid());
}

Staged judge(const void* data, std::size_t length) {
  switch (contentOf(data, length)) {
    case SourceContent::zero:
      return {Staged::Kind::zero, nullptr, 0};
    case SourceContent::data:
      return {Staged::Kind::bytes, data, 0};
    case SourceContent::lost:
      break;
  }
  return {Staged::Kind::lost, nullptr, 0};
}

}  // namespace

Source::Source(kj::AutoCloseFd file, std::uint64_t bytes)
    : file_(kj::mv(file)), bytes_(bytes), residencyKnown_(tellsResidency(file_.get())) {
  void* reserved =
      mmap(nullptr, bytes_ + PIECE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) KJ_FAIL_SYSCALL("find room for the source", errno, bytes_);
  reserved_ = static_cast<char*>(reserved);
  char* aligned = reserved_ + (PIECE - reinterpret_cast<std::uintptr_t>(reserved_) % PIECE);
  void* start = mmap(aligned, bytes_, PROT_READ, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, file_.get(), 0);
  if (start == MAP_FAILED) {
    const int error = errno;
    munmap(reserved_, bytes_ + PIECE);
    KJ_FAIL_SYSCALL("map the source", error, bytes_);
  }
  mapping_ = aligned;
  // What is read through the mapping comes into the page cache in pieces of 2 MiB where the file system has
  // them (mm/filemap.c, do_sync_mmap_readahead): fewer, larger reads, and one entry to map. Best effort.
  madvise(mapping_, bytes_, MADV_HUGEPAGE);
}

Source::~Source() {
  munmap(reserved_, bytes_ + PIECE);
}

Staged Source::stageCached(std::uint64_t offset, std::size_t length, void* buffer) const {
  if (const int error = Failpoints::takeFailure(); error != 0) return {Staged::Kind::lost, nullptr, error};
  const iovec to{buffer, length};
  ssize_t got;
  do {
    got = preadv2(file_.get(), &to, 1, static_cast<off_t>(offset), RWF_NOWAIT);
    // A file system without RWF_NOWAIT that answers from memory only, as older tmpfs.
    if (got < 0 && errno == EOPNOTSUPP) got = pread(file_.get(), buffer, length, static_cast<off_t>(offset));
  } while (got < 0 && errno == EINTR);
  if (got == static_cast<ssize_t>(length)) return judge(buffer, length);
  if (got == 0) return {Staged::Kind::lost, nullptr, 0};
  if (got < 0 && errno != EAGAIN) return {Staged::Kind::lost, nullptr, errno};
  if (isHole(offset, length)) return {Staged::Kind::zero, nullptr, 0};
  return {Staged::Kind::cold, nullptr, 0};
}

Staged Source::stageWaiting(std::uint64_t offset, std::size_t length, void* buffer) const {
  if (const int error = Failpoints::takeFailure(); error != 0) return {Staged::Kind::lost, nullptr, error};
  if (isHole(offset, length)) return {Staged::Kind::zero, nullptr, 0};
  ReadProgress progress{.length = length};
  for (;;) {
    const ssize_t got = pread(file_.get(), static_cast<char*>(buffer) + progress.done, length - progress.done,
                              static_cast<off_t>(offset + progress.done));
    if (got < 0 && errno == EINTR) continue;
    switch (progress.after(got < 0 ? -errno : static_cast<int>(got))) {
      case ReadProgress::Next::ended:
        return judge(buffer, length);
      case ReadProgress::Next::failed:
        return {Staged::Kind::lost, nullptr, progress.error};
      case ReadProgress::Next::readOn:
        break;
    }
  }
}

Staged Source::stageMapped(std::uint64_t offset, std::size_t length) const {
  if (const int error = Failpoints::takeFailure(); error != 0) return {Staged::Kind::lost, nullptr, error};
  if (isHole(offset, length)) return {Staged::Kind::zero, nullptr, 0};
  if (!mapIfCached(offset, length)) return {Staged::Kind::cold, nullptr, 0};
  return {Staged::Kind::bytes, mapping_ + offset, 0};
}

// A page that the touch of its neighbours has not mapped, being locked just then, is mapped by whoever reads
// it, from memory.
bool Source::mapIfCached(std::uint64_t offset, std::size_t length) const {
  if (!residencyKnown_) return false;
  char* start = mapping_ + offset;
  if (length > WINDOW) {
    // A first page that is there is mapped; where the page cache has all of the range in one piece, that maps
    // all of it, and mincore looks at one entry instead of 512 pages (mm/memory.c, filemap_map_pmd).
    char byte;
    const iovec first{&byte, 1};
    const ssize_t got = preadv2(file_.get(), &first, 1, static_cast<off_t>(offset), RWF_NOWAIT);
    if (got < 0 && errno == EAGAIN) return false;
    if (got == 1) touchPages(start, 1);
  }
  if (cached(start, length) && touchPages(start, length, WINDOW)) return true;
  if (length > WINDOW) release(offset, length);
  return false;
}

Staged Source::stageInPlace(std::uint64_t offset, std::size_t length) const {
  if (const int error = Failpoints::takeFailure(); error != 0) return {Staged::Kind::lost, nullptr, error};
  return judge(mapping_ + offset, length);
}

Staged Source::stageMappedWaiting(std::uint64_t offset, std::size_t length) const {
  if (const int error = Failpoints::takeFailure(); error != 0) return {Staged::Kind::lost, nullptr, error};
  if (isHole(offset, length)) return {Staged::Kind::zero, nullptr, 0};
  return populate(offset, length);
}

Staged Source::populate(std::uint64_t offset, std::size_t length) const {
  char* start = mapping_ + offset;
  // Not MADV_POPULATE_READ, which looks each page up: a fault maps the 16 around it (mm/memory.c,
  // do_fault_around).
  if (!touchPages(start, length)) return {Staged::Kind::lost, nullptr, 0};
  return {Staged::Kind::bytes, start, 0};
}

void Source::release(std::uint64_t offset, std::size_t length) const {
  madvise(mapping_ + offset, length, MADV_DONTNEED);
}

bool Source::isHole(std::uint64_t offset, std::size_t length) const {
  const off_t data = lseek(file_.get(), static_cast<off_t>(offset), SEEK_DATA);
  if (data >= 0) return static_cast<std::uint64_t>(data) >= offset + length;
  // ENXIO: no data behind `offset`. A hole up to the file's end, unless the file ends before it.
  if (errno != ENXIO) return false;
  const off_t end = lseek(file_.get(), 0, SEEK_END);
  return end >= 0 && static_cast<std::uint64_t>(end) >= offset + length;
}

bool Source::cached(const char* start, std::size_t length) {
  unsigned char resident[512];
  for (std::size_t done = 0; done < length;) {
    const std::size_t part = std::min(length - done, sizeof resident * PAGE);
    if (mincore(const_cast<char*>(start) + done, part, resident) != 0) return false;
    if (std::any_of(resident, resident + part / PAGE, [](unsigned char r) { return (r & 1) == 0; }))
      return false;
    done += part;
  }
  return true;
}

StagingBuffer::StagingBuffer(std::size_t bytes) : size_(bytes) {
  void* start =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (start == MAP_FAILED) KJ_FAIL_SYSCALL("allocate a staging buffer", errno, bytes);
  data_ = static_cast<char*>(start);
  // Best effort: without the lock, reclaim could make a copy wait for swap.
  mlock(start, bytes);
}

StagingBuffer::~StagingBuffer() {
  if (data_ != nullptr) munmap(data_, size_);
}

StagingBuffer::StagingBuffer(StagingBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(other.size_) {}

}  // namespace faultline::shard
