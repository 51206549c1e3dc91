#include "client/target_run.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <thread>

#include "faultline_client.h"
#include "shmtracker/clock.h"

namespace faultline::target {

using shm::nowNs;

namespace {

thread_local sigjmp_buf poisoned;

void onSigbus(int, siginfo_t*, void*) {
  siglongjmp(poisoned, 1);
}

// The image as it is, to compare with.
class Image {
 public:
  explicit Image(const std::string& path) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) throw EnvironmentError("cannot open the image " + path + ": " + std::strerror(errno));
    struct stat status {};
    fstat(fd, &status);
    bytes_ = static_cast<std::uint64_t>(status.st_size);
    start_ = mmap(nullptr, bytes_, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (start_ == MAP_FAILED)
      throw EnvironmentError("cannot map the image " + path + ": " + std::strerror(errno));
  }
  ~Image() { munmap(start_, bytes_); }
  Image(const Image&) = delete;
  const char* data() const { return static_cast<const char*>(start_); }
  std::uint64_t bytes() const { return bytes_; }

 private:
  void* start_;
  std::uint64_t bytes_;
};

class Run {
 public:
  Run(const RunOptions& options, std::atomic<std::uint64_t>& done)
      : options_(options),
        image_(options.image),
        pages_(image_.bytes() / options.pageSize),
        oracle_(image_.data(), pages_, options.pageSize),
        done_(done) {
    if (pages_ == 0) throw EnvironmentError("the image " + options.image + " is smaller than one page");
    if (options_.regions > pages_) throw EnvironmentError("there are more regions than pages");
  }
  ~Run() { faultline_target_close(target_); }

