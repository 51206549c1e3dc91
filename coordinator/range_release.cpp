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
// Ranges removed within this time are released together: each time the target's mappings are listed, its mmap_lock is taken,
// and the gate is closed once.
constexpr kj::Duration SETTLE = 50 * kj::MILLISECONDS;
// Takes the place of SETTLE where the target had too many mappings when it was looked at last.
constexpr kj::Duration SETTLE_FULL = 1 * kj::SECONDS;

}  // namespace

struct RangeRelease::Shared {
  kj::AutoCloseFd uffd;
  std::atomic<bool> stopped{false};
};

struct RangeRelease::Chosen {
  ReleasableRange range;
  bool counted;  // in the header and of found_.most: it joins no other
};

// What has become of some ranges.
struct RangeRelease::Tried {
  std::vector<shm::PageRange> released;
  bool touched = false;         // a part of some range, at least, is registered no more, or may be
  std::uint64_t untouched = 0;  // counted ranges that are as they were
  std::uint64_t kept = 0;       // ranges for which there was no memory, or no mapping
  int error = 0;                // for all that was to follow
};

RangeRelease::RangeRelease(kj::AsyncIoContext& io, ReadingTurns& turns, failpoints::Failpoints& failpoints,
                           shm::Segment& segment, Owner& owner)
    : io_(io),
      turns_(turns),
      failpoints_(failpoints),
      segment_(segment),
      owner_(owner),
      shared_(std::make_shared<Shared>()),
      removed_(segment.pages(), LEAST_RELEASED / shm::SMALL_PAGE),
      running_(kj::Promise<void>(kj::READY_NOW).fork()) {}

RangeRelease::~RangeRelease() {
  shared_->stopped.store(true);
}

void RangeRelease::begin(int uffd, int target, const SourceFiles& files,
                         const std::vector<SourceLayer>& were) {
  KJ_IF_MAYBE (e, kj::runCatchingExceptions([&] {
                 shared_->uffd = process::duplicate(uffd);
                 target_ = process::duplicate(target);
                 auto layers = std::make_shared<std::vector<LayerToLookAt>>(layersToLookAt(files, were));
                 follow([this, layers] { return releaseHoles(std::move(*layers)); });
               }))
    failed(*e);
  // A predecessor's, and what was removed while nothing could be released.
  if (segment_.counters().removedPages.load() > 0) follow([this] { return findRemoved(0); });
}

void RangeRelease::removed(const shm::PageRange& pages) {
  if (target_.get() < 0 || shared_->stopped.load()) return;
  if (segment_.regions().locate(pages.first).pageSize != shm::SMALL_PAGE) return;
  removed_.add(pages);
  if (!removed_.empty()) takeUpRemoved();
}

// After what is under way.
void RangeRelease::follow(std::function<kj::Promise<void>()> work) {
  running_ = running_.addBranch()
                 .then([this, work = std::move(work)]() -> kj::Promise<void> {
                   if (shared_->stopped.load()) return kj::READY_NOW;
                   return work();
                 })
                 .catch_([this](kj::Exception&& e) { failed(e); })
                 .eagerlyEvaluate(nullptr)
                 .fork();
}

void RangeRelease::failed(const kj::Exception& exception) {
  if (!shared_->stopped.load() && !std::exchange(failureTold_, true))
    spdlog::info("restore {}: not all of its memory that could be is released: {}", segment_.name(),
                 exception.getDescription().cStr());
}

kj::Promise<void> RangeRelease::stop() {
  shared_->stopped.store(true);
  looking_.cancel("the restore ends");  // a file system may take as long as it likes
  return running_.addBranch();
}

// The input of a look in another thread, which owns it.
struct RangeRelease::Order {
  std::vector<LayerToLookAt> layers;
  std::vector<shm::PageRange> removed;
  std::vector<shm::RegionEntry> regions;
  std::uint64_t bytes = 0, before = 0;
  kj::AutoCloseFd target;
  ReleasableMemory found;
};

