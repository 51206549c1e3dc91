// Large runs of pages that a target has given up.

#include "coordinator/removed_runs.h"

#include <gmock/gmock.h>

#include "tests/shmtracker/marked_pages.h"

namespace faultline::coordinator {
namespace {

using shm::PageRange;
using testing::ElementsAre;
using testing::IsEmpty;

constexpr std::uint64_t LEAST = 100;

class Runs : public shm::MarkedPages {
 protected:
  void give(PageRange pages) {
    remove(pages);
    runs_.add(pages);
  }
  RemovedRuns runs_{pages_, LEAST};
};

TEST_F(Runs, AreLargeOnesAlone) {
  give({10, LEAST - 1});
  EXPECT_TRUE(runs_.empty());
  give({300, LEAST});
  give({500, 3 * LEAST});
  EXPECT_THAT(runs_.take(), ElementsAre(PageRange{300, LEAST}, PageRange{500, 3 * LEAST}));
  EXPECT_TRUE(runs_.empty());
}

TEST_F(Runs, GrowPageByPage) {
  for (std::uint64_t page = 10; page < 10 + LEAST - 1; page++) give({page, 1});
  EXPECT_TRUE(runs_.empty());
  give({10 + LEAST - 1, 1});
  give({10 + LEAST, 1});
  EXPECT_THAT(runs_.take(), ElementsAre(PageRange{10, LEAST + 1}));
}

TEST_F(Runs, GrowTogetherFromBothSides) {
  give({0, 60});
  give({61, 60});
  EXPECT_TRUE(runs_.empty());
  give({60, 1});
  EXPECT_THAT(runs_.take(), ElementsAre(PageRange{0, 121}));
}

// What has been taken back is in use, and what is registered no more is done.
TEST_F(Runs, EndAtWhatIsNotRemovedNow) {
  give({0, LEAST - 1});
  fault({40, 1});
  give({LEAST - 1, 30});
  EXPECT_TRUE(runs_.empty());
  release({600, 10});
  give({610, LEAST - 1});
  EXPECT_TRUE(runs_.empty());
  gone(899);
  give({900, COUNT - 900});
  EXPECT_THAT(runs_.take(), ElementsAre(PageRange{900, COUNT - 900}));
}

TEST_F(Runs, AreTakenInOrderAndJoined) {
  give({700, LEAST});
  give({100, LEAST});
  give({200, LEAST});
  give({150, LEAST});
  EXPECT_THAT(runs_.take(), ElementsAre(PageRange{100, 2 * LEAST}, PageRange{700, LEAST}));
}

TEST_F(Runs, AreFoundByASuccessor) {
  remove({0, LEAST});
  remove({200, LEAST - 1});
  remove({350, 200});
  remove({COUNT - LEAST, LEAST});
  shm::PageIndex from = 0;
  for (unsigned steps = 0; from < COUNT; steps++) {
    ASSERT_LT(steps, 20u);
    from = runs_.look(from, 64);
  }
  EXPECT_THAT(runs_.take(),
              ElementsAre(PageRange{0, LEAST}, PageRange{350, 200}, PageRange{COUNT - LEAST, LEAST}));
  EXPECT_EQ(runs_.look(0, 0), 0u);
  EXPECT_THAT(runs_.take(), IsEmpty());
}

TEST_F(Runs, AreAtMostSoMany) {
  // Two by turns, so that none is the one before it.
  remove({0, COUNT});
  for (std::size_t i = 0; i < RemovedRuns::MOST + 10; i++) runs_.add({i % 2 == 0 ? 0 : COUNT - LEAST, LEAST});
  EXPECT_THAT(runs_.take(), ElementsAre(PageRange{0, 2 * LEAST}, PageRange{COUNT - 2 * LEAST, 2 * LEAST}));
}

}  // namespace
}  // namespace faultline::coordinator
