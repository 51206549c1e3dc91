#include "shard/cold_reader.h"

#include <kj/debug.h>
#include <liburing.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <vector>

#include "shard/read_progress.h"

namespace faultline::shard {

namespace {

// Of the submission queue: a read, and the wait before one that a test holds.
constexpr unsigned ENTRIES_EACH = 2;

struct Read {
  Fault fault;
  char* buffer = nullptr;
  std::uint64_t length = 0;
  ReadProgress progress;
  bool busy = false;
  bool forgotten = false;
  kj::AutoCloseFd hold;  // of a test: readable when the read may begin
};

// The reads of one page size: buffers, and who waits for one.
struct Lane {
  std::vector<Read> reads;
  std::vector<Read*> free;
  std::deque<Fault> line;
  std::unique_ptr<StagingBuffer> memory;

  void prepare(std::uint64_t pageSize, unsigned count) {
    if (memory != nullptr) return;
    memory = std::make_unique<StagingBuffer>(pageSize * count);
    reads.resize(count);
    for (unsigned i = 0; i < count; i++) {
      reads[i].buffer = memory->data() + i * pageSize;
      reads[i].length = pageSize;
      free.push_back(&reads[i]);
    }
  }
};

}  // namespace

struct ColdReader::State {
  explicit State(failpoints::Failpoints& points) : failpoints(points) {}

  failpoints::Failpoints& failpoints;
  io_uring ring{};
  kj::AutoCloseFd event;
  Lane small, huge;

  Lane& laneOf(std::uint64_t pageSize) { return pageSize == shm::SMALL_PAGE ? small : huge; }

  void prepare(Lane& lane) {
    while (!lane.line.empty() && !lane.free.empty() && io_uring_sq_space_left(&ring) >= ENTRIES_EACH) {
      Read* read = lane.free.back();
      lane.free.pop_back();
      read->fault = lane.line.front();
      read->progress = {.length = read->length};
      lane.line.pop_front();
      read->busy = true;
      read->forgotten = false;
      read->hold = failpoints.hold(failpoints::Point::coldRead, read->fault.page);
      if (read->hold.get() >= 0) waitFor(read->hold.get());
      prepareRest(*read);
    }
  }

  // The read that is prepared next begins when `fd` is readable: to all others it is a slow disk's.
  void waitFor(int fd) {
    io_uring_sqe* entry = io_uring_get_sqe(&ring);
    io_uring_prep_poll_add(entry, fd, POLLIN);
    io_uring_sqe_set_flags(entry, IOSQE_IO_LINK);
    io_uring_sqe_set_data(entry, nullptr);
  }

  // What has not come yet of a read. False: there is no room for it in the ring.
  bool prepareRest(Read& read) {
    io_uring_sqe* entry = io_uring_get_sqe(&ring);
    if (entry == nullptr) return false;
    Attachment& restore = *read.fault.restore;
    const shm::PageLocation at = restore.segment().regions().locate(read.fault.page);
    const std::uint64_t done = read.progress.done;
    io_uring_prep_read(entry, restore.source().fd(), read.buffer + done,
                       static_cast<unsigned>(read.length - done), at.offset + done);
    io_uring_sqe_set_data(entry, &read);
    return true;
  }
};

ColdReader::ColdReader(failpoints::Failpoints& failpoints) {
  auto state = std::make_unique<State>(failpoints);
  if (io_uring_queue_init(SMALL_READS + HUGE_READS, &state->ring, 0) != 0) return;
  int fd;
  KJ_SYSCALL(fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  state->event = kj::AutoCloseFd(fd);
  io_uring_register_eventfd(&state->ring, fd);
  state_ = std::move(state);
}

ColdReader::~ColdReader() {
  if (state_ != nullptr) io_uring_queue_exit(&state_->ring);
}

bool ColdReader::available() const {
  return state_ != nullptr;
}

int ColdReader::eventFd() const {
  return state_ == nullptr ? -1 : state_->event.get();
}

void ColdReader::read(const Fault& fault) {
  const std::uint64_t pageSize = fault.restore->segment().regions().locate(fault.page).pageSize;
  Lane& lane = state_->laneOf(pageSize);
  lane.prepare(pageSize, pageSize == shm::SMALL_PAGE ? SMALL_READS : HUGE_READS);
  lane.line.push_back(fault);
  state_->prepare(lane);
}

bool ColdReader::submit() {
  if (state_ == nullptr) return true;
  const unsigned prepared = io_uring_sq_ready(&state_->ring);
  return prepared == 0 || io_uring_submit(&state_->ring) == static_cast<int>(prepared);
}

unsigned ColdReader::reap(const std::function<void(const Fault&, const void*, int)>& done) {
  if (state_ == nullptr) return 0;
  std::uint64_t value;
  if (io_uring_cq_ready(&state_->ring) == 0) return 0;
  [[maybe_unused]] const ssize_t got = ::read(state_->event.get(), &value, sizeof value);
  unsigned ended = 0;
  io_uring_cqe* completion = nullptr;
  while (io_uring_peek_cqe(&state_->ring, &completion) == 0) {
    auto* read = static_cast<Read*>(io_uring_cqe_get_data(completion));
    const int result = completion->res;
    io_uring_cqe_seen(&state_->ring, completion);
    if (read == nullptr) continue;  // the wait before a read that a test held
    ended++;
    if (!read->forgotten) {
      auto next = read->progress.after(result);
      if (next == ReadProgress::Next::readOn) {
        if (state_->prepareRest(*read)) continue;
        next = ReadProgress::Next::failed;
        read->progress.error = EAGAIN;
      }
      done(read->fault, next == ReadProgress::Next::ended ? read->buffer : nullptr, read->progress.error);
    }
    read->busy = false;
    Lane& lane = state_->laneOf(read->length);
    lane.free.push_back(read);
    state_->prepare(lane);
  }
  return ended;
}

void ColdReader::forget(const Attachment* restore) {
  if (state_ == nullptr) return;
  for (Lane* lane : {&state_->small, &state_->huge}) {
    std::erase_if(lane->line, [restore](const Fault& fault) { return fault.restore == restore; });
    // A read under way keeps only the file (by its own reference in the kernel) and our buffer.
    for (Read& read : lane->reads)
      if (read.busy && read.fault.restore == restore) read.forgotten = true;
  }
}

}  // namespace faultline::shard