std::shared_ptr<RangeRelease::Order> RangeRelease::newOrder() const {
  auto order = std::make_shared<Order>();
  const auto regions = segment_.regions().entries();
  order->regions.assign(regions.begin(), regions.end());
  order->bytes = segment_.facts().sourceBytes;
  order->before = segment_.header().rangesReleased.load();
  order->target = process::duplicate(target_.get());
  return order;
}

kj::Promise<void> RangeRelease::releaseHoles(std::vector<LayerToLookAt> layers) {
  auto order = newOrder();
  order->layers = std::move(layers);
  return look(order,
              [](Order& o) {
                return releasableMemory(o.layers, o.bytes, o.regions, o.target.get(), o.before);
              })
      .then([this] { tell("are holes of its source", spdlog::level::info); });
}

kj::Promise<void> RangeRelease::findRemoved(shm::PageIndex from) {
  from = removed_.look(from, LOOK_STEP);
  if (from < segment_.pages().pageCount() && !shared_->stopped.load())
    return turns_.step(io_.provider->getTimer()).then([this, from] { return findRemoved(from); });
  if (!removed_.empty()) takeUpRemoved();
  return kj::READY_NOW;
}

void RangeRelease::takeUpRemoved() {
  if (std::exchange(takesUp_, true)) return;
  follow([this] {
    auto settled = io_.provider->getTimer().afterDelay(full_ ? SETTLE_FULL : SETTLE);
    return looking_.wrap(kj::mv(settled)).then([this] { return releaseRemoved(); });
  });
}

kj::Promise<void> RangeRelease::releaseRemoved() {
  takesUp_ = false;
  auto order = newOrder();
  order->removed = removed_.take();
  return look(order,
              [](Order& o) { return releasableMemory(o.removed, o.regions, o.target.get(), o.before); })
      .then([this] { tell("its target has given up", spdlog::level::debug); });  // may happen all the time
}

kj::Promise<void> RangeRelease::look(const std::shared_ptr<Order>& order,
                                     ReleasableMemory (*lookAt)(Order&)) {
  auto looked = inOwnThread("what can be released cannot be looked up",
                            [order, lookAt] { order->found = lookAt(*order); });
  return looking_.wrap(kj::mv(looked)).then([this, order] {
    found_ = std::move(order->found);
    next_ = 0;
    error_ = 0;
    return next();
  });
}

kj::Promise<void> RangeRelease::next() {
  if (shared_->stopped.load()) return kj::READY_NOW;
  std::vector<Chosen> some;
  if (!choose(some)) return turns_.step(io_.provider->getTimer()).then([this] { return next(); });
  if (some.empty()) return kj::READY_NOW;
  return release(std::move(some)).then([this] { return next(); });
}

// The next ranges that are to be released. False: it takes longer than others may wait, and is to be called again.
bool RangeRelease::choose(std::vector<Chosen>& some) {
  const std::size_t together = failpoints_.armed() ? 1 : TOGETHER;
  for (std::uint64_t looked = 0; next_ < found_.ranges.size() && some.size() < together; next_++) {
    if (looked > LOOK_STEP && some.empty()) return false;
    const ReleasableRange& range = found_.ranges[next_];
    looked += range.pages.count;
    if (segment_.pages().zeroForGood(range.pages)) {  // by a predecessor, or it was a hole
      owner_.released({range.pages});
      continue;
    }
    const bool counted = !joins(range);
    if (counted) {
      if (found_.most == 0) {
        if (!some.empty()) break;  // the kernel may refuse one of them
        kept_++;
        continue;
      }
      found_.most--;
      segment_.header().rangesReleased.fetch_add(1);
    }
    some.push_back({range, counted});
  }
  return true;
}

