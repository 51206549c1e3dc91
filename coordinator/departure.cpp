#include "coordinator/departure.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <thread>

#include "coordinator/own_thread.h"
#include "coordinator/unnamed_memory.h"
#include "process/pid_of.h"
#include "uffd/registration.h"
#include "uffd/uffd.h"

namespace faultline::coordinator {

namespace {

using std::chrono::microseconds;
using uffd::Outcome;

// Pages that one ioctl poisons: as short as the sections of a population, which a removal has to wait for as
// well.
constexpr std::uint64_t RUN = 512;
constexpr microseconds FIRST_PAUSE{50}, LONGEST_PAUSE{1000};  // after a refusal: a removal is under way

class Departure {
 public:
  explicit Departure(DepartureOrder order) : order_(kj::mv(order)) {}

  void go() {
    if (order_.poison != DepartureOrder::Poison::nothing) poisonAll();
    if (departed_.unsupported || gone_) return;
    for (const shm::RegionEntry& region : order_.regions) unregister(region);
    if (!gone_)
      departed_.unnamed = unregisterUnnamed(order_.uffd.get(),
                                            order_.target.get() < 0 ? 0 : process::pidOf(order_.target.get()),
                                            order_.faultedOutside);
    // A fault that arrives as its range is unregistered is not woken by that: it queues behind the wake.
    uffd::wakeAll(order_.uffd.get());
  }
  const Departed& departed() const { return departed_; }

  bool anyRegistered() {
    for (const shm::RegionEntry& region : order_.regions) {
      const std::uint64_t pageSize = std::uint64_t{1} << region.pageShift;
      for (std::uint64_t at = 0; at < region.size; at += pageSize) {
        at += releasedFrom(region, at);
        if (at >= region.size) break;
        switch (uffd::registrationOf(order_.uffd.get(), region.base + at, pageSize)) {
          case uffd::Registration::notRegistered:
            continue;
          case uffd::Registration::targetGone:
            return false;
          case uffd::Registration::registered:
          case uffd::Registration::otherPageSize:
          case uffd::Registration::unknown:
            return true;
        }
      }
    }
    return false;
  }

 private:
  struct Run {
    std::uint64_t address, pageSize, pages;
  };

  // Bytes of the region from `at` on that are registered no more, as a segment that is to be trusted says.
  std::uint64_t releasedFrom(const shm::RegionEntry& region, std::uint64_t at) {
    if (order_.segment.get() < 0) return 0;
    const shm::PageTable& pages = segment().pages();
    const shm::PageIndex page = region.firstPage + (at >> region.pageShift);
    if (pages.state(page) != shm::PageState::released) return 0;
    return pages.runLength(page, (region.size - at) >> region.pageShift) << region.pageShift;
  }

  void unregister(const shm::RegionEntry& region) {
    if (uffd::unregister(order_.uffd.get(), region.base, region.size) == 0) return;
    const std::uint64_t pageSize = std::uint64_t{1} << region.pageShift;
    const shm::PageRange all{region.firstPage, region.size >> region.pageShift};
    if (order_.segment.get() < 0) return unregister(Run{region.base, pageSize, all.count});
    // Pages that were found registered no more, each by itself, are asked for as a run: once is enough, since something
    // that is registered there again is unregistered by that, and nothing that is mapped there is refused as well.
    const shm::PageTable& pages = segment().pages();
    for (shm::PageIndex page = all.first; page < all.end();) {
      const std::uint64_t address = region.base + (page - all.first) * pageSize, left = all.end() - page;
      std::uint64_t run = pages.find({page, left}, shm::PageState::released) - page;
      if (run > 0) {
        unregister(Run{address, pageSize, run});
      } else {
        run = pages.runLength(page, left);
        uffd::unregister(order_.uffd.get(), address, run * pageSize);
      }
      page += run;
    }
  }

