#include "shard/source/cold_reader.h"

#include <kj/debug.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <utility>
#include <vector>

#include "shard/source/read_progress.h"
#include "shard/source/read_ring.h"
#include "shard/source/readers.h"
#include "shard/source/staging_buffer.h"
#include "threads/mutex.h"

namespace faultline::shard {

namespace {

struct Read;

// Reads that reader threads have ended, on their way back. Outlives the ColdReader where a source hangs.
struct Ended {
  Ended() {
    int fd;
    KJ_SYSCALL(fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    event = kj::AutoCloseFd(fd);
  }
  void push(Read* read);

  kj::AutoCloseFd event;
  std::atomic<std::size_t> count{0};  // of `reads`
  threads::Mutex mutex;
  std::vector<Read*> reads GUARDED_BY(mutex);
  bool closed GUARDED_BY(mutex) = false;  // they are not taken any more
};

// Buffers of one size: those that are not in use, up to a number.
struct Buffers {
  std::unique_ptr<StagingBuffer> take(std::uint64_t bytes) {
    if (spare.empty()) return std::make_unique<StagingBuffer>(bytes);
    auto buffer = std::move(spare.back());
    spare.pop_back();
    return buffer;
  }
  void give(std::unique_ptr<StagingBuffer> buffer, std::size_t most) {
    if (spare.size() < most) spare.push_back(std::move(buffer));
  }
  std::vector<std::unique_ptr<StagingBuffer>> spare;
};

struct Waiting {
  Fault fault;
  std::uint64_t offset, length;
};

// What waits, in order. Its memory grows, at most to twice of what has ever waited at once, and is kept.
class Line {
 public:
  bool empty() const { return first_ == all_.size(); }
  const Waiting& front() const { return all_[first_]; }
  void push(const Waiting& last) {
    if (all_.size() == all_.capacity() && first_ >= all_.size() / 2) {
      all_.erase(all_.begin(), all_.begin() + static_cast<std::ptrdiff_t>(first_));
      first_ = 0;
    }
    all_.push_back(last);
  }
  void pop() {
    if (++first_ == all_.size()) clear();
  }
  void clear() {
    all_.clear();
    first_ = 0;
  }

 private:
  std::vector<Waiting> all_;
  std::size_t first_ = 0;  // those before it have gone
};

struct Lane {
  Lane(std::uint64_t size, unsigned reads) : bytes(size), most(reads) {}

  const std::uint64_t bytes;  // of a read, at most
  const unsigned most;        // reads at once
  unsigned busy = 0;
  std::vector<std::unique_ptr<Read>> reads;
  std::vector<Read*> free;
  Line line;
};

// The reads of one source, or of one that it is made of. A read under way keeps the lanes.
struct Lanes : std::enable_shared_from_this<Lanes> {
  Lanes(const PageSource& w, const PageSource& s, std::shared_ptr<Ended> e)
      : whole(&w), source(s.shared_from_this()), ended(std::move(e)) {}

  const PageSource* const whole;  // the restore's
  const std::shared_ptr<const PageSource> source;
  const std::shared_ptr<Ended> ended;
  Lane small{shm::SMALL_PAGE, ColdReader::SMALL_READS}, run{ColdReader::MOST_RUN, ColdReader::RUN_READS},
      huge{shm::HUGE_PAGE, ColdReader::HUGE_READS};
  bool forgotten = false;  // the fault thread's

  Lane& laneOf(std::uint64_t length) {
    return length <= small.bytes ? small : length <= run.bytes ? run : huge;
  }
};

struct Read final : Readers::Work {
  Fault fault;
  std::uint64_t offset = 0, length = 0;
  std::unique_ptr<StagingBuffer> buffer;
  ReadProgress progress;        // by the ring
  Staged result;                // by a reader thread
  kj::AutoCloseFd hold;         // a test's: readable when the read may begin
  std::shared_ptr<Lanes> keep;  // while it is under way

