#include "shard/source/raw_file.h"

#include <fcntl.h>
#include <kj/debug.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <thread>

#include "shard/source/bus_guard.h"
#include "shard/source/read_progress.h"

namespace faultline::shard {

namespace {

constexpr std::size_t PAGE = 4096;

// Not fstat(), which asks the server of a FUSE or network file system.
bool statWithoutWaiting(int file, struct statx& status) {
  return statx(file, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_BASIC_STATS, &status) == 0;
}

// True for an own file: of others mincore() says that all of it is there (mm/mincore.c, can_do_mincore).
bool tellsResidency(int file) {
  struct statx status {};
  return statWithoutWaiting(file, status) && status.stx_uid == geteuid();
}

// Only files of tmpfs and hugetlbfs have seals (mm/memfd.c, memfd_file_seals_ptr).
bool isInMemory(int file) {
  return fcntl(file, F_GET_SEALS) >= 0;
}

// A shared mapping of it can be made.
bool isMappable(int file) {
  void* start = mmap(nullptr, PAGE, PROT_READ, MAP_SHARED, file, 0);
  return start != MAP_FAILED && munmap(start, PAGE) == 0;
}

// The last close of a file of a FUSE or network file system asks the server (FLUSH).
void closeElsewhere(kj::AutoCloseFd file) {
  const int fd = file.release();
  try {
    std::thread([fd] { close(fd); }).detach();
  } catch (const std::system_error&) {
    close(fd);
  }
}

Staged lost(int error) {
  return {Staged::Kind::lost, nullptr, error};
}
constexpr Staged ZERO{Staged::Kind::zero, nullptr, 0}, COLD{Staged::Kind::cold, nullptr, 0};

}  // namespace

RawFile::RawFile(kj::AutoCloseFd file, std::uint64_t bytes, Role role)
    : PageSource(bytes),
      file_(kj::mv(file)),
      residencyTold_(tellsResidency(file_.get())),
      inMemory_(isInMemory(file_.get())),
      holesAreZero_(role != Role::fetched),
      holes_(bytes) {
  // To be known before: an mmap() that fails with MAP_FIXED may have unmapped what was there.
  if (!isMappable(file_.get())) return;
  void* reserved =
      mmap(nullptr, bytes + PIECE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return;
  reserved_ = static_cast<char*>(reserved);
  char* aligned = reserved_ + (PIECE - reinterpret_cast<std::uintptr_t>(reserved_) % PIECE);
  void* start = mmap(aligned, bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, file_.get(), 0);
  if (start == MAP_FAILED) {
    // Between the two there may be mappings of others by now.
    munmap(reserved_, static_cast<std::size_t>(aligned - reserved_));
    munmap(aligned + bytes, PIECE - static_cast<std::size_t>(aligned - reserved_));
    return;
  }
  mapping_ = aligned;
  // Bytes read through the mapping come into the page cache in pieces of 2 MiB where the file system has them
  // (mm/filemap.c, do_sync_mmap_readahead): fewer, larger reads, and one entry to map. Best effort.
  // In memory the kernel would make whole pieces of parts, their holes included (mm/khugepaged.c).
  if (role == Role::whole || !inMemory_) madvise(mapping_, bytes, MADV_HUGEPAGE);
}

RawFile::~RawFile() noexcept(false) {
  if (mapping_ != nullptr) munmap(reserved_, bytes() + PIECE);
  if (nowait_.load() == Nowait::no && !inMemory_) closeElsewhere(kj::mv(file_));
}

ssize_t RawFile::readNow(std::uint64_t offset, std::size_t length, void* buffer) const {
  if (inMemory_ || nowait_.load(std::memory_order_relaxed) == Nowait::no) return -EOPNOTSUPP;
  const iovec to{buffer, length};
  for (;;) {
    const ssize_t got = preadv2(file_.get(), &to, 1, static_cast<off_t>(offset), RWF_NOWAIT);
    if (got < 0 && errno == EINTR) continue;
    const int error = got < 0 ? errno : 0;
    const Nowait known = error == EOPNOTSUPP ? Nowait::no : Nowait::yes;
    if (nowait_.load(std::memory_order_relaxed) != known) nowait_.store(known, std::memory_order_relaxed);
    return error == 0 ? got : -error;
  }
}

Staged RawFile::tryRead(std::uint64_t offset, std::size_t length, void* buffer) const {
  if (holes_.covers(offset, length)) return ZERO;
  const ssize_t got = readNow(offset, length, buffer);
  if (got == static_cast<ssize_t>(length)) return stagedAt(buffer, length);
  if (got == -EOPNOTSUPP) return readResident(offset, length, buffer);
  if (got == 0) return lost(0);
  return got > 0 || got == -EAGAIN ? COLD : lost(static_cast<int>(-got));
}

// For files without RWF_NOWAIT. A page that is reclaimed between the look and the read is waited for.
Staged RawFile::readResident(std::uint64_t offset, std::size_t length, void* buffer) const {
  if (!resident(offset, length)) return inMemory_ && holesAreZero_ && isHole(offset, length) ? ZERO : COLD;
  if (inMemory_) {
    const ssize_t got = pread(file_.get(), buffer, length, static_cast<off_t>(offset));
    if (got == static_cast<ssize_t>(length)) return stagedAt(buffer, length);
    return got < 0 ? lost(errno) : COLD;
  }
  const bool read = copyOut(mapping_ + offset, length, buffer);
  const std::uint64_t window = offset / WINDOW * WINDOW;
  release(window, std::min(WINDOW, bytes() - window));
  return read ? stagedAt(buffer, length) : COLD;
}

Staged RawFile::tryView(std::uint64_t offset, std::size_t length) const {
  if (holes_.covers(offset, length)) return ZERO;
  if (!mapIfResident(offset, length)) return COLD;
  return {Staged::Kind::bytes, mapping_ + offset, 0};
}

bool RawFile::usableInPlace() const {
  if (mapping_ == nullptr) return false;
  return inMemory_ ? residencyTold_ : nowait_.load(std::memory_order_relaxed) != Nowait::no;
}

// A page that the touch of its neighbours has not mapped, as it was locked just then, is mapped by the thread
// that reads it, from memory.
bool RawFile::mapIfResident(std::uint64_t offset, std::size_t length) const {
  if (!usableInPlace()) return false;
  const char* start = mapping_ + offset;
  if (length > WINDOW || nowait_.load(std::memory_order_relaxed) == Nowait::unknown) {
    // A first page that is there is mapped; where the page cache has all of the range in one piece, that maps
    // all of it, and mincore looks at one entry instead of 512 pages (mm/memory.c, filemap_map_pmd).
    char byte;
    const ssize_t got = readNow(offset, 1, &byte);
    if (!usableInPlace() || got == -EAGAIN) return false;
    if (got == 1) touchPages(start, 1);
  }
  const bool there = residencyTold_ ? resident(offset, length) : readable(offset, length);
  if (there && touchPages(start, length, WINDOW)) return true;
  if (length > WINDOW) release(offset, length);
  return false;
}

void RawFile::release(std::uint64_t offset, std::size_t length) const {
  if (mapping_ != nullptr) madvise(mapping_ + offset, length, MADV_DONTNEED);
}

std::optional<FileRange> RawFile::plainRead(std::uint64_t offset, std::size_t) const {
  // The kernel reads others by threads of its own, of which a ring has few for all of its files.
  if (nowait_.load(std::memory_order_relaxed) != Nowait::yes) return std::nullopt;
  return FileRange{file_.get(), offset};
}

Staged RawFile::read(std::uint64_t offset, std::size_t length, void* buffer) const {
  lookForHoles(offset, length);
  if (holes_.covers(offset, length)) return ZERO;
  ReadProgress progress{.length = length};
  for (;;) {
    const ssize_t got = pread(file_.get(), static_cast<char*>(buffer) + progress.done, length - progress.done,
                              static_cast<off_t>(offset + progress.done));
    if (got < 0 && errno == EINTR) continue;
    switch (progress.after(got < 0 ? -errno : static_cast<int>(got))) {
      case ReadProgress::Next::ended:
        return stagedAt(buffer, length);
      case ReadProgress::Next::failed:
        return lost(progress.error);
      case ReadProgress::Next::readOn:
        break;
    }
  }
}

Staged RawFile::readInPlace(std::uint64_t offset, std::size_t length) const {
  if (!usableInPlace()) return COLD;
  lookForHoles(offset, length);
  if (holes_.covers(offset, length)) return ZERO;
  // Not MADV_POPULATE_READ, which looks each page up: a fault maps the 16 around it (mm/memory.c,
  // do_fault_around).
  if (!touchPages(mapping_ + offset, length)) return lost(0);
  return {Staged::Kind::bytes, mapping_ + offset, 0};
}

void RawFile::lookForHoles(std::uint64_t offset, std::size_t length) const {
  if (holesAreZero_ && !holes_.knows(offset, length)) holes_.lookUp(file_.get(), offset);
}

bool RawFile::isHole(std::uint64_t offset, std::size_t length) const {
  const off_t data = lseek(file_.get(), static_cast<off_t>(offset), SEEK_DATA);
  if (data >= 0) return static_cast<std::uint64_t>(data) >= offset + length;
  // ENXIO: no data behind `offset`. A hole up to the file's end, unless the file ends before it.
  if (errno != ENXIO) return false;
  const off_t end = lseek(file_.get(), 0, SEEK_END);
  return end >= 0 && static_cast<std::uint64_t>(end) >= offset + length;
}

// All of it can be read without waiting. Costs a copy of it.
bool RawFile::readable(std::uint64_t offset, std::size_t length) const {
  thread_local char scratch[64u << 10];
  for (std::size_t done = 0; done < length;) {
    const std::size_t part = std::min(length - done, sizeof scratch);
    if (readNow(offset + done, part, scratch) != static_cast<ssize_t>(part)) return false;
    done += part;
  }
  return true;
}

bool RawFile::resident(std::uint64_t offset, std::size_t length) const {
  if (mapping_ == nullptr || !residencyTold_) return false;
  unsigned char there[512];
  for (std::size_t done = 0; done < length;) {
    const std::size_t part = std::min(length - done, sizeof there * PAGE);
    if (mincore(mapping_ + offset + done, part, there) != 0) return false;
    if (std::any_of(there, there + part / PAGE, [](unsigned char r) { return (r & 1) == 0; })) return false;
    done += part;
  }
  return true;
}

}  // namespace faultline::shard