  // The kernel refuses a range as a whole where a part of it has become something that it would not register (a file, say),
  // and where nothing is mapped there any more: halves are tried, down to single pages.
  void unregister(const Run& run) {
    if (gone_ || uffd::unregister(order_.uffd.get(), run.address, run.pages * run.pageSize) == 0) return;
    if (run.pages > 1) {
      const std::uint64_t half = run.pages / 2;
      unregister(Run{run.address, run.pageSize, half});
      return unregister(Run{run.address + half * run.pageSize, run.pageSize, run.pages - half});
    }
    switch (uffd::registrationOf(order_.uffd.get(), run.address, run.pageSize)) {
      case uffd::Registration::notRegistered:
        return;
      case uffd::Registration::targetGone:
        gone_ = true;
        return;
      case uffd::Registration::registered:
      case uffd::Registration::otherPageSize:
      case uffd::Registration::unknown:
        if (departed_.kept == 0) departed_.firstKept = run.address;
        departed_.kept += run.pageSize;
    }
  }

  void poisonAll() {
    if (order_.poison == DepartureOrder::Poison::missing) return poisonMissing();
    for (const shm::RegionEntry& region : order_.regions) {
      const std::uint64_t pageSize = std::uint64_t{1} << region.pageShift;
      for (std::uint64_t done = 0; done < region.size && !over();)
        if (const auto advanced =
                poison({region.base + done, pageSize, std::min(RUN, (region.size - done) / pageSize)}))
          done += advanced * pageSize;
        else
          pause();
    }
  }

  void poisonMissing() {
    const shm::PageTable& pages = segment().pages();
    for (shm::PageIndex page = 0; !over();) {
      page = pages.find({page, pages.pageCount() - page}, shm::PageState::missing);
      if (page >= pages.pageCount()) return;
      const shm::PageLocation at = segment().regions().locate(page);
      std::uint64_t advanced = 0;
      {
        const auto guard = segment().lock().lockShared(order_.slot);
        const std::uint64_t most = std::min(RUN, at.pagesBehind);
        std::uint64_t run = 0;
        while (run < most && pages.state(page + run) == shm::PageState::missing) run++;
        advanced = run == 0 ? 1 : poison({at.address, at.pageSize, run});
      }
      page += advanced;
      if (advanced == 0) pause();
    }
  }

  // Pages at the front of the run that need no more work.
  std::uint64_t poison(const Run& run) {
    if (run.pages == 0) return 0;
    const uffd::Result result = uffd::poison(order_.uffd.get(), run.address, run.pages * run.pageSize);
    switch (result.outcome) {
      case Outcome::done:
      case Outcome::partial:
        departed_.poisoned += result.bytes / run.pageSize;
        pause_ = FIRST_PAUSE;
        return result.bytes / run.pageSize;
      case Outcome::present:
        return 1;
      case Outcome::rangeGone:
        // A run that crosses from one mapping to the next is refused as a whole: page by page.
        return run.pages == 1 ? 1 : poison({run.address, run.pageSize, 1});
      case Outcome::refused:
      case Outcome::noMemory:
        return 0;
      case Outcome::targetGone:
        gone_ = true;
        return run.pages;
      case Outcome::sourceLost:
      case Outcome::unsupported:
        break;
    }
    departed_.unsupported = true;
    return run.pages;
  }

  // Attached by the first who asks, and checked then: once, however many regions there are.
  shm::Segment& segment() {
    if (!segment_.has_value()) segment_.emplace(shm::Segment::attach(order_.segment.get()));
    return *segment_;
  }

  bool over() const { return gone_ || departed_.unsupported; }

  // Outside of the section.
  void pause() {
    std::this_thread::sleep_for(pause_);
    pause_ = std::min(pause_ * 2, LONGEST_PAUSE);
  }

  DepartureOrder order_;
  std::optional<shm::Segment> segment_;
  Departed departed_;
  bool gone_ = false;
  microseconds pause_ = FIRST_PAUSE;
};

}  // namespace

kj::Promise<Departed> depart(DepartureOrder order) {
  auto departure = std::make_shared<Departure>(kj::mv(order));
  return inOwnThread("a target's memory cannot be let go", [departure] { departure->go(); })
      .then([departure] { return departure->departed(); });
}

kj::Promise<bool> anyRegistered(DepartureOrder order) {
  auto departure = std::make_shared<Departure>(kj::mv(order));
  auto any = std::make_shared<bool>(false);
  return inOwnThread("a target's memory cannot be looked at",
                     [departure, any] { *any = departure->anyRegistered(); })
      .then([any] { return *any; });
}

}  // namespace faultline::coordinator
