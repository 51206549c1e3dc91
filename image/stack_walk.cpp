#include "image/stack_walk.h"

namespace faultline::image {

namespace {

void walk(const std::vector<StackFile>& files, std::size_t level, const Extent& range,
          const std::function<void(const StackFile&, const Extent&)>& data) {
  if (level == files.size()) return;
  ExtentWalk extents(files[level].file, range.offset, range.end());
  while (const auto extent = extents.next()) {
    if (extent->hole)
      walk(files, level + 1, *extent, data);
    else
      data(files[level], *extent);
  }
}

}  // namespace

void walkStack(const std::vector<StackFile>& files, std::uint64_t bytes,
               const std::function<void(const StackFile&, const Extent&)>& data) {
  walk(files, 0, {0, bytes, true}, data);
}

}  // namespace faultline::image
