#include "coordinator/prefetch.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "coordinator/own_thread.h"
#include "image/extent_walk.h"
#include "rpc/fetch_map.h"

namespace faultline::coordinator {

namespace {

constexpr std::uint64_t PAGE = rpc::FetchMap::PAGE;

struct Split {
  std::vector<SourceRange> own, below;
};

void add(std::vector<SourceRange>& ranges, std::uint64_t begin, std::uint64_t end) {
  if (begin >= end) return;
  if (!ranges.empty() && ranges.back().offset + ranges.back().size == begin)
    ranges.back().size += end - begin;
  else
    ranges.push_back({begin, end - begin});
}

Split splitByMap(const rpc::FetchMap& map, const std::vector<SourceRange>& ranges) {
  Split split;
  for (const SourceRange& range : ranges) {
    const std::uint64_t end = std::min(range.offset + range.size, map.bytes());
    for (std::uint64_t at = range.offset; at < end;) {
      const std::uint64_t next = std::min(at / PAGE * PAGE + PAGE, end);
      add(map.below(at / PAGE) ? split.below : split.own, at, next);
      at = next;
    }
  }
  return split;
}

// Parts that a file does not tell of are its own: they are read, and need not be fetched from below.
Split splitByHoles(int file, const std::vector<SourceRange>& ranges) {
  Split split;
  for (const SourceRange& range : ranges) {
    image::ExtentWalk walk(file, range.offset, range.offset + range.size);
    try {
      while (const auto extent = walk.next())
        add(extent->hole ? split.below : split.own, extent->offset, extent->end());
    } catch (const std::runtime_error&) {
      // The rest is taken for its own.
    }
  }
  return split;
}

}  // namespace

std::vector<std::vector<SourceRange>> ownedRanges(const SourceFiles& files,
                                                  const std::vector<SourceRange>& ranges) {
  std::vector<std::vector<SourceRange>> owned(files.size());
  std::vector<SourceRange> left = ranges;
  for (std::size_t i = 0; i < files.size(); i++) {
    const SourceFile& file = files[i];
    const bool lowest = i + 1 == files.size();
    if (lowest) {
      if (file.fetched != nullptr) owned[i] = std::move(left);
      break;
    }
    Split split =
        file.fetched == nullptr
            ? splitByHoles(file.get(), left)
            : splitByMap(rpc::FetchMap::attach(file.fetched->map.get(), rpc::FetchMap::Access::read), left);
    if (file.fetched != nullptr) owned[i] = std::move(split.own);
    left = std::move(split.below);
  }
  return owned;
}

Prefetch::Prefetch(Fetcher& fetcher, const SourceFiles& files, std::vector<SourceRange> ranges)
    : looking_(kj::READY_NOW) {
  if (std::none_of(files.begin(), files.end(),
                   [](const SourceFile& file) { return file.fetched != nullptr; }))
    return;
  struct Look {
    SourceFiles files;
    std::vector<SourceRange> ranges;
    std::vector<std::vector<SourceRange>> owned;
  };
  auto look = std::make_shared<Look>(Look{duplicates(files), std::move(ranges), {}});
  looking_ = kj::evalNow([&] {
               return inOwnThread("what a working set has to be fetched for cannot be looked at",
                                  [look] { look->owned = ownedRanges(look->files, look->ranges); });
             })
                 .then([look, &fetcher, wanted = wanted_] {
                   for (std::size_t i = 0; i < look->owned.size(); i++)
                     if (!look->owned[i].empty())
                       wanted->push_back(fetcher.prefetch(look->files[i].fetched, look->owned[i]));
                 })
                 .eagerlyEvaluate([](kj::Exception&& e) {
                   // Its pages come as they are asked for.
                   spdlog::warn("{}", e.getDescription().cStr());
                 });
}

}  // namespace faultline::coordinator
