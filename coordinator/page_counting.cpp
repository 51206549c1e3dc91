#include "coordinator/page_counting.h"

#include <algorithm>
#include <memory>
#include <utility>

namespace faultline::coordinator {

namespace {

// A range has a price of its own, in pages.
constexpr std::uint64_t RANGE_PRICE = 64;

class Counting {
 public:
  Counting(kj::Timer& timer, const shm::Segment& segment, std::vector<shm::PageRange> ranges)
      : timer_(timer), segment_(segment), left_(std::move(ranges)) {
    if (left_.empty()) left_.push_back({0, segment.pages().pageCount()});
    std::reverse(left_.begin(), left_.end());
  }

  kj::Promise<shm::PageCounts> run() {
    for (std::uint64_t budget = COUNT_STEP; !left_.empty();) {
      if (budget == 0) return timer_.afterDelay(0 * kj::SECONDS).then([this] { return run(); });
      shm::PageRange& range = left_.back();
      const shm::PageRange piece{range.first, std::min(range.count, budget)};
      counts_ += segment_.counts(piece);
      range = {piece.end(), range.count - piece.count};
      if (range.count == 0) left_.pop_back();
      budget -= std::min(budget, piece.count + RANGE_PRICE);
    }
    return counts_;
  }

 private:
  kj::Timer& timer_;
  const shm::Segment& segment_;
  std::vector<shm::PageRange> left_;  // the next one last
  shm::PageCounts counts_;
};

}  // namespace

kj::Promise<shm::PageCounts> countPages(kj::Timer& timer, const shm::Segment& segment,
                                        std::vector<shm::PageRange> ranges) {
  auto counting = kj::heap<Counting>(timer, segment, std::move(ranges));
  auto counted = counting->run();
  return counted.attach(kj::mv(counting));
}

}  // namespace faultline::coordinator