  // A reader thread's.
  void run() override {
    if (hold.get() >= 0) {
      pollfd held{hold.get(), POLLIN, 0};
      while (poll(&held, 1, -1) < 0) {
      }
    }
    result = keep->source->read(offset, length, buffer->data());
    const std::shared_ptr<Ended> ended = keep->ended;
    ended->push(this);
  }
};

void Ended::push(Read* read) {
  const threads::Lock lock(mutex);
  if (closed) {
    const auto last = std::move(read->keep);  // `last` may own the read
    return;
  }
  reads.push_back(read);
  count.store(reads.size(), std::memory_order_release);
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(event.get(), &one, sizeof one);
}

}  // namespace

struct ColdReader::State {
  explicit State(failpoints::Failpoints& p) : points(p) {}

  failpoints::Failpoints& points;
  io_uring ring{};
  bool haveRing = false;
  std::shared_ptr<Ended> ended = std::make_shared<Ended>();
  std::vector<Read*> taken;  // of `ended`
  std::vector<std::shared_ptr<Lanes>> sources;
  Buffers small, run, huge;

  Buffers& buffersOf(const Lane& lane) {
    return lane.bytes == shm::SMALL_PAGE ? small : lane.bytes == MOST_RUN ? run : huge;
  }

  Lanes& lanesOf(const PageSource& whole, const PageSource& source) {
    for (const auto& lanes : sources)
      if (lanes->source.get() == &source) return *lanes;
    return *sources.emplace_back(std::make_shared<Lanes>(whole, source, ended));
  }

  static Read& freeRead(Lane& lane) {
    if (lane.free.empty()) return *lane.reads.emplace_back(std::make_unique<Read>());
    Read* read = lane.free.back();
    lane.free.pop_back();
    return *read;
  }

  // Begins what waits in line and finds a place.
  void begin(Lanes& lanes, Lane& lane) {
    while (!lane.line.empty() && lane.busy < lane.most) {
      const Waiting next = lane.line.front();
      Read& read = freeRead(lane);
      read.fault = next.fault;
      read.offset = next.offset;
      read.length = next.length;
      read.progress = {.length = next.length};
      if (read.buffer == nullptr) read.buffer = buffersOf(lane).take(lane.bytes);
      read.hold = points.hold(failpoints::Point::coldRead, next.fault.page);
      read.keep = lanes.shared_from_this();
      lane.line.pop();
      lane.busy++;
      const bool byRing = haveRing && read.hold.get() < 0 && lane.bytes != shm::HUGE_PAGE &&
                          lanes.source->plainRead(read.offset, read.length).has_value();
      if (byRing && prepareRest(read)) continue;
      if (read.hold.get() < 0) lanes.source->willRead(read.offset, read.length);
      if (!lanes.source->readers().run(Readers::For::fault, read)) {
        read.result = {Staged::Kind::lost, nullptr, EAGAIN};
        ended->push(&read);
      }
    }
  }

  // Prepares the rest of a read. False: there is no room for it in the ring.
  bool prepareRest(Read& read) {
    const auto range = read.keep->source->plainRead(read.offset, read.length);
    io_uring_sqe* entry = io_uring_get_sqe(&ring);
    if (entry == nullptr && io_uring_submit(&ring) > 0) entry = io_uring_get_sqe(&ring);
    if (entry == nullptr || !range.has_value()) return false;
    const std::uint64_t done = read.progress.done;
    io_uring_prep_read(entry, range->file, read.buffer->data() + done,
                       static_cast<unsigned>(read.length - done), range->offset + done);
    io_uring_sqe_set_data(entry, &read);
    return true;
  }

