#include "bench/workload.h"

#include <fcntl.h>
#include <kj/io.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <barrier>
#include <csignal>
#include <cstdio>
#include <exception>
#include <memory>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#include "bench/cpu_time.h"
#include "bench/pipe.h"
#include "bench/remover.h"
#include "process/clock.h"

namespace faultline::bench {

using process::nowNs;

namespace {

// A touch that took less met a page that was there: a fault costs thousands.
constexpr std::uint64_t NO_FAULT_NS = 1'000;
// Longest touch without a fault after a pause, when the caches are cold.
constexpr std::uint64_t NO_FAULT_AFTER_PAUSE_NS = 4'000;

Removals removalsOf(bool negotiated) {
  return negotiated ? Removals::told : Removals::untold;
}

bool inHole(Touch touch) {
  return touch == Touch::zero || touch == Touch::zeroWrite;
}
bool writes(Touch touch) {
  return touch == Touch::write || touch == Touch::zeroWrite;
}

std::uint64_t touch(char* address, bool write) {
  auto* word = reinterpret_cast<volatile std::uint64_t*>(address);
  if (write) word[1] = 1;
  return word[0];
}

// The touched range and one page more, which is given back where REMOVE traffic is wanted.
class Target {
 public:
  Target(const Workload& workload, std::uint64_t pages, const BenchImage& image, const Backing& backing)
      : workload_(workload),
        image_(image),
        pages_(pages),
        offset_(inHole(workload.touch) ? image.dataBytes : 0),
        memory_(backing, image,
                {{pages * workload.pageSize, offset_, workload.pageSize},
                 {workload.pageSize, 0, workload.pageSize}},
                removalsOf(workload.negotiateRemove)) {
    if (workload.hugePages) madvise(page(0), pages * workload.pageSize, MADV_HUGEPAGE);
  }

  void connect() {
    memory_.connect();
    if (workload_.touch == Touch::removed) madvise(page(0), pages_ * workload_.pageSize, MADV_DONTNEED);
    if (workload_.restoreBegun) bench::touch(memory_.address(1), false);
  }

  const Workload& workload() const { return workload_; }
  char* page(std::uint64_t n) const { return memory_.address(0) + n * workload_.pageSize; }
  void giveBack() const { madvise(memory_.address(1), workload_.pageSize, MADV_DONTNEED); }

  bool right(std::uint64_t n, std::uint64_t word) const { return word == expected(n, 0); }
  bool everyByteRight(std::uint64_t n) const {
    const auto* words = reinterpret_cast<const volatile std::uint64_t*>(page(n));
    for (std::uint64_t i = 0; i < workload_.pageSize / sizeof *words; i++)
      if (words[i] != (i == 1 && writes(workload_.touch) ? 1 : expected(n, i))) return false;
    return true;
  }

 private:
  std::uint64_t expected(std::uint64_t n, std::uint64_t word) const {
    return workload_.touch == Touch::removed
               ? 0
               : image_.word(offset_ + n * workload_.pageSize + word * sizeof word);
  }

  const Workload workload_;
  const BenchImage image_;
  const std::uint64_t pages_, offset_;
  TargetMemory memory_;
};

void runOn(const cpu_set_t& cpus) {
  pthread_setaffinity_np(pthread_self(), sizeof cpus, &cpus);
}

struct Toucher {
  const Target* target = nullptr;
  std::vector<std::uint32_t> order;
  target::LatencyHistogram latency, anyTouch;
  std::uint64_t wrong = 0, endedAt = 0, touchTimes = 0;

