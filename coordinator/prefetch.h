// The part of a working set that has to be fetched: asked of the fetcher in the set's order, before and while shards copy.
#pragma once

#include <kj/async.h>

#include <memory>
#include <vector>

#include "coordinator/fetcher.h"
#include "coordinator/source_files.h"
#include "coordinator/working_set.h"

namespace faultline::coordinator {

// The parts of `ranges` that each of the layers has, in their order; none of a layer that is a plain file, whose pages shards
// read themselves. `files`: the top layer first, those that are fetched opened. Waits for the files.
std::vector<std::vector<SourceRange>> ownedRanges(const SourceFiles& files,
                                                  const std::vector<SourceRange>& ranges);

// Goes on, whatever fetchers die, until it is destroyed. Loop thread only.
class Prefetch {
 public:
  Prefetch(Fetcher& fetcher, const SourceFiles& files, std::vector<SourceRange> ranges);

 private:
  std::shared_ptr<std::vector<Fetcher::WantedRef>> wanted_ =
      std::make_shared<std::vector<Fetcher::WantedRef>>();
  kj::Promise<void> looking_;  // at who has what
};

}  // namespace faultline::coordinator
