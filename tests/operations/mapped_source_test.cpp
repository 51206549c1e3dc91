// The mappings that a shard has of its sources, as the kernel counts them.

#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

#include "tests/support/image.h"
#include "tests/support/page_sizes.h"
#include "tests/support/server.h"
#include "tests/support/target.h"

namespace faultline::test {
namespace {

constexpr std::uint64_t WINDOW = 16;  // pages that are mapped together

// Bytes of `file` in the page table of `process` (proc_pid_smaps(5)).
std::uint64_t mappedOf(const std::string& file, pid_t process) {
  std::istringstream smaps(textOf("/proc/" + std::to_string(process) + "/smaps"));
  std::uint64_t bytes = 0;
  bool ours = false;
  for (std::string line; std::getline(smaps, line);) {
    if (line.find('-') < line.find(' '))
      ours = line.ends_with(file);  // a mapping's first line: its addresses
    if (ours && line.starts_with("Rss:")) bytes += std::stoull(line.substr(4)) << 10;
  }
  return bytes;
}

// The last page of every other window is zero, so nothing is copied for it.
TEST(MappedSource, GoesWithTheLastOfItsPages) {
  Image image(16 * WINDOW * SMALL);
  for (std::uint64_t last = 2 * WINDOW - 1; last < 16 * WINDOW; last += 2 * WINDOW)
    image.zero(last * SMALL, SMALL);
  Server server(image, {.shards = 1});
  Target target(image, server.socket(), SMALL);
  server.restore();
  const pid_t shard = server.shardPid(0);
  std::uint64_t most = 0;
  for (std::uint64_t window = 0; window < 16; window++) {
    const std::uint64_t last = (window + 1) * WINDOW - 1;
    for (std::uint64_t page = last + 1 - WINDOW; page < last; page++) ASSERT_TRUE(target.holdsImage(page));
    most = std::max(most, mappedOf(image.path(), shard));
    ASSERT_TRUE(target.holdsImage(last));
    await([&] { return mappedOf(image.path(), shard) == 0; });
  }
  EXPECT_GT(most, 0u) << "nothing was mapped";
}

}  // namespace
}  // namespace faultline::test
