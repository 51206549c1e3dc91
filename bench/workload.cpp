#include "bench/workload.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <barrier>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#include "bench/remover.h"
#include "faultline_client.h"
#include "process/clock.h"

namespace faultline::bench {

using process::nowNs;

namespace {

constexpr unsigned CONNECT_MS = 10'000;
// A touch that took less met a page that was there: a fault costs thousands.
constexpr std::uint64_t NO_FAULT_NS = 1'000;

struct CloseTarget {
  void operator()(faultline_target* target) const { faultline_target_close(target); }
};
using OwnTarget = std::unique_ptr<faultline_target, CloseTarget>;

OwnTarget open(const std::vector<faultline_region>& regions, bool negotiateRemove) {
  char why[256];
  faultline_target* target;
  if (faultline_target_open(regions.data(), regions.size(), negotiateRemove ? 0 : FAULTLINE_NO_REMOVE,
                            &target, why, sizeof why) != 0)
    throw std::runtime_error(why);
  return OwnTarget(target);
}

void connect(const OwnTarget& target, const std::string& socket) {
  char why[256];
  if (faultline_target_connect(target.get(), socket.c_str(), CONNECT_MS, why, sizeof why) != 0)
    throw std::runtime_error(why);
}

char* addressOf(const OwnTarget& target, unsigned region) {
  return static_cast<char*>(faultline_target_address(target.get(), region));
}

std::uint64_t touch(char* address, bool write) {
  auto* word = reinterpret_cast<volatile std::uint64_t*>(address);
  if (write) word[1] = 1;
  return word[0];
}

// The touched range and one page more, which is given back where REMOVE traffic is wanted.
class Target {
 public:
  Target(const Workload& workload, std::uint64_t pages, const BenchImage& image, const std::string& socket)
      : pageSize_(workload.pageSize), hole_(workload.touch == Touch::zero) {
    offset_ = hole_ ? image.dataBytes : 0;
    target_ =
        open({{pages * pageSize_, offset_, pageSize_}, {pageSize_, 0, pageSize_}}, workload.negotiateRemove);
    connect(target_, socket);
    removed_ = workload.touch == Touch::removed;
    if (removed_) madvise(page(0), pages * pageSize_, MADV_DONTNEED);
  }

  char* page(std::uint64_t n) const { return addressOf(target_, 0) + n * pageSize_; }
  void giveBack() const { madvise(addressOf(target_, 1), pageSize_, MADV_DONTNEED); }
  std::uint64_t expected(std::uint64_t n) const {
    return hole_ || removed_ ? 0 : imageWord(offset_ + n * pageSize_);
  }

 private:
  OwnTarget target_;
  const std::uint64_t pageSize_;
  const bool hole_;
  bool removed_ = false;
  std::uint64_t offset_ = 0;
};

void runOn(const cpu_set_t& cpus) {
  pthread_setaffinity_np(pthread_self(), sizeof cpus, &cpus);
}

struct Toucher {
  const Target* target = nullptr;
  std::vector<std::uint32_t> order;
  target::LatencyHistogram latency;
  std::uint64_t wrong = 0, endedAt = 0, touchTimes = 0;

