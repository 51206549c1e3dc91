// A layer that does not answer delays its own pages, and no other layer's.

#include <gtest/gtest.h>

#include "tests/recovery/recovery_test.h"
#include "tests/support/fuse_file.h"
#include "tests/support/stack.h"

namespace faultline::test {
namespace {

class StalledLayer : public BothPageSizes {
 protected:
  void SetUp() override {
    BothPageSizes::SetUp();
    if (const std::string why = FuseFile::whyNot(); !why.empty()) GTEST_SKIP() << why;
  }
};
BOTH_PAGE_SIZES(StalledLayer);

// More of its pages are waited for than a layer has threads, or places for 2 MiB pages.
TEST_P(StalledLayer, DelaysItsOwnPagesAlone) {
  constexpr std::uint64_t PIECE = 512;  // pages of 4 KiB
  Stack stack(imageBytes(), 2);
  const std::uint64_t smallPages = imageBytes() / SMALL;
  stack.data(0, 0, 2 * PIECE);
  stack.data(0, smallPages - PIECE, 10);
  FuseFile base(stack.lowest());
  Server server(stack.shown(), {.shards = 1, .more = {"--over", base.path()}, .memory = stack.top().path()});
  Target target(stack.shown(), server.socket(), pageSize());
  server.restore();
  base.stall();
  const std::uint64_t first = 2 * PIECE * SMALL / pageSize();
  const std::uint64_t count = pageSize() == SMALL ? 40 : 10, step = pageSize() == SMALL ? 12 : 1;
  std::vector<std::future<unsigned char>> slow;
  for (std::uint64_t i = 0; i < count; i++) slow.push_back(target.readLater(first + i * step));
  await([&] { return base.waiting() > 0 && target.queued().total == count; });
  for (std::uint64_t page = 0; page < first; page++) ASSERT_TRUE(target.holdsImage(page)) << page;
  const std::uint64_t mixed = pageSize() == SMALL ? 10 : 0;  // in a piece of which both layers have pages
  for (std::uint64_t page = smallPages - PIECE; page < smallPages - PIECE + mixed; page++)
    ASSERT_TRUE(target.holdsImage(page)) << page;
  base.goOn();
  for (std::uint64_t i = 0; i < count; i++)
    EXPECT_EQ(slow[i].get(), stack.shown().at((first + i * step) * pageSize())) << i;
  expectContent(target, {});
}

}  // namespace
}  // namespace faultline::test
