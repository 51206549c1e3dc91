#include "shmtracker/segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/interprocess/detail/os_file_functions.hpp>
#include <boost/interprocess/exceptions.hpp>
#include <boost/interprocess/mapped_region.hpp>
#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

#include "shmtracker/error.h"

namespace faultline::shm {

namespace ipc = boost::interprocess;

struct Segment::Mapping {
  ipc::mapped_region region;
};

namespace {

constexpr int SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

// A file descriptor as Boost.Interprocess wants its mappable things.
class MappableFd {
 public:
  explicit MappableFd(int fd) : fd_(fd) {}
  ipc::mapping_handle_t get_mapping_handle() const {
    return ipc::ipcdetail::mapping_handle_from_file_handle(fd_);
  }
  ipc::mode_t get_mode() const { return ipc::read_write; }

 private:
  int fd_;
};

struct UniqueFd {
  int fd;
  explicit UniqueFd(int f) : fd(f) {}
  UniqueFd(const UniqueFd&) = delete;
  ~UniqueFd() {
    if (fd >= 0) ::close(fd);
  }
  int release() { return std::exchange(fd, -1); }
};

std::string errorText(int error) {
  return std::strerror(error);
}

template <typename T>
T* at(void* start, std::size_t offset) {
  return reinterpret_cast<T*>(static_cast<char*>(start) + offset);
}

[[noreturn]] void cannotLock(std::size_t bytes, int error) {
  rlimit limit{};
  getrlimit(RLIMIT_MEMLOCK, &limit);
  throw SegmentError("cannot lock " + std::to_string(bytes) + " bytes of the segment in memory: " +
                     errorText(error) + "; RLIMIT_MEMLOCK is " + std::to_string(limit.rlim_cur) +
                     " bytes: raise it (ulimit -l, LimitMEMLOCK=) or grant CAP_IPC_LOCK");
}

// Locks the next step of `bytes` bytes, `done` of which are locked. A step keeps other threads of this process from
// changing what is mapped, a stack of a new one included. Returns how many are locked then.
std::size_t lockStep(void* start, std::size_t done, std::size_t bytes) {
  constexpr std::size_t STEP = 512 << 10;  // 100 to 300 us
  const std::size_t step = std::min(STEP, bytes - done);
  if (mlock(static_cast<char*>(start) + done, step) != 0) cannotLock(bytes, errno);
  return done + step;
}

// Has all memory there, so that nothing that touches it waits for an allocation, but for each page's first touch by this
// process; that costs a third of locking it outright. What comes before `pages` is locked: read(2) of a userfaultfd cannot
// wait for a page of the journal. Returns how many bytes are locked.
std::size_t makeResident(int fd, void* start, const Layout& layout) {
  while (fallocate(fd, 0, 0, static_cast<off_t>(layout.end)) != 0)
    if (errno != EINTR)
      throw SegmentError("there is no memory for the segment's " + std::to_string(layout.end) +
                         " bytes: " + errorText(errno));
  if (mlock2(start, layout.end, MLOCK_ONFAULT) != 0) cannotLock(layout.end, errno);
  std::size_t locked = 0;
  while (locked < layout.pages) locked = lockStep(start, locked, layout.end);
  return locked;
}

void copyText(char* to, std::size_t capacity, const std::string& from) {
  const std::size_t length = std::min(capacity - 1, from.size());
  std::memcpy(to, from.data(), length);
  to[length] = '\0';
}

std::uint32_t crcOf(std::span<const RegionEntry> regions) {
  return crc32c(regions.data(), regions.size_bytes());
}

Immutable factsOf(const SegmentSpec& spec, const Layout& layout) {
  Immutable facts{};
  facts.magic = MAGIC;
  facts.version = LAYOUT_VERSION;
  facts.layoutHash = layoutHash();
  facts.segmentBytes = layout.end;
  facts.restoreId = spec.restoreId;
  facts.pageCount = RegionTable::pagesOf(spec.regions);
  facts.sourceBytes = spec.sourceBytes;
  facts.uffdFeatures = spec.uffdFeatures;
  facts.regionCount = static_cast<std::uint32_t>(spec.regions.size());
  facts.extentCount = RegionTable::extentsOf(spec.regions);
  facts.workersPerShard = spec.workersPerShard;
  facts.targetPid = spec.targetPid;
  facts.policy = spec.policy;
  copyText(facts.name, sizeof facts.name, spec.name);
  copyText(facts.sourceName, sizeof facts.sourceName, spec.sourceName);
  return facts;
}

template <typename A, typename B>
void expect(const char* what, const A& found, const B& expected) {
  if (found != expected)
    throw SegmentError(std::string("segment refused: its ") + what + " is " + std::to_string(found) +
                       ", this build expects " + std::to_string(expected));
}

// Everything about the header that decides where the rest lies. `size`: of the file, bytes.
void checkFacts(const Immutable& facts, std::uint32_t crc, std::uint64_t size) {
  expect("magic number", facts.magic, MAGIC);
  expect("layout version", facts.version, LAYOUT_VERSION);
  expect("layout hash", facts.layoutHash, layoutHash());
  expect("header checksum", crc, crc32c(&facts, sizeof facts));
  expect("size", size, facts.segmentBytes);
  if (facts.regionCount == 0 || facts.regionCount > MAX_REGIONS || facts.pageCount == 0 ||
      facts.pageCount > MAX_PAGES || facts.extentCount == 0 || facts.extentCount > facts.pageCount ||
      facts.workersPerShard == 0 || facts.workersPerShard > MAX_WORKERS)
    throw SegmentError("segment refused: its counts make no sense (regions " +
                       std::to_string(facts.regionCount) + ", pages " + std::to_string(facts.pageCount) +
                       ", extents " + std::to_string(facts.extentCount) + ", workers a shard " +
                       std::to_string(facts.workersPerShard) + ")");
}

void checkRegions(const Immutable& facts, std::span<const RegionEntry> entries) {
  expect("region table checksum", facts.regionsCrc, crcOf(entries));
  const auto regions = RegionTable(entries).regions();
  if (auto why = whyNotServable(regions, facts.sourceBytes)) throw SegmentError("segment refused: " + *why);
  expect("number of pages", facts.pageCount, RegionTable::pagesOf(regions));
  expect("number of extents", facts.extentCount, RegionTable::extentsOf(regions));
  std::vector<RegionEntry> rebuilt(regions.size());
  RegionTable::build(regions, rebuilt);
  if (std::memcmp(rebuilt.data(), entries.data(), entries.size_bytes()) != 0)
    throw SegmentError("segment refused: its region table is not what its regions make");
}

}  // namespace

Segment Segment::create(const SegmentSpec& spec) {
  if (auto why = whyNotServable(spec.regions, spec.sourceBytes)) throw SegmentError(*why);
  if (spec.shards == 0 || spec.shards > MAX_SHARDS)
    throw SegmentError("a restore can have 1 to " + std::to_string(MAX_SHARDS) + " shards, not " +
                       std::to_string(spec.shards));
  if (spec.workersPerShard == 0 || spec.workersPerShard > MAX_WORKERS)
    throw SegmentError("a shard can have 1 to " + std::to_string(MAX_WORKERS) + " workers, not " +
                       std::to_string(spec.workersPerShard));
  const Layout layout =
      Layout::of(static_cast<std::uint32_t>(spec.regions.size()), RegionTable::extentsOf(spec.regions),
                 RegionTable::pagesOf(spec.regions), spec.workersPerShard);
  Immutable facts = factsOf(spec, layout);

  UniqueFd fd(memfd_create(("faultline-" + spec.name).c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (fd.fd < 0) throw SegmentError("cannot make the segment (memfd_create): " + errorText(errno));
  if (ftruncate(fd.fd, static_cast<off_t>(layout.end)) != 0)
    throw SegmentError("cannot give the segment its " + std::to_string(layout.end) +
                       " bytes: " + errorText(errno));
  if (fcntl(fd.fd, F_ADD_SEALS, SEALS) != 0)
    throw SegmentError("cannot seal the segment: " + errorText(errno));

  auto mapping = std::make_unique<Mapping>();
  mapping->region = ipc::mapped_region(MappableFd(fd.fd), ipc::read_write, 0, layout.end);
  void* start = mapping->region.get_address();
  const std::size_t locked = makeResident(fd.fd, start, layout);

  std::span<RegionEntry> entries(at<RegionEntry>(start, layout.regions), spec.regions.size());
  RegionTable::build(spec.regions, entries);
  facts.regionsCrc = crcOf(entries);
  auto* header = at<Header>(start, 0);
  header->immutable = facts;
  header->immutableCrc = crc32c(&facts, sizeof facts);
  Segment segment(fd.release(), std::move(mapping), layout, facts);
  segment.locked_ = locked;
  segment.setActiveShards(spec.shards);
  const std::uint32_t owners = spec.owners == 0 ? spec.shards : std::min(spec.owners, spec.shards);
  // If not every shard gets a share, another restore has other owners.
  const std::uint64_t first = owners == spec.shards ? 0 : spec.restoreId % spec.shards;
  segment.extents().deal(spec.shards, owners, static_cast<std::uint32_t>(first));
  segment.lock().initialise();
  for (Slot& slot : segment.slots_) slot.inflightPage.store(NO_PAGE, std::memory_order_relaxed);
  return segment;
}

Segment Segment::attach(int fd) {
  struct stat status {};
  if (fstat(fd, &status) != 0) throw SegmentError("segment refused: " + errorText(errno));
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (size < sizeof(Header))
    throw SegmentError("segment refused: it has " + std::to_string(size) + " bytes, a header alone has " +
                       std::to_string(sizeof(Header)));
  if ((fcntl(fd, F_GET_SEALS) & SEALS) != SEALS)
    throw SegmentError("segment refused: it is not a memfd sealed against growing and shrinking");

  UniqueFd own(fcntl(fd, F_DUPFD_CLOEXEC, 3));
  if (own.fd < 0) throw SegmentError("cannot keep the segment's file descriptor: " + errorText(errno));
  auto mapping = std::make_unique<Mapping>();
  try {
    mapping->region = ipc::mapped_region(MappableFd(own.fd), ipc::read_write, 0, size);
  } catch (const ipc::interprocess_exception& error) {
    if (error.get_native_error() == ENOMEM) throw std::bad_alloc();
    throw SegmentError(std::string("cannot map the segment: ") + error.what());
  }
  void* start = mapping->region.get_address();
  const auto* header = at<Header>(start, 0);
  const Immutable facts = header->immutable;
  checkFacts(facts, header->immutableCrc, size);
  const Layout layout =
      Layout::of(facts.regionCount, facts.extentCount, facts.pageCount, facts.workersPerShard);
  expect("size", size, layout.end);
  checkRegions(facts, {at<const RegionEntry>(start, layout.regions), facts.regionCount});
  return Segment(own.release(), std::move(mapping), layout, facts);
}

bool Segment::lockSome() {
  locked_ = lockStep(header_, locked_, bytes());
  return locked_ == bytes();
}

PageCounts Segment::counts(PageRange range) const {
  PageCounts counts;
  while (range.count > 0) {
    const PageRange written = nextWritten(range);
    counts.missing += written.first - range.first;
    counts += pages_->counts(written);
    range = {written.end(), range.end() - written.end()};
  }
  return counts;
}

// The first pages of the range whose states may have been written; none, at its end, where there are no such. SEEK_DATA
// passes over memory that fallocate(2) has allocated and nothing has touched (mm/filemap.c, mapping_seek_hole_data); what it
// passes over reads as zeros, which is to say missing.
PageRange Segment::nextWritten(PageRange range) const {
  const auto word = [this](PageIndex page) { return layout_.pages + page / 64 * sizeof(PageWord); };
  const auto pageAt = [this](std::uint64_t offset) {
    return (offset - layout_.pages) / sizeof(PageWord) * 64;
  };
  const std::uint64_t from = word(range.first), to = word(range.end() - 1) + sizeof(PageWord);
  const off_t data = lseek(fd_, static_cast<off_t>(from), SEEK_DATA);
  if (data < 0) return errno == ENXIO ? PageRange{range.end(), 0} : range;
  if (static_cast<std::uint64_t>(data) >= to) return {range.end(), 0};
  const off_t hole = lseek(fd_, data, SEEK_HOLE);
  const std::uint64_t last = hole < 0 ? to : std::min(to, static_cast<std::uint64_t>(hole));
  const PageIndex first = std::max(range.first, pageAt(static_cast<std::uint64_t>(data)));
  const PageIndex end = std::min(range.end(), pageAt(last + sizeof(PageWord) - 1));
  return {first, end - first};
}

Segment::Segment(int fd, std::unique_ptr<Mapping> mapping, const Layout& layout, const Immutable& facts)
    : fd_(fd), mapping_(std::move(mapping)), layout_(layout), facts_(facts) {
  void* start = mapping_->region.get_address();
  const std::size_t words = (facts.pageCount + 63) / 64;
  header_ = at<Header>(start, 0);
  slots_ = {at<Slot>(start, layout.slots), std::size_t{MAX_SHARDS} * facts.workersPerShard};
  counters_ = at<RestoreCounters>(start, layout.counters);
  shardCounters_ = at<ShardCounters>(start, layout.counters + sizeof(RestoreCounters));
  lock_ = std::make_unique<RwLock>(*at<LockWords>(start, layout.lock), slots_);
  journal_ = std::make_unique<Journal>(std::span(at<uffd_msg>(start, layout.journal), JOURNAL_MESSAGES));
  pages_ = std::make_unique<PageTable>(std::span(at<PageWord>(start, layout.pages), words),
                                       std::span(at<PageWord>(start, layout.mirror), words), facts.pageCount);
  const auto* entries = at<const RegionEntry>(start, layout.regions);
  entries_.assign(entries, entries + facts.regionCount);
  regions_ = std::make_unique<RegionTable>(entries_);
  extents_ = std::make_unique<Extents>(std::span(at<ExtentOwner>(start, layout.extents), facts.extentCount));
}

Segment::Segment(Segment&& other) noexcept {
  *this = std::move(other);
}

Segment& Segment::operator=(Segment&& other) noexcept {
  if (this == &other) return *this;
  if (fd_ >= 0) ::close(fd_);
  fd_ = std::exchange(other.fd_, -1);
  mapping_ = std::move(other.mapping_);
  locked_ = other.locked_;
  layout_ = other.layout_;
  facts_ = other.facts_;
  entries_ = std::move(other.entries_);
  header_ = other.header_;
  slots_ = other.slots_;
  counters_ = other.counters_;
  shardCounters_ = other.shardCounters_;
  lock_ = std::move(other.lock_);
  journal_ = std::move(other.journal_);
  pages_ = std::move(other.pages_);
  regions_ = std::move(other.regions_);
  extents_ = std::move(other.extents_);
  return *this;
}

Segment::~Segment() {
  if (fd_ >= 0) ::close(fd_);
}

std::string Segment::name() const {
  return {facts_.name, strnlen(facts_.name, sizeof facts_.name)};
}

std::string Segment::sourceName() const {
  return {facts_.sourceName, strnlen(facts_.sourceName, sizeof facts_.sourceName)};
}

void Segment::setActiveShards(std::uint32_t shards) {
  header_->activeShards.store(shards, std::memory_order_release);
  header_->activeShardsCheck.store(~shards, std::memory_order_release);
}

bool Segment::activeShardsSound() const {
  return header_->activeShards.load() == ~header_->activeShardsCheck.load();
}

std::uint32_t Segment::activeShards() const {
  return std::clamp<std::uint32_t>(header_->activeShards.load(std::memory_order_acquire), 1, MAX_SHARDS);
}

}  // namespace faultline::shm
