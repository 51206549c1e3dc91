// A source that cannot give a page: the target gets an error on that page and on no other, never wrong bytes.

#include "tests/recovery/recovery_test.h"

namespace faultline::test {
namespace {

TEST(SourceFailure, ATruncatedFilePoisonsThePagesThatAreGone) {
  Image image(PAGES * SMALL);
  Server server(image);
  Target target(image, server.socket(), SMALL);
  server.restore();
  EXPECT_TRUE(target.holdsImage(0));
  image.truncate(PAGES / 2 * SMALL);
  EXPECT_EQ(target.touch(PAGES - 1), Touch::sigbus);
  EXPECT_EQ(target.touch(PAGES / 2), Touch::sigbus);
  EXPECT_TRUE(target.holdsImage(PAGES / 2 - 1));
  await([&] {
    for (auto event : server.status().getEvents())
      if (std::string(event.getText().cStr()).find("truncated") != std::string::npos) return true;
    return false;
  });
  // Given back, a poisoned page is a page of zeros like any other.
  target.giveBack(PAGES - 1);
  EXPECT_TRUE(target.isAll(PAGES - 1, 0));
}

TEST(SourceFailure, ABackgroundPopulationOfATruncatedFileGoesOn) {
  Image image(PAGES * SMALL);
  Server server(image);
  Target target(image, server.socket(), SMALL);
  auto restore = server.restore();
  image.truncate(PAGES / 2 * SMALL);
  auto prefault = server.wait(restore.prefaultRequest().send()).getPrefault();
  server.wait(prefault.waitRequest().send());
  for (std::uint64_t page = 0; page < PAGES / 2; page++) ASSERT_TRUE(target.inMemory(page)) << page;
  EXPECT_TRUE(target.holdsImage(0));
  EXPECT_EQ(target.touch(PAGES - 1), Touch::sigbus);
}

}  // namespace
}  // namespace faultline::test