  RunResult go() {
    struct sigaction action {};
    action.sa_sigaction = onSigbus;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGBUS, &action, nullptr);
    map();
    connect();
    const std::uint64_t start = nowNs();
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < options_.threads; i++) threads.emplace_back([this, i] { touch(i); });
    std::thread giver([this] { giveBack(); });
    for (auto& thread : threads) thread.join();
    finished_.store(true);
    giver.join();
    result_.seconds = static_cast<double>(nowNs() - start) / 1e9;
    result_.firstPageNs = firstPageAt_.load() - start;
    result_.pages = pages_;
    lookAgain();
    return std::move(result_);
  }

 private:
  // Regions in the order of the file; the kernel scatters their addresses.
  void map() {
    std::vector<faultline_region> regions;
    std::uint64_t page = 0;
    for (unsigned i = 0; i < options_.regions; i++) {
      const std::uint64_t count = pages_ / options_.regions + (i < pages_ % options_.regions ? 1 : 0);
      regions.push_back({count * options_.pageSize, page * options_.pageSize, options_.pageSize});
      firstPages_.push_back(page);
      page += count;
    }
    char why[256];
    if (faultline_target_open(regions.data(), regions.size(), options_.remove ? 0 : FAULTLINE_NO_REMOVE,
                              &target_, why, sizeof why) != 0)
      throw EnvironmentError(why);
  }

  void connect() {
    char why[256];
    if (faultline_target_connect(target_, options_.socket.c_str(), options_.connectTimeoutMs, why,
                                 sizeof why) != 0)
      throw EnvironmentError(why);
  }

  char* addressOf(std::uint64_t page) const {
    const auto behind = std::upper_bound(firstPages_.begin(), firstPages_.end(), page);
    const auto region = static_cast<std::size_t>(behind - firstPages_.begin() - 1);
    return static_cast<char*>(faultline_target_address(target_, region)) +
           (page - firstPages_[region]) * options_.pageSize;
  }

  // One thread's share of the pages: touches each, judges it, writes some.
  void touch(unsigned thread) {
    std::vector<std::uint64_t> mine;
    for (std::uint64_t page = thread; page < pages_; page += options_.threads) mine.push_back(page);
    std::mt19937_64 random(options_.seed * 1000 + thread);
    if (options_.order == Order::random) std::shuffle(mine.begin(), mine.end(), random);
    std::vector<std::uint32_t> latencies;
    latencies.reserve(mine.size());
    std::uniform_real_distribution<double> percent(0, 100);
    RunResult counts;
    for (const std::uint64_t page : mine) {
      while (!oracle_.claim(page)) std::this_thread::yield();
      if (!judge(page, latencies, counts)) break;
      if (percent(random) < options_.writePercent) {
        std::memset(addressOf(page), PageOracle::patternOf(page), options_.pageSize);
        oracle_.written(page);
      }
      oracle_.unclaim(page);
      done_.fetch_add(1, std::memory_order_relaxed);
      if (stop_.load(std::memory_order_relaxed)) break;
    }
    std::lock_guard lock(mutex_);
    result_.latencies.insert(result_.latencies.end(), latencies.begin(), latencies.end());
    result_.fromSource += counts.fromSource;
    result_.zeroInSource += counts.zeroInSource;
    result_.removed += counts.removed;
    result_.written += counts.written;
  }

  // False where the page is not what it must be, or can't be had.
  bool judge(std::uint64_t page, std::vector<std::uint32_t>& latencies, RunResult& counts) {
    const char* memory = addressOf(page);
    if (sigsetjmp(poisoned, 0) != 0) {
      std::lock_guard lock(mutex_);
      result_.poisonedPage = page;
      stop_.store(true);
      return false;
    }
    const std::uint64_t before = nowNs();
    [[maybe_unused]] const char first = *static_cast<const volatile char*>(memory);
    const std::uint64_t after = nowNs();
    latencies.push_back(static_cast<std::uint32_t>(std::min<std::uint64_t>(after - before, UINT32_MAX)));
    std::uint64_t none = 0;
    firstPageAt_.compare_exchange_strong(none, after);
    Came came{};
    if (auto mismatch = oracle_.check(page, memory, came)) {
      std::lock_guard lock(mutex_);
      if (!result_.mismatch.has_value()) result_.mismatch = mismatch;
      stop_.store(true);
      return false;
    }
    switch (came) {
      case Came::source:
        counts.fromSource++;
        break;
      case Came::zeroInSource:
        counts.zeroInSource++;
        break;
      case Came::removed:
        counts.removed++;
        break;
      case Came::written:
        counts.written++;
        break;
    }
    return true;
  }

  // Gives pages back at random, touched or not, while the others fault.
  void giveBack() {
    std::mt19937_64 random(options_.seed * 7919 + 17);
    const auto wanted =
        static_cast<std::uint64_t>(static_cast<double>(pages_) * options_.giveBackPercent / 100);
    std::uint64_t given = 0;
    while (given < wanted && !stop_.load(std::memory_order_relaxed) &&
           !finished_.load(std::memory_order_relaxed)) {
      const std::uint64_t first = random() % pages_;
      const std::uint64_t most = std::min<std::uint64_t>(1 + random() % 16, pages_ - first);
      std::uint64_t count = 0;
      while (count < most && oracle_.claim(first + count)) count++;
      if (count == 0) continue;
      // Regions are not adjacent: page by page where the range may cross one.
      for (std::uint64_t i = 0; i < count; i++) {
        if (madvise(addressOf(first + i), options_.pageSize, MADV_DONTNEED) == 0) oracle_.removed(first + i);
        oracle_.unclaim(first + i);
      }
      given += count;
    }
  }

  // Everything once more, at rest: removals after the first look, and writes that must have stuck.
  void lookAgain() {
    if (result_.mismatch.has_value() || result_.poisonedPage.has_value()) return;
    RunResult counts;
    std::vector<std::uint32_t> ignored;
    for (std::uint64_t page = 0; page < pages_; page++)
      if (!judge(page, ignored, counts)) return;
    result_.fromSource = counts.fromSource;
    result_.zeroInSource = counts.zeroInSource;
    result_.removed = counts.removed;
    result_.written = counts.written;
  }

  const RunOptions& options_;
  Image image_;
  const std::uint64_t pages_;
  PageOracle oracle_;
  std::atomic<std::uint64_t>& done_;
  faultline_target* target_ = nullptr;
  std::vector<std::uint64_t> firstPages_;
  std::atomic<bool> stop_{false}, finished_{false};
  std::atomic<std::uint64_t> firstPageAt_{0};
  std::mutex mutex_;
  RunResult result_;  // guarded by mutex_ while the threads run
};

}  // namespace

RunResult run(const RunOptions& options, std::atomic<std::uint64_t>& done) {
  return Run(options, done).go();
}

}  // namespace faultline::target
