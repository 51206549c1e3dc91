#include "shard/source/content_run.h"

#include "shard/source/bus_guard.h"

namespace faultline::shard {

namespace {

constexpr std::uint64_t PAGE = 4096;
constexpr std::uint64_t LOOK_AHEAD = 8;  // pages

ContentRun::Kind kindOf(const char* page) {
  switch (contentOf(page, PAGE)) {
    case SourceContent::zero:
      return ContentRun::Kind::zero;
    case SourceContent::data:
      return ContentRun::Kind::bytes;
    case SourceContent::lost:
      break;
  }
  return ContentRun::Kind::lost;
}

}  // namespace

ContentRun contentRun(const char* bytes, std::uint64_t pages) {
  ContentRun run;
  for (; run.pages < pages; run.pages++) {
    // Looking costs a cache miss a page; asked for in time, they overlap. A prefetch never faults.
    __builtin_prefetch(bytes + (run.pages + LOOK_AHEAD) * PAGE);
    const ContentRun::Kind here = kindOf(bytes + run.pages * PAGE);
    if (run.pages == 0) run.kind = here;
    if (here != run.kind || here == ContentRun::Kind::lost) break;
  }
  return run;
}

}  // namespace faultline::shard
