// A target that tracks its writes (MISSING and WP registration, WP_ASYNC) keeps its dirty tracking over our
// copies.

#include "tests/race/race_test.h"

namespace faultline::test {
namespace {

class Tracking : public RaceTest {};
BOTH_PAGE_SIZES(Tracking);

TEST_P(Tracking, PagesThatComeInAreCleanAndWrittenOnesAreDirty) {
  Image image(imageBytes());
  image.zero(pageSize() * 2, pageSize());
  Server server(image);
  Target target(image, server.socket(), pageSize(), 1, FAULTLINE_TRACK_WRITES);
  for (std::uint64_t page = 0; page < 4; page++) EXPECT_TRUE(target.holdsImage(page)) << page;
  for (std::uint64_t page = 0; page < 4; page++) EXPECT_FALSE(target.written(page)) << page;
  target.write(1, 9);
  target.write(2, 9);
  target.write(5, 9);  // a write fault on a page that was missing
  EXPECT_FALSE(target.written(0));
  EXPECT_TRUE(target.written(1));
  EXPECT_TRUE(target.written(2));
  EXPECT_TRUE(target.written(5));
  EXPECT_EQ(target.address(5)[1], image.at(target.offset(5) + 1));
}

TEST_P(Tracking, BackgroundPopulationLeavesPagesClean) {
  Image image(imageBytes());
  image.hole(0, pageSize());
  Server server(image);
  Target target(image, server.socket(), pageSize(), 1, FAULTLINE_TRACK_WRITES);
  auto restore = server.restore();
  auto prefault = server.wait(restore.prefaultRequest().send()).getPrefault();
  server.wait(prefault.waitRequest().send());
  for (std::uint64_t page = 0; page < target.pages(); page++) {
    ASSERT_TRUE(target.holdsImage(page)) << page;
    ASSERT_FALSE(target.written(page)) << page;
  }
}

}  // namespace
}  // namespace faultline::test