  void run() {
    const Workload& workload = target->workload();
    const bool write = writes(workload.touch);
    const std::uint64_t noFault = workload.pauseUs == 0 ? NO_FAULT_NS : NO_FAULT_AFTER_PAUSE_NS;
    std::uint64_t before = nowNs();
    for (const std::uint32_t n : order) {
      const std::uint64_t word = touch(target->page(n), write);
      const std::uint64_t took = nowNs() - before;
      anyTouch.add(took);
      if (took >= noFault) {
        latency.add(took);
        touchTimes += before;
      }
      if (!target->right(n, word) || (workload.everyByte && !target->everyByteRight(n))) wrong++;
      if (workload.pauseUs != 0) usleep(workload.pauseUs);
      before = nowNs();
    }
    endedAt = before;
  }
};

}  // namespace

std::string nameOf(Touch touch) {
  static const char* names[] = {"read", "write", "zero", "first write of a hole", "removed"};
  return names[static_cast<int>(touch)];
}

namespace {

// How a workload is dealt out.
struct Shape {
  unsigned targets, threads;
  std::uint64_t pagesEach, regionPages;  // for each target: touched at most, mapped
};

Shape shapeOf(const Workload& workload, const BenchImage& image) {
  Shape shape{std::max(workload.targets, 1u), 0, 0, 0};
  shape.threads = std::max(workload.threads, shape.targets);
  shape.pagesEach = workload.bytes / workload.pageSize / shape.targets;
  shape.regionPages = std::max(shape.pagesEach, workload.regionBytes / workload.pageSize);
  const unsigned threadsEach = (shape.threads + shape.targets - 1) / shape.targets;
  if (shape.regionPages * workload.pageSize > image.dataBytes)
    throw std::runtime_error("the image is smaller than the " +
                             std::to_string(shape.regionPages * workload.pageSize) +
                             " bytes that a target wants");
  if (shape.pagesEach < threadsEach)
    throw std::runtime_error(std::to_string(workload.bytes) + " bytes are too few for a page of " +
                             std::to_string(workload.pageSize) + " bytes a thread");
  return shape;
}

std::vector<std::uint32_t> orderFor(const Workload& workload, const Shape& shape, std::mt19937_64& random) {
  std::vector<std::uint32_t> order = orderOf(workload.pattern, shape.regionPages, random);
  order.resize(std::min(order.size(), shape.pagesEach));
  return order;
}

constexpr std::uint64_t SEED = 7;

// A thread of a target has a contiguous piece of the order.
std::vector<Toucher> touchersOf(const Workload& workload, const Shape& shape,
                                const std::vector<std::unique_ptr<Target>>& targets) {
  std::vector<Toucher> touchers(shape.threads);
  std::mt19937_64 random(SEED);
  for (unsigned t = 0; t < shape.targets; t++) {
    const std::vector<std::uint32_t> order = orderFor(workload, shape, random);
    const unsigned mine = shape.threads / shape.targets + (t < shape.threads % shape.targets ? 1 : 0);
    const auto cut = [&](unsigned i) {
      return order.begin() + static_cast<std::ptrdiff_t>(order.size() * i / mine);
    };
    for (unsigned i = 0; i < mine; i++) {
      Toucher& toucher = touchers[t + i * shape.targets];
      toucher.target = targets[t].get();
      toucher.order.assign(cut(i), cut(i + 1));
    }
  }
  return touchers;
}

Measured sumOf(const std::vector<Toucher>& touchers, std::uint64_t connectedFrom, std::uint64_t startedAt) {
  Measured measured;
  std::uint64_t endedAt = startedAt, wrong = 0;
  for (const Toucher& toucher : touchers) {
    measured.latency.add(toucher.latency);
    measured.anyTouch.add(toucher.anyTouch);
    measured.touchTimes += toucher.touchTimes;
    wrong += toucher.wrong;
    endedAt = std::max(endedAt, toucher.endedAt);
  }
  if (wrong != 0) throw std::runtime_error(std::to_string(wrong) + " pages came with wrong bytes");
  measured.faults = measured.latency.count();
  measured.touches = measured.anyTouch.count();
  measured.seconds = static_cast<double>(endedAt - startedAt) * 1e-9;
  measured.wholeSeconds = static_cast<double>(endedAt - connectedFrom) * 1e-9;
  return measured;
}

}  // namespace

std::vector<std::uint32_t> touchOrder(const Workload& workload, const BenchImage& image) {
  std::mt19937_64 random(SEED);
  return orderFor(workload, shapeOf(workload, image), random);
}

Measured run(const Workload& workload, const BenchImage& image, const Backing& backing,
             const RunHooks& hooks) {
  const Shape shape = shapeOf(workload, image);
  std::vector<std::unique_ptr<Target>> targets;
  for (unsigned i = 0; i < shape.targets; i++)
    targets.push_back(std::make_unique<Target>(workload, shape.regionPages, image, backing));
  std::vector<Toucher> touchers = touchersOf(workload, shape, targets);

  const cpu_set_t cpus = targetCpus(workload.placement);
  std::barrier ready(shape.threads + 1), together(shape.threads + 1);
  std::vector<std::thread> running;
  running.reserve(touchers.size());
  for (Toucher& toucher : touchers)
    running.emplace_back([&] {
      runOn(cpus);
      ready.arrive_and_wait();
      together.arrive_and_wait();
      toucher.run();
    });
  ready.arrive_and_wait();
  if (hooks.beforeConnecting) hooks.beforeConnecting();
  const double serverBefore = cpuSeconds(backing.process);
  const std::uint64_t connectedFrom = nowNs();
  std::string refused;
  try {
    for (const auto& target : targets) target->connect();
    if (hooks.connected) hooks.connected();
  } catch (const std::exception& error) {
    refused = error.what();
    for (Toucher& toucher : touchers) toucher.order.clear();
  }
  Remover remover(refused.empty() ? workload.removesPerSecond : 0, workload.placement, [&] {
    for (const auto& target : targets) target->giveBack();
  });
  const std::uint64_t startedAt = nowNs();
  together.arrive_and_wait();
  for (std::thread& thread : running) thread.join();
  const double serverSeconds = cpuSeconds(backing.process) - serverBefore;
  const std::uint64_t removals = remover.stop() * shape.targets;
  if (!refused.empty()) throw std::runtime_error(refused);
  if (hooks.whileThere) hooks.whileThere();

  Measured measured = sumOf(touchers, connectedFrom, startedAt);
  measured.serverSeconds = serverSeconds;
  measured.removals = removals;
  measured.givingBack = remover.latency();
  return measured;
}

IdleTarget::IdleTarget(const IdleMemory& memory, const Backing& backing)
    : memory_(memory),
      target_(backing, {},
              {{memory.bytes, memory.offset, memory.pageSize}, {memory.pageSize, 0, memory.pageSize}},
              removalsOf(memory.negotiateRemove)) {
  if (memory.hugePages) madvise(target_.address(0), memory.bytes, MADV_HUGEPAGE);
  target_.connect();
}

void IdleTarget::giveBack() const {
  madvise(target_.address(1), memory_.pageSize, MADV_DONTNEED);
}

double IdleTarget::giveAllBack() const {
  const std::uint64_t before = nowNs();
  madvise(target_.address(0), memory_.bytes, MADV_DONTNEED);
  return static_cast<double>(nowNs() - before) * 1e-9;
}

target::LatencyHistogram IdleTarget::writeAll() const {
  target::LatencyHistogram took;
  for (std::uint64_t at = 0; at < memory_.bytes; at += memory_.pageSize) {
    const std::uint64_t before = nowNs();
    touch(target_.address(0) + at, true);
    took.add(nowNs() - before);
  }
  return took;
}

namespace {
// The child's side of attachSeconds(): tells the seconds, and ends with the memory still mapped.
[[noreturn]] void attachInChild(const BenchImage& image, std::uint64_t bytes, const Backing& backing,
                                int tell) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  try {
    TargetMemory target(backing, image, {{bytes, 0, 4096}}, Removals::told);
    const std::uint64_t before = nowNs();
    target.connect();
    const bool right = touch(target.address(0), false) == imageWord(0);
    const double seconds = static_cast<double>(nowNs() - before) * 1e-9;
    if (!right) throw std::runtime_error("the first page of " + image.path + " came with wrong bytes");
    _exit(write(tell, &seconds, sizeof seconds) == sizeof seconds ? 0 : 1);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "attaching: %s\n", error.what());
    _exit(1);
  }
}
}  // namespace

double attachSeconds(const BenchImage& image, std::uint64_t bytes, const Backing& backing) {
  Pipe pipe = makePipe();
  const pid_t child = fork();
  if (child == 0) attachInChild(image, bytes, backing, pipe.write.get());
  pipe.write = nullptr;
  double seconds = 0;
  const bool told = child > 0 && read(pipe.read.get(), &seconds, sizeof seconds) == sizeof seconds;
  if (child > 0) waitpid(child, nullptr, 0);
  if (!told) throw std::runtime_error("a target could not attach");
  return seconds;
}

}  // namespace faultline::bench