  void run(bool write) {
    std::uint64_t before = process::nowNs();
    for (const std::uint32_t n : order) {
      const std::uint64_t word = touch(target->page(n), write);
      const std::uint64_t after = process::nowNs();
      if (after - before >= NO_FAULT_NS) {
        latency.add(after - before);
        touchTimes += before;
      }
      if (word != target->expected(n)) wrong++;
      before = process::nowNs();
    }
    endedAt = before;
  }
};

}  // namespace

std::string nameOf(Touch touch) {
  static const char* names[] = {"read", "write", "zero", "removed"};
  return names[static_cast<int>(touch)];
}

Measured run(const Workload& workload, const BenchImage& image, const std::string& socket,
             const std::function<void()>& whileThere) {
  const unsigned targets = std::max(workload.targets, 1u), threads = std::max(workload.threads, targets);
  const std::uint64_t pagesEach = workload.bytes / workload.pageSize / targets;
  const std::uint64_t regionPages = std::max(pagesEach, workload.regionBytes / workload.pageSize);
  const unsigned threadsEach = (threads + targets - 1) / targets;
  if (regionPages * workload.pageSize > image.dataBytes)
    throw std::runtime_error("the image is smaller than the " +
                             std::to_string(regionPages * workload.pageSize) + " bytes that a target wants");
  if (pagesEach < threadsEach)
    throw std::runtime_error(std::to_string(workload.bytes) + " bytes are too few for a page of " +
                             std::to_string(workload.pageSize) + " bytes a thread");

  std::vector<std::unique_ptr<Target>> restored;
  for (unsigned i = 0; i < targets; i++)
    restored.push_back(std::make_unique<Target>(workload, regionPages, image, socket));

  std::vector<Toucher> touchers(threads);
  std::mt19937_64 random(7);
  for (unsigned t = 0; t < targets; t++) {
    std::vector<std::uint32_t> order(regionPages);
    std::iota(order.begin(), order.end(), 0u);
    if (!workload.sequential) std::shuffle(order.begin(), order.end(), random);
    order.resize(pagesEach);
    // Each thread of a target has a contiguous piece of the order.
    const unsigned mine = threads / targets + (t < threads % targets ? 1 : 0);
    for (unsigned i = 0; i < mine; i++) {
      Toucher& toucher = touchers[t + i * targets];
      toucher.target = restored[t].get();
      toucher.order.assign(order.begin() + static_cast<std::ptrdiff_t>(pagesEach * i / mine),
                           order.begin() + static_cast<std::ptrdiff_t>(pagesEach * (i + 1) / mine));
    }
  }

  const cpu_set_t cpus = targetCpus(workload.placement);
  const bool write = workload.touch == Touch::write;
  std::barrier together(threads + 1);
  std::vector<std::thread> running;
  for (Toucher& toucher : touchers)
    running.emplace_back([&] {
      runOn(cpus);
      together.arrive_and_wait();
      toucher.run(write);
    });
  Remover remover(workload.removesPerSecond, workload.placement, [&] {
    for (const auto& target : restored) target->giveBack();
  });
  const std::uint64_t startedAt = process::nowNs();
  together.arrive_and_wait();
  for (std::thread& thread : running) thread.join();
  Measured measured;
  measured.removals = remover.stop() * targets;
  if (whileThere) whileThere();

  std::uint64_t endedAt = startedAt, wrong = 0;
  for (const Toucher& toucher : touchers) {
    measured.latency.add(toucher.latency);
    measured.faults += toucher.latency.count();
    measured.touchTimes += toucher.touchTimes;
    wrong += toucher.wrong;
    endedAt = std::max(endedAt, toucher.endedAt);
  }
  if (wrong != 0) throw std::runtime_error(std::to_string(wrong) + " pages came with wrong bytes");
  measured.seconds = static_cast<double>(endedAt - startedAt) * 1e-9;
  return measured;
}

IdleTarget::IdleTarget(const IdleMemory& memory, const std::string& socket) : pageSize_(memory.pageSize) {
  OwnTarget target = open({{memory.bytes, 0, memory.pageSize}, {memory.pageSize, 0, memory.pageSize}},
                          memory.negotiateRemove);
  connect(target, socket);
  target_ = target.release();
}

IdleTarget::~IdleTarget() {
  faultline_target_close(target_);
}

void IdleTarget::giveBack() const {
  madvise(faultline_target_address(target_, 1), pageSize_, MADV_DONTNEED);
}

double attachSeconds(const BenchImage& image, std::uint64_t bytes, const std::string& socket) {
  const OwnTarget target = open({{bytes, 0, 4096}}, true);
  const std::uint64_t before = process::nowNs();
  connect(target, socket);
  const bool right = touch(addressOf(target, 0), false) == imageWord(0);
  const std::uint64_t took = process::nowNs() - before;
  if (!right) throw std::runtime_error("the first page of " + image.path + " came with wrong bytes");
  return static_cast<double>(took) * 1e-9;
}

}  // namespace faultline::bench
