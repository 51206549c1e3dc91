// What of a restore is populated from its start: the working set that it was given, then all, where that was asked for.
#pragma once

#include <kj/async.h>
#include <kj/memory.h>

#include <functional>
#include <string>
#include <vector>

#include "coordinator/event_log.h"
#include "coordinator/fetcher.h"
#include "coordinator/population.h"
#include "coordinator/prefetch.h"
#include "coordinator/source_files.h"
#include "coordinator/working_set.h"
#include "shmtracker/segment.h"

namespace faultline::coordinator {

// Loop thread only.
class InitialPopulation {
 public:
  // Borrows all.
  InitialPopulation(Fetcher& fetcher, EventLog& log, const SourceFiles& source, const shm::Segment& segment,
                    Population& population);

  // Takes the working set to populate first. One that does not fit the restore is logged, and not used.
  void use(const WorkingSet& set);
  // Why the set is not used; empty: it is, or there is none. For people.
  const std::string& refused() const { return refused_; }

  // The working set goes first and alone: what comes of it is worth most before the target touches it. Once it is
  // populated, all is begun if `wanted` still. Resolves when nothing is left to begin; this must outlive that.
  kj::Promise<void> begin(std::function<bool()> wanted);

 private:
  Fetcher& fetcher_;
  EventLog& log_;
  const SourceFiles& source_;
  const shm::Segment& segment_;
  Population& population_;
  std::vector<shm::PageRange> pages_;  // of the working set
  std::vector<SourceRange> parts_;     // pages_ in the source
  kj::Own<Prefetch> prefetch_;         // asks for them while they are populated; null else
  std::string refused_;
};

}  // namespace faultline::coordinator
