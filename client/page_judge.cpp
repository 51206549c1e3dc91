#include "client/page_judge.h"

#include <sys/resource.h>

#include "client/sigbus.h"

namespace faultline::target {

namespace {

// Below this a touch found its page in place: a fault alone takes longer.
constexpr std::uint64_t FAULT_NS = 300;

// Page faults of this thread. A fault that waited for a userfaultfd counts as a minor one, as measured on
// Linux 6.18 at both page sizes: exactly one a wait, none where the page was there.
long faultsOfThread() {
  rusage usage;
  getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_minflt + usage.ru_majflt;
}

Touch timedTouch(const char* memory) {
  Touch touch;
  const long before = faultsOfThread();
  touch.begin = process::nowNs();
  [[maybe_unused]] const char first = *static_cast<const volatile char*>(memory);
  touch.end = process::nowNs();
  touch.faulted = touch.end - touch.begin >= FAULT_NS && faultsOfThread() != before;
  return touch;
}

}  // namespace

template <typename Work>
bool PageJudge::guardedWork(std::size_t seat, std::uint64_t page, Work work) {
  board_.enter(seat, page);
  const std::optional<BusError> error = guarded(work);
  board_.leave(seat);
  if (!error.has_value()) return true;
  const char* memory = memory_.address(page);
  if (error->address < memory || error->address >= memory + pageSize_) {
    breakOff("the image became shorter while it was compared with");
    return false;
  }
  const threads::Lock lock(mutex_);
  if (!stopped_.exchange(true)) lostPage_ = {page, error->poisoned};
  return false;
}

bool PageJudge::judge(const std::optional<Mismatch>& mismatch) {
  if (!mismatch.has_value()) return true;
  const threads::Lock lock(mutex_);
  if (!stopped_.exchange(true)) mismatch_ = mismatch;
  return false;
}

void PageJudge::breakOff(const std::string& what) {
  const threads::Lock lock(mutex_);
  if (!stopped_.exchange(true)) broken_ = what;
}

bool PageJudge::look(std::size_t seat, std::uint64_t page, Touch& touch) {
  std::optional<Mismatch> mismatch;
  const char* memory = memory_.address(page);
  const bool had = guardedWork(seat, page, [&] {
    const PageOracle::Look look(oracle_, page);
    touch = timedTouch(memory);
    mismatch = look.compare(memory);
  });
  return had && judge(mismatch);
}

bool PageJudge::lookForZeros(std::size_t seat, std::uint64_t page) {
  std::optional<Mismatch> mismatch;
  const char* memory = memory_.address(page);
  const bool had = guardedWork(seat, page, [&] { mismatch = oracle_.compareWithZeros(page, memory); });
  return had && judge(mismatch);
}

bool PageJudge::write(std::size_t seat, std::uint64_t page) {
  char* memory = memory_.address(page);
  oracle_.beginWriting(page);
  const bool had = guardedWork(seat, page, [&] { oracle_.writePattern(page, memory); });
  oracle_.endWriting(page);
  return had;
}

std::optional<Mismatch> PageJudge::mismatch() const {
  const threads::Lock lock(mutex_);
  return mismatch_;
}

std::optional<LostPage> PageJudge::lostPage() const {
  const threads::Lock lock(mutex_);
  return lostPage_;
}

std::string PageJudge::broken() const {
  const threads::Lock lock(mutex_);
  return broken_;
}

}  // namespace faultline::target
