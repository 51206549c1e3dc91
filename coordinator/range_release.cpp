#include "coordinator/range_release.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "coordinator/held_work.h"
#include "coordinator/own_thread.h"
#include "process/duplicate.h"
#include "uffd/uffd.h"

namespace faultline::coordinator {

using failpoints::Point;

namespace {

constexpr std::size_t TOGETHER = 64;  // ranges that one thread unregisters, some 100 us
// Pages that are marked in one go, some 50 us with the gate closed; while a failpoint is armed, a word of them.
constexpr std::uint64_t MARK_STEP = 1u << 18, SMALL_STEP = 64;
// Pages that are looked at in one go, a few ms.
constexpr std::uint64_t LOOK_STEP = 1u << 24;

}  // namespace

struct RangeRelease::Shared {
  kj::AutoCloseFd uffd;
  std::atomic<bool> stopped{false};
  int error = 0;  // the last one of unregister()
};

RangeRelease::RangeRelease(kj::AsyncIoContext& io, ReadingTurns& turns, failpoints::Failpoints& failpoints,
                           shm::Segment& segment, Owner& owner)
    : io_(io),
      turns_(turns),
      failpoints_(failpoints),
      segment_(segment),
      owner_(owner),
      shared_(std::make_shared<Shared>()),
      running_(kj::Promise<void>(kj::READY_NOW).fork()) {}

RangeRelease::~RangeRelease() {
  shared_->stopped.store(true);
}

void RangeRelease::begin(int uffd, int target, const SourceFiles& files,
                         const std::vector<SourceLayer>& were) {
  running_ = kj::evalNow([&] { return run(uffd, target, files, were); })
                 .then([this] { tell(); },
                       [this](kj::Exception&& e) {
                         if (!shared_->stopped.load())
                           spdlog::info("restore {}: no more of its memory is released: {}", segment_.name(),
                                        e.getDescription().cStr());
                       })
                 .eagerlyEvaluate(nullptr)
                 .fork();
}

kj::Promise<void> RangeRelease::stop() {
  shared_->stopped.store(true);
  looking_.cancel("the restore ends");  // a file system may take as long as it likes
  return running_.addBranch();
}

kj::Promise<void> RangeRelease::run(int uffd, int target, const SourceFiles& files,
                                    const std::vector<SourceLayer>& were) {
  struct Order {
    std::vector<LayerToLookAt> layers;
    std::vector<shm::RegionEntry> regions;
    std::uint64_t bytes, before;
    kj::AutoCloseFd target;
    ReleasableMemory found;
  };
  shared_->uffd = process::duplicate(uffd);
  auto order = std::make_shared<Order>();
  order->layers = layersToLookAt(files, were);
  const auto regions = segment_.regions().entries();
  order->regions.assign(regions.begin(), regions.end());
  order->bytes = segment_.facts().sourceBytes;
  order->before = segment_.header().rangesReleased.load();
  order->target = process::duplicate(target);
  auto looked = inOwnThread("its holes cannot be looked up", [order] {
    order->found =
        releasableMemory(order->layers, order->bytes, order->regions, order->target.get(), order->before);
  });
  return looking_.wrap(kj::mv(looked)).then([this, order] {
    found_ = std::move(order->found);
    return next();
  });
}

kj::Promise<void> RangeRelease::next() {
  if (shared_->stopped.load()) return kj::READY_NOW;
  std::vector<ReleasableRange> some;
  if (!choose(some)) return turns_.step(io_.provider->getTimer()).then([this] { return next(); });
  if (some.empty()) return kj::READY_NOW;
  return release(std::move(some)).then([this] { return next(); });
}

// The next ranges that are to be released. False: it takes longer than others may wait, and is to be called again.
bool RangeRelease::choose(std::vector<ReleasableRange>& some) {
  const std::size_t together = failpoints_.armed() ? 1 : TOGETHER;
  for (std::uint64_t looked = 0; next_ < found_.ranges.size() && some.size() < together; next_++) {
    if (looked > LOOK_STEP && some.empty()) return false;
    const ReleasableRange& range = found_.ranges[next_];
    looked += range.pages.count;
    if (segment_.pages().zeroForGood(range.pages)) {  // by a predecessor
      owner_.released({range.pages});
    } else if (found_.most > 0) {
      found_.most--;
      some.push_back(range);
    } else {
      kept_++;
    }
  }
  return true;
}

kj::Promise<void> RangeRelease::release(std::vector<ReleasableRange> some) {
  segment_.header().rangesReleased.fetch_add(some.size());
  auto held = whileHeld(Point::beforeUnregister, some.front().pages.first);
  return held.then([this, some = std::move(some)]() mutable { return unregister(std::move(some)); });
}

kj::Promise<void> RangeRelease::unregister(std::vector<ReleasableRange> some) {
  auto done = std::make_shared<std::vector<shm::PageRange>>();
  auto work = [shared = shared_, some = std::move(some), done] {
    for (const ReleasableRange& range : some) {
      if (shared->stopped.load()) return;
      const int error = uffd::unregister(shared->uffd.get(), range.address, range.size);
      if (error == ENOMEM || error == ESRCH) {
        shared->error = error;
        return;
      }
      if (error != 0) continue;  // nothing is mapped there any more, or something that cannot be registered
      uffd::wake(shared->uffd.get(), range.address, range.size);
      done->push_back(range.pages);
    }
  };
  return inOwnThread("ranges cannot be unregistered", std::move(work)).then([this, done] {
    return unregistered(std::move(*done));
  });
}

kj::Promise<void> RangeRelease::unregistered(std::vector<shm::PageRange> pages) {
  if (shared_->error != 0) found_.most = 0;
  if (pages.empty()) return kj::READY_NOW;
  for (const shm::PageRange& range : pages) bytes_ += range.count * shm::SMALL_PAGE;
  ranges_ += pages.size();
  owner_.released(pages);
  auto held = whileHeld(Point::unregistered, pages.front().first);
  return held.then([this, pages = std::move(pages)]() mutable { return mark(std::move(pages)); });
}

kj::Promise<void> RangeRelease::whileHeld(Point point, shm::PageIndex page) {
  return whenReleased(io_.unixEventPort, failpoints_.hold(point, page));
}

// In steps, between which the gate is open. Not stopped half way: what is unregistered is to be marked.
kj::Promise<void> RangeRelease::mark(std::vector<shm::PageRange> left) {
  std::vector<shm::PageRange> step;
  for (std::uint64_t most = failpoints_.armed() ? SMALL_STEP : MARK_STEP; most > 0 && !left.empty();) {
    shm::PageRange& range = left.back();
    const shm::PageRange piece{range.first, std::min(range.count, most)};
    step.push_back(piece);
    most -= piece.count;
    range = {piece.end(), range.count - piece.count};
    if (range.count == 0) left.pop_back();
  }
  if (step.empty()) return kj::READY_NOW;
  return owner_
      .exclusively([this, step = std::move(step)](const shm::ExclusiveGuard& guard) {
        failpoints_.hit(Point::midRelease, step.front().first);
        for (const shm::PageRange& pages : step) segment_.pages().markReleased(guard, pages);
      })
      .then([this, left = std::move(left)]() mutable { return mark(std::move(left)); });
}

void RangeRelease::tell() const {
  if (ranges_ > 0)
    spdlog::info("restore {}: {} MiB in {} ranges, which are zero for good, are registered no more",
                 segment_.name(), bytes_ >> 20, ranges_);
  if (kept_ > 0)
    spdlog::info("restore {}: {} further ranges stay registered: its target has too many mappings ({})",
                 segment_.name(), kept_,
                 shared_->error != 0 ? std::strerror(shared_->error) : "vm.max_map_count");
}

}  // namespace faultline::coordinator
