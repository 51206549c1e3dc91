#include "coordinator/removed_ranges.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace faultline::coordinator {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(RemovedRanges, NameEachAddressOnce) {
  RemovedRanges ranges;
  EXPECT_THAT(ranges.merged(), IsEmpty());
  ranges.add(50, 60);
  ranges.add(10, 20);
  ranges.add(15, 30);  // overlaps
  ranges.add(30, 40);  // touches
  ranges.add(12, 13);  // lies within
  ranges.add(50, 60);  // again
  EXPECT_THAT(ranges.merged(), ElementsAre(AddressRange{10, 40}, AddressRange{50, 60}));
  ranges.clear();
  EXPECT_THAT(ranges.merged(), IsEmpty());
}

}  // namespace
}  // namespace faultline::coordinator
