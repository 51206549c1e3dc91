// Under which names a service manager stores what is kept, and what a successor makes of that.

#include "supervisor/stored_names.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/cli/supervised.h"

namespace faultline::test {
namespace {

using supervisor::StoredNames;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

kj::AutoCloseFd copyOf(int fd) {
  return kj::AutoCloseFd(dup(fd));
}

TEST(StoredNames, NothingIsNotedOfWhatIsStoredAsItself) {
  StoredNames names;
  EXPECT_EQ(names.placeFor("a"), "a");
  EXPECT_EQ(names.put("a", "a"), std::nullopt);
  EXPECT_EQ(names.remove("a"), "a");
  EXPECT_EQ(names.takeFresh(), -1);
}

TEST(StoredNames, ASuccessorKnowsEachNameOfAPlace) {
  StoredNames names;
  names.put("a", "a");
  names.put("b", "a");
  const int index = names.takeFresh();
  ASSERT_GE(index, 0);
  StoredNames next(copyOf(index));
  EXPECT_THAT(next.namesOf("a"), UnorderedElementsAre("a", "b"));
  EXPECT_THAT(next.namesOf("c"), ElementsAre("c"));

  EXPECT_EQ(names.remove("a"), std::nullopt);
  EXPECT_THAT(StoredNames(copyOf(index)).namesOf("a"), ElementsAre("b"));
  EXPECT_EQ(names.remove("b"), "a");
}

TEST(StoredNames, WhatIsKeptAnewHasAPlaceOfItsOwnUntilTheFormerIsGone) {
  StoredNames names;
  names.put("a", "a");
  const std::string place = names.placeFor("a");
  EXPECT_NE(place, "a");
  names.reserve(place);
  const int index = names.takeFresh();
  ASSERT_GE(index, 0);
  // Killed before it is said whose it is: the former counts.
  StoredNames early(copyOf(index));
  EXPECT_THAT(early.namesOf("a"), ElementsAre("a"));
  EXPECT_THAT(early.namesOf(place), IsEmpty());

  EXPECT_EQ(names.put("a", place), "a");
  StoredNames late(copyOf(index));
  EXPECT_THAT(late.namesOf("a"), IsEmpty());
  EXPECT_THAT(late.namesOf(place), ElementsAre("a"));
}

TEST(StoredNames, ALineThatWasCutShortCountsForNothing) {
  StoredNames names;
  names.put("a", "a");
  names.put("b", "a");
  const int index = names.takeFresh();
  ASSERT_EQ(pwrite(index, "c\ta", 3, static_cast<off_t>(names.bytes())), 3);
  StoredNames next(copyOf(index));
  EXPECT_THAT(next.namesOf("a"), UnorderedElementsAre("a", "b"));
  // And is not the beginning of the next one.
  next.found("a");
  next.put("d", "a");
  EXPECT_THAT(StoredNames(copyOf(next.takeFresh())).namesOf("a"), UnorderedElementsAre("a", "b", "d"));
}

TEST(StoredNames, AnIndexThatHasGrownIsMadeAnew) {
  StoredNames names;
  names.put("a", "a");
  names.put("b", "a");
  ASSERT_GE(names.takeFresh(), 0);
  int index = -1;
  for (unsigned i = 0; index < 0 && i < 1'000'000; i++) {
    names.remove("b");
    names.put("b", "a");
    index = names.takeFresh();
  }
  ASSERT_GE(index, 0);
  EXPECT_LT(names.bytes(), 1000u);
  EXPECT_THAT(StoredNames(copyOf(index)).namesOf("a"), UnorderedElementsAre("a", "b"));
}

}  // namespace
}  // namespace faultline::test