kj::Promise<void> RangeRelease::release(std::vector<Chosen> some) {
  auto held = whileHeld(Point::beforeUnregister, some.front().range.pages.first);
  return held.then([this, some = std::move(some)]() mutable { return unregister(std::move(some)); });
}

kj::Promise<void> RangeRelease::unregister(std::vector<Chosen> some) {
  auto tried = std::make_shared<Tried>();
  auto work = [shared = shared_, some = std::move(some), tried] {
    for (const auto& [range, counted] : some) {
      if (tried->error != 0) tried->kept++;
      if (tried->error != 0 || shared->stopped.load()) {
        tried->untouched += counted;
        continue;
      }
      const int error = uffd::unregister(shared->uffd.get(), range.address, range.size);
      // Whatever the answer: where it fails half way, the first part is registered no more.
      uffd::wake(shared->uffd.get(), range.address, range.size);
      if (error == 0) {
        tried->released.push_back(range.pages);
      } else if (error == ENOMEM || error == ESRCH) {
        tried->error = error;
        tried->kept++;
      } else {
        // Mapped no more, or something that cannot be registered is there: the kernel looks at all of a range first.
        tried->untouched += counted;
        continue;
      }
      tried->touched = true;
    }
  };
  return inOwnThread("ranges cannot be unregistered", std::move(work)).then([this, tried] {
    return unregistered(std::move(*tried));
  });
}

kj::Promise<void> RangeRelease::unregistered(Tried tried) {
  giveBack(tried);
  if (tried.error != 0) {
    error_ = tried.error;
    found_.most = 0;
    kept_ += tried.kept;
  }
  std::vector<shm::PageRange>& pages = tried.released;
  if (pages.empty()) return kj::READY_NOW;
  for (const shm::PageRange& range : pages) bytes_ += range.count * shm::SMALL_PAGE;
  ranges_ += pages.size();
  owner_.released(pages);
  auto held = whileHeld(Point::unregistered, pages.front().first);
  return held.then([this, pages = std::move(pages)]() mutable { return mark(std::move(pages)); });
}

// While the header counts none, none is unregistered: what joins a released range is not counted, and stands on that one's.
void RangeRelease::giveBack(const Tried& tried) {
  std::atomic<std::uint64_t>& counted = segment_.header().rangesReleased;
  const std::uint64_t least = tried.touched ? 1 : 0;
  found_.most += tried.untouched;
  counted.fetch_sub(std::min(tried.untouched, counted.load() - std::min(counted.load(), least)));
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

// Whether the range lies beside one that is released: then it splits no further mapping. Pages that the target has unregistered
// look the same, so a range joins nothing as long as none is counted.
bool RangeRelease::joins(const ReleasableRange& range) const {
  if (segment_.header().rangesReleased.load() == 0) return false;
  const auto isReleased = [this](shm::PageIndex page, std::uint64_t address) {
    const shm::PageTable& pages = segment_.pages();
    return page < pages.pageCount() && pages.state(page) == shm::PageState::released &&
           pages.zeroForGood(page) && segment_.regions().locate(page).address == address;
  };
  return isReleased(range.pages.end(), range.address + range.size) ||
         (range.pages.first > 0 && isReleased(range.pages.first - 1, range.address - shm::SMALL_PAGE));
}

void RangeRelease::tell(const char* what, spdlog::level::level_enum level) {
  if (ranges_ > 0)
    spdlog::log(level, "restore {}: {} MiB in {} ranges, which {}, are registered no more", segment_.name(),
                bytes_ >> 20, ranges_, what);
  if (kept_ > 0 && !std::exchange(keptTold_, true))
    spdlog::info("restore {}: {} further ranges stay registered: its target has too many mappings ({})",
                 segment_.name(), kept_, error_ != 0 ? std::strerror(error_) : "vm.max_map_count");
  full_ = kept_ > 0;
  ranges_ = bytes_ = kept_ = 0;
}

}  // namespace faultline::coordinator
