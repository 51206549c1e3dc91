#include "client/target_run.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>

#include "client/sigbus.h"

namespace faultline::target {

namespace {

// Pages after which a toucher tells the giving thread where it is: a system call, where the giving thread
// waits.
constexpr std::uint64_t TELL = 64;
// How long a toucher waits for the giving thread to come to a meeting: it only makes the meeting likely.
constexpr std::uint64_t MEETING_NS = 500'000;

}  // namespace

Run::Run(const RunOptions& options)
    : options_(options),
      image_(options.image, options.pageSize),
      memory_(image_, options.regions, options.remove ? 0 : FAULTLINE_NO_REMOVE, options.seed),
      touches_(planTouches(image_.pages(), options.threads, options.order, options.seed)),
      removals_(planRemovals(memory_, touches_, options.giveBackPercent, options.seed)),
      oracle_(image_),
      board_(options.threads + 1),
      judge_(memory_, oracle_, board_, options.pageSize),
      positions_(options.threads) {
  if (!options.remove && options.giveBackPercent > 0)
    throw UsageError(
        "memory can't be given back without REMOVE events: the server would bring the snapshot's bytes back; "
        "leave out --no-remove, or --give-back");
}

RunResult Run::go() {
  installSigbusHandler();
  memory_.connect(options_.socket, options_.connectTimeoutMs);
  RunResult result;
  result.pages = image_.pages();
  touchAll(result);
  if (!judge_.stopped()) lookAgain(result);
  if (!judge_.broken().empty()) throw EnvironmentError(judge_.broken());
  result.mismatch = judge_.mismatch();
  result.lostPage = judge_.lostPage();
  return result;
}

Run::Progress Run::progress() const {
  std::uint64_t pages = 0;
  for (const Position& position : positions_) pages += position.pages.load(std::memory_order_relaxed);
  return {again_.load(std::memory_order_relaxed) ? "looked at again" : "touched", pages};
}

void Run::touchAll(RunResult& result) {
  std::vector<ThreadResult> results(options_.threads);
  const std::uint64_t start = process::nowNs();
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < options_.threads; i++)
    threads.emplace_back([this, i, &results] { touchShare(i, results[i]); });
  std::thread giver([this, &result] { giveBack(result); });
  for (auto& thread : threads) thread.join();
  result.seconds = static_cast<double>(process::nowNs() - start) / 1e9;
  giver.join();
  std::uint64_t firstPageAt = UINT64_MAX;
  for (const ThreadResult& one : results) {
    result.touches.add(one.touches);
    result.faults.add(one.faults);
    firstPageAt = std::min(firstPageAt, one.firstPageAt);
  }
  if (firstPageAt != UINT64_MAX) result.firstPageNs = firstPageAt - start;
}

void Run::touchShare(unsigned thread, ThreadResult& result) {
  std::uint64_t done = 0;
  for (const std::uint64_t page : touches_[thread]) {
    Touch touch;
    tell(thread, done);
    if (judge_.stopped() || !judge_.look(thread, page, touch)) break;
    const std::uint64_t ns = touch.end - touch.begin;
    result.touches.add(ns);
    if (touch.faulted) result.faults.add(ns);
    result.firstPageAt = std::min(result.firstPageAt, touch.end);
    if (planWrite(page, options_.writePercent, options_.seed) && !judge_.write(thread, page)) break;
    done++;
    stopWhereAsked();
  }
  // Ended, however: the giving thread does not wait for this one any more.
  positions_[thread].pages.store(touches_[thread].size(), std::memory_order_release);
  positions_[thread].pages.notify_all();
}

// Other threads may touch a page or two more before they stand still.
void Run::stopWhereAsked() {
  if (options_.stopAfter != 0 && ++touched_ == options_.stopAfter) kill(getpid(), SIGSTOP);
}

// Tells the giving thread how far this one is; where it has an appointment, waits a little for the madvise.
void Run::tell(unsigned thread, std::uint64_t done) {
  Position& position = positions_[thread];
  position.pages.store(done, std::memory_order_seq_cst);
  const bool meets = position.meetAt.load(std::memory_order_seq_cst) == done;
  if (meets || done % TELL == 0) position.pages.notify_all();
  if (!meets) return;
  const std::uint64_t until = process::nowNs() + MEETING_NS;
  while (!oracle_.beingRemoved(touches_[thread][done]) && position.meetAt.load() == done &&
         process::nowNs() < until)
    std::this_thread::yield();
}

void Run::giveBack(RunResult& result) {
  for (const Removal& removal : removals_) {
    await(removal);
    if (judge_.stopped() || !giveBackOne(removal, result)) return;
    positions_[removal.thread].meetAt.store(NONE);
  }
}

void Run::await(const Removal& removal) {
  Position& position = positions_[removal.thread];
  if (removal.aim == Removal::Aim::meet) position.meetAt.store(removal.position, std::memory_order_seq_cst);
  for (auto at = position.pages.load(); at < removal.position; at = position.pages.load())
    position.pages.wait(at);
}

bool Run::giveBackOne(const Removal& removal, RunResult& result) {
  std::vector<std::uint64_t> pages;
  for (std::uint64_t i = 0; i < removal.pages; i++) pages.push_back(memory_.pageAt(removal.slot + i));
  for (const std::uint64_t page : pages) oracle_.beginRemoval(page);
  char* start = memory_.address(pages.front());
  board_.enter(givingSeat(), pages.front());
  const std::uint64_t before = process::nowNs();
  const int error = madvise(start, pages.size() * options_.pageSize, MADV_DONTNEED) == 0 ? 0 : errno;
  result.madvises.add(process::nowNs() - before);
  board_.leave(givingSeat());
  if (error != 0) judge_.breakOff(std::string("madvise(MADV_DONTNEED) failed: ") + std::strerror(error));
  bool right = error == 0;
  for (const std::uint64_t page : pages) {
    if (right && removal.after == Removal::After::touchAgain) right = judge_.lookForZeros(givingSeat(), page);
    oracle_.endRemoval(page);
  }
  result.givenBack += pages.size();
  return right;
}

void Run::lookAgain(RunResult& result) {
  for (Position& position : positions_) position.pages.store(0);
  again_.store(true);
  std::vector<ThreadResult> results(options_.threads);
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < options_.threads; i++)
    threads.emplace_back([this, i, &results] { lookAgainShare(i, results[i]); });
  for (auto& thread : threads) thread.join();
  for (const ThreadResult& one : results) {
    const std::uint64_t fromSnapshot = one.contents[static_cast<int>(Content::snapshot)];
    result.fromSource += fromSnapshot - one.zeroInSource;
    result.zeroInSource += one.zeroInSource;
    result.removed += one.contents[static_cast<int>(Content::zeros)];
    result.written += one.contents[static_cast<int>(Content::pattern)];
  }
}

void Run::lookAgainShare(unsigned thread, ThreadResult& result) {
  for (std::uint64_t page = thread; page < image_.pages(); page += options_.threads) {
    Touch ignored;
    if (judge_.stopped() || !judge_.look(thread, page, ignored)) return;
    const Content content = oracle_.content(page);
    result.contents[static_cast<int>(content)]++;
    if (content == Content::snapshot && oracle_.zeroInSnapshot(page)) result.zeroInSource++;
    positions_[thread].pages.fetch_add(1, std::memory_order_relaxed);
  }
}

}  // namespace faultline::target
