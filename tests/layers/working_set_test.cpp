// The identity of a stack: a working set that was recorded over one is refused over another.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "cli/errors.h"
#include "cli/snapshot_identity.h"
#include "cli/working_set_file.h"
#include "tests/support/stack.h"

namespace faultline::cli {
namespace {

using test::Stack;
using testing::HasSubstr;

constexpr std::uint64_t PAGE = 4096, PAGES = 2048;

Stack stackOf(std::uint64_t upperPage = 1000, std::uint64_t lowerPage = 50) {
  Stack stack(PAGES * PAGE, 3);
  stack.data(1, lowerPage, 3);
  stack.data(0, upperPage, 2);
  return stack;
}

SnapshotIdentity identityOf(const std::vector<std::string>& paths) {
  return cli::identityOf(openStack(paths).files);
}

TEST(StackIdentity, IsThatOfTheFileWhereThereIsOne) {
  const test::Image image(PAGES * PAGE);
  EXPECT_EQ(identityOf({image.path()}), cli::identityOf(openMemory(image.path()).get()));
}

TEST(StackIdentity, KnowsEachLayer) {
  const Stack stack = stackOf();
  const SnapshotIdentity identity = identityOf(stack.paths());
  EXPECT_EQ(identity.bytes, PAGES * PAGE);
  EXPECT_EQ(identityOf(stackOf().paths()), identity) << "the same bytes in other files";
  EXPECT_NE(identityOf(stackOf(1001).paths()), identity) << "other data in the top layer";
  EXPECT_NE(identityOf(stackOf(1000, 51).paths()), identity) << "in the middle one";
  Stack other = stackOf();
  other.top().fill(1000 * PAGE + 17, 1, 0x11);
  EXPECT_NE(identityOf(other.paths()), identity) << "a byte of the top layer";
  Stack base = stackOf();
  base.lowest().fill(0, 1, 0x11);
  EXPECT_NE(identityOf(base.paths()), identity) << "a byte of the lowest";
  auto swapped = stack.paths();
  std::swap(swapped[0], swapped[1]);
  EXPECT_NE(identityOf(swapped), identity) << "the same layers in another order";
  EXPECT_NE(identityOf({stack.paths()[1], stack.paths()[2]}), identity) << "without the top one";
}

TEST(StackIdentity, OfAnotherStackIsRefusedByName) {
  const Stack stack = stackOf(), other = stackOf(2000);
  const std::string path = stack.shown().directory() + "/set";
  const WorkingSet set{PAGE, identityOf(stack.paths()), 0, {{3 * PAGE, PAGE}}};
  writeWorkingSet(path, set);
  EXPECT_EQ(readWorkingSetFor(path, openStack(stack.paths())), set);
  try {
    readWorkingSetFor(path, openStack(other.paths()));
    ADD_FAILURE() << "not refused";
  } catch (const CommandError& error) {
    EXPECT_EQ(error.code, USAGE);
    EXPECT_THAT(error.what(), HasSubstr("another snapshot"));
    EXPECT_THAT(error.what(), HasSubstr(openStack(other.paths()).name()));
  }
}

}  // namespace
}  // namespace faultline::cli