  // A read is over: told, unless its source has gone, and its place is given to the next.
  void end(Read& read, const Staged& staged, const Done& done) {
    const std::shared_ptr<Lanes> lanes = std::move(read.keep);  // may be the last
    if (!lanes->forgotten) done(read.fault, staged);
    Lane& lane = lanes->laneOf(read.length);
    lane.busy--;
    buffersOf(lane).give(std::move(read.buffer), lane.most);
    lane.free.push_back(&read);
    if (!lanes->forgotten) begin(*lanes, lane);
  }

  unsigned reapRing(const Done& done) {
    if (!haveRing) return 0;
    unsigned count = 0;
    io_uring_cqe* completion = nullptr;
    while (io_uring_peek_cqe(&ring, &completion) == 0) {
      auto* asked = static_cast<Read*>(io_uring_cqe_get_data(completion));
      const int result = completion->res;
      io_uring_cqe_seen(&ring, completion);
      if (asked == nullptr) continue;  // not a read of ours
      Read& read = *asked;
      count++;
      auto next = read.progress.after(result);
      if (next == ReadProgress::Next::readOn && !read.keep->forgotten) {
        if (prepareRest(read)) continue;
        next = ReadProgress::Next::failed;
        read.progress.error = EAGAIN;
      }
      end(read,
          next == ReadProgress::Next::ended ? stagedAt(read.buffer->data(), read.length)
                                            : Staged{Staged::Kind::lost, nullptr, read.progress.error},
          done);
    }
    return count;
  }

  unsigned reapThreads(const Done& done) {
    if (ended->count.load(std::memory_order_acquire) == 0) return 0;
    {
      const threads::Lock lock(ended->mutex);
      taken.swap(ended->reads);
      ended->count.store(0, std::memory_order_relaxed);
    }
    const auto reaped = static_cast<unsigned>(taken.size());
    for (Read* read : taken) end(*read, read->result, done);
    taken.clear();
    return reaped;
  }
};

ColdReader::ColdReader(failpoints::Failpoints& points) : state_(std::make_unique<State>(points)) {
  state_->haveRing = makeReadRing(state_->ring, SMALL_READS, state_->ended->event.get());
}

ColdReader::~ColdReader() {
  if (state_->haveRing) io_uring_queue_exit(&state_->ring);
  const threads::Lock lock(state_->ended->mutex);
  state_->ended->closed = true;
  for (Read* read : state_->ended->reads) {
    const auto last = std::move(read->keep);
  }
}

bool ColdReader::usesRing() const {
  return state_->haveRing;
}

int ColdReader::eventFd() const {
  return state_->ended->event.get();
}

void ColdReader::read(const Fault& fault, const PageSource& source, std::uint64_t offset,
                      std::uint64_t length) {
  Lanes& lanes = state_->lanesOf(source, source.readFrom(offset, length));
  Lane& lane = lanes.laneOf(length);
  lane.line.push({fault, offset, length});
  state_->begin(lanes, lane);
}

bool ColdReader::reading(const PageSource& source, std::uint64_t offset, std::uint64_t length) const {
  for (const auto& lanes : state_->sources) {
    if (lanes->whole != &source) continue;
    for (const Lane* lane : {&lanes->small, &lanes->run})
      for (const auto& read : lane->reads)
        if (read->keep != nullptr && read->offset < offset + length && offset < read->offset + read->length)
          return true;
  }
  return false;
}

bool ColdReader::submit() {
  if (!state_->haveRing) return true;
  const unsigned prepared = io_uring_sq_ready(&state_->ring);
  return prepared == 0 || io_uring_submit(&state_->ring) == static_cast<int>(prepared);
}

unsigned ColdReader::reap(const Done& done) {
  return state_->reapRing(done) + state_->reapThreads(done);
}

void ColdReader::forget(const PageSource& source) {
  std::erase_if(state_->sources, [&](const auto& lanes) {
    if (lanes->whole != &source) return false;
    lanes->forgotten = true;
    lanes->small.line.clear();
    lanes->run.line.clear();
    lanes->huge.line.clear();
    return true;
  });
}

}  // namespace faultline::shard
