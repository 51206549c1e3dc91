#include "coordinator/releasable_memory.h"

#include <algorithm>
#include <fstream>
#include <utility>

#include "failpoints/mistakes.h"
#include "process/duplicate.h"
#include "process/file_identity.h"
#include "process/pid_of.h"
#include "rpc/fetch_map.h"

namespace faultline::coordinator {

namespace {

// The chunks of a cache that are zero, where it is the lowest layer; else those that are all the layer's below.
std::vector<image::ByteRange> zeroInCache(int cacheMap, bool lowest) {
  using rpc::FetchMap;
  const FetchMap map = FetchMap::attach(cacheMap, FetchMap::Access::read);
  std::vector<image::ByteRange> zero;
  if (!map.ready() || map.broken() != FetchMap::Broken::no) return zero;
  constexpr std::uint64_t PAGES = FetchMap::CHUNK / FetchMap::PAGE;
  for (std::uint64_t chunk = 0; chunk < map.chunks(); chunk++) {
    if (map.state(chunk) != FetchMap::State::zero) continue;
    const std::uint64_t begin = chunk * FetchMap::CHUNK;
    const std::uint64_t size = std::min(FetchMap::CHUNK, map.bytes() - begin);
    bool right = true;
    for (std::uint64_t page = chunk * PAGES; page * FetchMap::PAGE < begin + size; page++)
      right = right && map.below(page) == !lowest;
    if (!right) continue;
    if (!zero.empty() && zero.back().end() == begin)
      zero.back().size += size;
    else
      zero.push_back({begin, size});
  }
  return zero;
}

// The limit on mappings that a process may have; 0 where it is not told.
std::uint64_t mostMappings() {
  std::uint64_t most = 0;
  std::ifstream("/proc/sys/vm/max_map_count") >> most;
  return most;
}

std::uint64_t roundUp(std::uint64_t value) {
  return (value + shm::SMALL_PAGE - 1) / shm::SMALL_PAGE * shm::SMALL_PAGE;
}

}  // namespace

std::uint64_t mostReleased(std::uint64_t mappings, std::uint64_t mostMappings, std::uint64_t before) {
  const std::uint64_t room = mostMappings / 2 > mappings ? (mostMappings / 2 - mappings) / 2 : 0;
  return std::min(room, MOST_RELEASED - std::min(before, MOST_RELEASED));
}

std::vector<ReleasableRange> releasableIn(std::span<const shm::PageRange> zero,
                                          std::span<const shm::RegionEntry> regions,
                                          std::span<const Mapping> mappings) {
  std::vector<ReleasableRange> ranges;
  auto add = [&](shm::PageIndex first, std::uint64_t from, std::uint64_t to) {
    for (const Mapping& mapping : mappings) {
      if (mapping.end <= from || mapping.shared || !mapping.anonymous) continue;
      if (mapping.start >= to) break;
      const std::uint64_t begin = std::max(from, mapping.start), end = std::min(to, mapping.end);
      if (end - begin < LEAST_RELEASED) continue;
      ranges.push_back(
          {begin, end - begin, {first + (begin - from) / shm::SMALL_PAGE, (end - begin) / shm::SMALL_PAGE}});
    }
  };
  for (const shm::RegionEntry& region : regions) {
    if (std::uint64_t{1} << region.pageShift != shm::SMALL_PAGE) continue;
    const shm::PageIndex regionEnd = region.firstPage + region.size / shm::SMALL_PAGE;
    for (const shm::PageRange& pages : zero) {
      const shm::PageIndex first = std::max(pages.first, region.firstPage);
      const shm::PageIndex end = std::min(pages.end(), regionEnd);
      const auto addressOf = [&](shm::PageIndex page) {
        return region.base + (page - region.firstPage) * shm::SMALL_PAGE;
      };
      if (first < end) add(first, addressOf(first), addressOf(end));
    }
  }
  std::stable_sort(ranges.begin(), ranges.end(),
                   [](const ReleasableRange& a, const ReleasableRange& b) { return a.size > b.size; });
  return ranges;
}

std::vector<shm::PageRange> pagesOf(std::span<const image::ByteRange> source,
                                    std::span<const shm::RegionEntry> regions) {
  std::vector<shm::PageRange> pages;
  for (const shm::RegionEntry& region : regions) {
    if (std::uint64_t{1} << region.pageShift != shm::SMALL_PAGE) continue;
    for (const image::ByteRange& range : source) {
      const std::uint64_t begin = roundUp(std::max(range.offset, region.offset));
      const std::uint64_t end =
          std::min(range.end(), region.offset + region.size) / shm::SMALL_PAGE * shm::SMALL_PAGE;
      if (begin < end)
        pages.push_back(
            {region.firstPage + (begin - region.offset) / shm::SMALL_PAGE, (end - begin) / shm::SMALL_PAGE});
    }
  }
  return pages;
}

std::vector<LayerToLookAt> layersToLookAt(const SourceFiles& files, const std::vector<SourceLayer>& were) {
  std::vector<LayerToLookAt> layers;
  for (std::size_t i = 0; i < files.size(); i++) {
    if (files[i].fetched != nullptr)
      layers.push_back({{}, {}, process::duplicate(files[i].fetched->map.get())});
    else
      layers.push_back({process::duplicate(files[i].get()),
                        were.empty() ? process::identityOf(files[i].get()) : were[i].identity});
  }
  return layers;
}

std::vector<image::ByteRange> zeroForGood(std::span<const LayerToLookAt> layers, std::uint64_t bytes) {
  std::vector<image::ByteRange> zero{{0, bytes}};
  if (failpoints::made(failpoints::Mistake::releasesData)) return zero;
  for (const LayerToLookAt& layer : layers) {
    const bool lowest = &layer == &layers.back();
    zero = image::inBoth(zero,
                         layer.file.get() < 0 ? zeroInCache(layer.cacheMap.get(), lowest)
                                              : image::largeHoles(layer.file.get(), bytes, LEAST_RELEASED),
                         LEAST_RELEASED);
    if (zero.empty()) break;
  }
  // The ranges found are of the restore's snapshot only if nothing has changed by now.
  for (const LayerToLookAt& layer : layers)
    if (layer.file.get() >= 0 &&
        process::whatChanged(layer.was, process::identityOf(layer.file.get())).has_value())
      return {};
  return zero;
}

ReleasableMemory releasableMemory(std::span<const LayerToLookAt> layers, std::uint64_t bytes,
                                  std::span<const shm::RegionEntry> regions, int pidfd,
                                  std::uint64_t before) {
  const auto zero = zeroForGood(layers, bytes);
  return zero.empty() ? ReleasableMemory{} : releasableMemory(pagesOf(zero, regions), regions, pidfd, before);
}

ReleasableMemory releasableMemory(std::span<const shm::PageRange> zero,
                                  std::span<const shm::RegionEntry> regions, int pidfd,
                                  std::uint64_t before) {
  const std::vector<Mapping> mappings = mappingsOf(process::pidOf(pidfd));
  return {releasableIn(zero, regions, mappings), mostReleased(mappings.size(), mostMappings(), before)};
}

}  // namespace faultline::coordinator
