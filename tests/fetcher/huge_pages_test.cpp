// Packed images with pages of 2 MiB, each of which is 32 frames: of a page there is all or nothing.

#include <gtest/gtest.h>

#include "tests/fetcher/fetched_target.h"
#include "tests/support/fuse_file.h"

namespace faultline::test {
namespace {

class HugePacked : public testing::Test {
 protected:
  void SetUp() override {
    if (!hugePagesAvailable(64))
      GTEST_SKIP() << "no 64 free huge pages; echo 256 > /proc/sys/vm/nr_hugepages";
  }

  Image image_{8 * HUGE};
  const PackedSource source_{image_};
};

TEST_F(HugePacked, ADamagedFrameCostsItsPageAlone) {
  source_.damage(20);  // in the first frame
  Server server(image_, serving(source_));
  Target target(image_, server.socket(), HUGE);
  server.restore();
  EXPECT_EQ(target.touch(0), Touch::sigbus);
  for (std::uint64_t page = 1; page < target.pages(); page++) ASSERT_TRUE(target.holdsImage(page)) << page;
}

TEST_F(HugePacked, ADamagedFrameOfAPopulationCostsItsPageAlone) {
  source_.damage(20);
  Server server(image_, serving(source_));
  Target target(image_, server.socket(), HUGE);
  auto restore = server.restore();
  auto prefault = server.wait(restore.prefaultRequest().send()).getPrefault();
  server.wait(prefault.waitRequest().send());
  EXPECT_EQ(target.touch(0), Touch::sigbus);
  for (std::uint64_t page = 1; page < target.pages(); page++) ASSERT_TRUE(target.inMemory(page)) << page;
  for (std::uint64_t page = 1; page < target.pages(); page++) ASSERT_TRUE(target.holdsImage(page)) << page;
}

// With the reads of several pages on their way.
TEST_F(HugePacked, EveryProcessMayDie) {
  if (const std::string why = FuseFile::whyNot(); !why.empty()) GTEST_SKIP() << why;
  const auto file = fileAsImage(source_);
  FuseFile fuse(*file, FuseFile::Cache::none);
  Server server(image_, serving(fuse.path()));
  Target target(image_, server.socket(), HUGE);
  server.restore();
  EXPECT_TRUE(target.holdsImage(0));
  fuse.stall();
  Reads waiting;
  for (std::uint64_t page = 1; page < 5; page++) waiting.push_back(target.readLater(page));
  await([&] { return fuse.waiting() > 0 && target.queued().total >= waiting.size(); });
  killAll(server);
  fuse.goOn();
  finish(waiting);
  expectContent(target, {});
}

}  // namespace
}  // namespace faultline::test
