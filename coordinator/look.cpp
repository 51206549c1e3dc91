#include "coordinator/look.h"

#include <kj/io.h>

#include <algorithm>
#include <utility>

#include "coordinator/own_thread.h"
#include "process/duplicate.h"
#include "uffd/registration.h"

namespace faultline::coordinator {

using uffd::Registration;

namespace {

// The kernel's answer for no place in particular: it asks first whether the memory is there (fs/userfaultfd.c).
Registration askAnywhere(int uffd) {
  constexpr std::uint64_t ADDRESS = 1ull << 30;  // any that a process may have
  return uffd::registrationOf(uffd, ADDRESS, shm::SMALL_PAGE);
}

}  // namespace

// Pages that were registered when they were last looked at. Used by one look at a time.
class Look::Memory {
 public:
  explicit Memory(std::span<const shm::RegionEntry> regions) {
    for (const shm::RegionEntry& region : regions)
      asked_.push_back({region.base, region.pageShift, {region.firstPage, region.size >> region.pageShift}});
  }

  // `ranges`: in order.
  void leaveOut(const std::vector<shm::PageRange>& ranges) {
    if (ranges.empty()) return;
    leaveOut(ranges, asked_);
    std::reverse(ahead_.begin(), ahead_.end());
    leaveOut(ranges, ahead_);
    std::reverse(ahead_.begin(), ahead_.end());
    step_ = WHOLE;
  }

  Sight look(int uffd) {
    Sight sight;
    if (ahead_.empty()) {
      ahead_.assign(asked_.rbegin(), asked_.rend());
      asked_.clear();
    }
    std::uint64_t found = 0;
    for (unsigned questions = 0; !ahead_.empty();) {
      if (questions == QUESTIONS || found == GONE) {
        sight.more = true;
        break;
      }
      Run& run = ahead_.back();
      const std::uint64_t count = std::min(step_, run.pages.count);
      const auto answer = uffd::registrationOf(uffd, run.address, count << run.pageShift);
      if (answer == Registration::targetGone) {
        sight.targetGone = true;
        break;
      }
      if (answer == Registration::unknown) break;
      if (answer == Registration::notRegistered && count > 1) {
        questions++;
        step_ = count / 2;
      } else if (answer == Registration::notRegistered) {
        found++;
        add(sight.gone, run.pages.first);
        advance(1);
      } else {
        questions++;
        keep({run.address, run.pageShift, {run.pages.first, count}});
        advance(count);
        step_ = std::max(step_, std::min(count, WHOLE / 2) * 2);
      }
    }
    sight.nothingLeft = ahead_.empty() && asked_.empty();
    if (sight.nothingLeft) sight.targetGone = askAnywhere(uffd) == Registration::targetGone;
    return sight;
  }

 private:
  // Pages of one region.
  struct Run {
    std::uint64_t address;
    std::uint32_t pageShift;
    shm::PageRange pages;
  };
  static constexpr std::uint64_t WHOLE = 1ull << 40;  // pages; more than any region has

  static void leaveOut(const std::vector<shm::PageRange>& ranges, std::vector<Run>& runs) {
    std::vector<Run> left;
    auto keep = [&](const Run& run, shm::PageIndex from, shm::PageIndex to) {
      if (from < to)
        left.push_back(
            {run.address + ((from - run.pages.first) << run.pageShift), run.pageShift, {from, to - from}});
    };
    for (const Run& run : runs) {
      shm::PageIndex from = run.pages.first;
      auto range =
          std::lower_bound(ranges.begin(), ranges.end(), from,
                           [](const shm::PageRange& r, shm::PageIndex page) { return r.end() <= page; });
      for (; range != ranges.end() && range->first < run.pages.end(); ++range) {
        keep(run, from, range->first);
        from = std::max(from, range->end());
      }
      keep(run, from, run.pages.end());
    }
    runs = std::move(left);
  }

  static void add(std::vector<shm::PageRange>& ranges, shm::PageIndex page) {
    if (!ranges.empty() && ranges.back().end() == page)
      ranges.back().count++;
    else
      ranges.push_back({page, 1});
  }

  void keep(const Run& run) {
    if (!asked_.empty()) {
      Run& last = asked_.back();
      if (last.address + (last.pages.count << last.pageShift) == run.address &&
          last.pages.end() == run.pages.first) {
        last.pages.count += run.pages.count;
        return;
      }
    }
    asked_.push_back(run);
  }

  void advance(std::uint64_t count) {
    Run& run = ahead_.back();
    run.address += count << run.pageShift;
    run.pages = {run.pages.first + count, run.pages.count - count};
    if (run.pages.count > 0) return;
    ahead_.pop_back();
    step_ = WHOLE;
  }

  std::vector<Run> ahead_;      // in this round, the next one last
  std::vector<Run> asked_;      // in this round, and registered
  std::uint64_t step_ = WHOLE;  // pages that are asked for at once
};

Look::Look(std::span<const shm::RegionEntry> regions) : memory_(std::make_shared<Memory>(regions)) {}

kj::Promise<Sight> Look::look(int uffd) {
  auto own = std::make_shared<kj::AutoCloseFd>(process::duplicate(uffd));
  auto sight = std::make_shared<Sight>();
  std::sort(leftOut_.begin(), leftOut_.end(),
            [](const shm::PageRange& a, const shm::PageRange& b) { return a.first < b.first; });
  return inOwnThread("a target's memory cannot be looked at",
                     [memory = memory_, own, sight, leftOut = std::exchange(leftOut_, {})] {
                       memory->leaveOut(leftOut);
                       *sight = memory->look(own->get());
                     })
      .then([sight] { return std::move(*sight); });
}

void Look::leaveOut(const std::vector<shm::PageRange>& pages) {
  leftOut_.insert(leftOut_.end(), pages.begin(), pages.end());
}

kj::Promise<Presence> lookWhetherThere(int uffd) {
  auto own = std::make_shared<kj::AutoCloseFd>(process::duplicate(uffd));
  auto answer = std::make_shared<Registration>(Registration::unknown);
  auto looked = lookInOwnThread([own, answer] { *answer = askAnywhere(own->get()); });
  return looked.then([answer] {
    return *answer == Registration::targetGone ? Presence::gone
           : *answer == Registration::unknown  ? Presence::unknown
                                               : Presence::there;
  });
}

}  // namespace faultline::coordinator
