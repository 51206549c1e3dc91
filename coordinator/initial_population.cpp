#include "coordinator/initial_population.h"

#include <utility>

namespace faultline::coordinator {

InitialPopulation::InitialPopulation(Fetcher& fetcher, EventLog& log, const SourceFiles& source,
                                     const shm::Segment& segment, Population& population)
    : fetcher_(fetcher), log_(log), source_(source), segment_(segment), population_(population) {}

void InitialPopulation::use(const WorkingSet& set) {
  const auto regions = segment_.regions().regions();
  if (auto why = whyNotUsable(set, regions, segment_.facts().sourceBytes)) {
    refused_ = *why;
    log_.add("restore " + segment_.name() + ": the working set is not used: " + *why, segment_.name());
    return;
  }
  pages_ = pagesOf(set, regions);
  parts_ = set.ranges;
}

kj::Promise<void> InitialPopulation::begin(std::function<bool()> wanted) {
  if (pages_.empty()) {
    if (segment_.header().prefaultAll.load() == shm::YES) population_.begin({});
    return kj::READY_NOW;
  }
  prefetch_ = kj::heap<Prefetch>(fetcher_, source_, std::exchange(parts_, {}));
  auto job = population_.begin(std::exchange(pages_, {}));
  return job->whenFinished().then([this, job, wanted = std::move(wanted)]() -> kj::Promise<void> {
    prefetch_ = nullptr;
    return wanted() ? begin(wanted) : kj::Promise<void>(kj::READY_NOW);
  });
}

}  // namespace faultline::coordinator
