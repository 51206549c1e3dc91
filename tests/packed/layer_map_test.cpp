// The kinds of the pages of an image.

#include "packed/layer_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace faultline::test {
namespace {

using packed::Extent;
using packed::Kind;
using packed::LayerMap;
using packed::PAGE;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<Extent> partsOf(const LayerMap& map, std::uint64_t begin, std::uint64_t end) {
  std::vector<Extent> parts;
  map.forEach(begin, end, [&](const Extent& extent) { parts.push_back(extent); });
  return parts;
}

LayerMap mapOfThree() {
  LayerMap map;
  map.append(2 * PAGE, Kind::below);
  map.append(PAGE, Kind::data);
  map.append(PAGE, Kind::data);
  map.append(PAGE, Kind::zero);
  return map;
}

TEST(LayerMap, JoinsNeighboursOfOneKind) {
  const LayerMap map = mapOfThree();
  EXPECT_EQ(map.bytes(), 5 * PAGE);
  EXPECT_EQ(map.size(), 3u);
  EXPECT_THAT(partsOf(map, 0, 5 * PAGE),
              ElementsAre(Extent{0, 2 * PAGE, Kind::below}, Extent{2 * PAGE, 2 * PAGE, Kind::data},
                          Extent{4 * PAGE, PAGE, Kind::zero}));
  EXPECT_EQ(map.bytesOf(Kind::below), 2 * PAGE);
  EXPECT_EQ(map.bytesOf(Kind::data), 2 * PAGE);
  EXPECT_EQ(map.bytesOf(Kind::zero), PAGE);
}

TEST(LayerMap, GivesThePartsOfARange) {
  const LayerMap map = mapOfThree();
  EXPECT_THAT(partsOf(map, PAGE, 3 * PAGE),
              ElementsAre(Extent{PAGE, PAGE, Kind::below}, Extent{2 * PAGE, PAGE, Kind::data}));
  EXPECT_THAT(partsOf(map, 3 * PAGE, 3 * PAGE + 1), ElementsAre(Extent{3 * PAGE, 1, Kind::data}));
  EXPECT_THAT(partsOf(map, PAGE, PAGE), IsEmpty());
}

TEST(LayerMap, TellsWhetherARangeIsOfOneKind) {
  const LayerMap map = mapOfThree();
  EXPECT_TRUE(map.isAll(0, 2 * PAGE, Kind::below));
  EXPECT_FALSE(map.isAll(0, 2 * PAGE + 1, Kind::below));
  EXPECT_FALSE(map.isAll(0, PAGE, Kind::zero));
  EXPECT_TRUE(map.isAll(4 * PAGE, 5 * PAGE, Kind::zero));
}

TEST(LayerMap, FindsWhereAKindEnds) {
  const LayerMap map = mapOfThree();
  EXPECT_EQ(map.nextOtherThan(Kind::below, 0), 2 * PAGE);
  EXPECT_EQ(map.nextOtherThan(Kind::below, 3 * PAGE), 3 * PAGE);
  EXPECT_EQ(map.nextOtherThan(Kind::zero, 4 * PAGE + 1), 5 * PAGE);
  EXPECT_EQ(map.nextOtherThan(Kind::zero, 9 * PAGE), 5 * PAGE);
}

}  // namespace
}  // namespace faultline::test
