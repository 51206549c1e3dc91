// A source that cannot give a page: the target gets an error on that page and on no other, never wrong bytes.

#include <cerrno>
#include <cstring>

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
  await([&] { return !server.eventWith({"truncated"}).empty(); });
  // Given back, a poisoned page is a page of zeros like any other.
  target.giveBack(PAGES - 1);
  EXPECT_TRUE(target.isAll(PAGES - 1, 0));
}

// What its target has given back meanwhile is owed zeros and not the source's bytes: nothing is lost.
TEST(SourceFailure, APageGivenBackMeanwhileIsNotLost) {
  Image image(PAGES * SMALL);
  Server server(image);
  Target target(image, server.socket(), SMALL);
  server.restore();
  shm::Segment segment = server.segment();
  auto barrier = server.barrier(PAGES - 1, rpc::FaultPoint::BEFORE_READ_LOCK);
  image.truncate(PAGES / 2 * SMALL);
  auto read = target.readLater(PAGES - 1);
  server.wait(barrier.waitHeldRequest().send());
  target.giveBack(PAGES - 1);
  await([&] { return segment.pages().state(PAGES - 1) == shm::PageState::removed; });
  server.wait(barrier.releaseRequest().send());
  EXPECT_EQ(read.get(), 0);
  EXPECT_TRUE(target.isAll(PAGES - 1, 0));
  // Its shard's reports come in order: that of a page that is lost afterwards is the first.
  EXPECT_EQ(target.touch(PAGES - 2), Touch::sigbus);
  std::vector<std::string> lost;
  await([&] {
    for (auto event : server.status().getEvents())
      if (const std::string text = event.getText().cStr(); text.find("truncated") != std::string::npos)
        lost.push_back(text);
    return !lost.empty();
  });
  EXPECT_EQ(lost.size(), 1u);
  EXPECT_NE(lost[0].find("page " + std::to_string(PAGES - 2) + " "), std::string::npos) << lost[0];
}

// Each target has its own file: who serves both loses nothing of the other.
TEST(SourceFailure, ATruncatedFileHitsItsOwnTargetAlone) {
  Image cut(PAGES * SMALL), whole(PAGES * SMALL);
  const std::string otherSocket = cut.directory() + "/other";
  Server server(cut, {.more = {"--socket", otherSocket, "--memory", whole.path(), "--name", "other"}});
  Target hit(cut, server.socket(), SMALL);
  server.restore();
  Target other(whole, otherSocket, SMALL);
  cut.truncate(PAGES / 2 * SMALL);
  EXPECT_EQ(hit.touch(PAGES - 1), Touch::sigbus);
  expectContent(other, {});
  EXPECT_TRUE(hit.holdsImage(PAGES / 2 - 1));
  await([&] { return !server.eventWith({"restore vm:", "truncated", cut.path()}).empty(); });
  EXPECT_EQ(server.eventWith({"restore other:"}), "");
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

// --- reads that fail (EIO), as those of a disk or a network path do ---

class ReadError : public BothPageSizes {
 protected:
  static constexpr std::uint64_t PAGE = 3;

  // While the result lives, the next so many reads of what begins with PAGE fail.
  static std::vector<rpc::Barrier::Client> failReads(Server& server, unsigned times) {
    auto hooks = shardHooks(server, server.ownerOf(PAGE));
    std::vector<rpc::Barrier::Client> failing;
    for (unsigned i = 0; i < times; i++)
      failing.push_back(arm(server, hooks, "beforeStage", rpc::Action::FAIL, PAGE));
    return failing;
  }
  static std::uint64_t errors(Server& server) {
    return server.sum(&rpc::ShardStats::Reader::getSourceErrors);
  }
};
BOTH_PAGE_SIZES(ReadError);

TEST_P(ReadError, ThatPassesIsNotNoticedByTheTarget) {
  Image image(imageBytes());
  Server server(image);
  Target target(image, server.socket(), pageSize());
  server.restore();
  const auto failing = failReads(server, 2);
  EXPECT_TRUE(target.holdsImage(PAGE));
  EXPECT_EQ(errors(server), 2u);
  expectContent(target, {});
  EXPECT_EQ(server.sum(&rpc::ShardStats::Reader::getPoisoned), 0u);
}

// Tried as often as docs/operating.md says, and told to the operator.
TEST_P(ReadError, ThatStaysIsAnErrorOnThatPageAlone) {
  Image image(imageBytes());
  Server server(image);
  Target target(image, server.socket(), pageSize());
  server.restore();
  const auto failing = failReads(server, 4);
  EXPECT_EQ(target.touch(PAGE), Touch::sigbus);
  EXPECT_EQ(errors(server), 4u);
  await([&] {
    return !server
                .eventWith({"page " + std::to_string(PAGE) + " is poisoned", image.path(),
                            "at offset " + std::to_string(PAGE * pageSize()), strerror(EIO)})
                .empty();
  });
  for (std::uint64_t page = 0; page < target.pages(); page++)
    ASSERT_TRUE(page == PAGE || target.holdsImage(page)) << page;
  EXPECT_EQ(server.sum(&rpc::ShardStats::Reader::getPoisoned), 1u);
  // Given back, it is a page of zeros like any other.
  target.giveBack(PAGE);
  EXPECT_TRUE(target.isAll(PAGE, 0));
}

// The background reads many pages at once, and leaves those that it cannot read to the faults that may come.
TEST_P(ReadError, InTheBackgroundIsLeftToTheFaults) {
  Image image(imageBytes());
  Server server(image);
  Target target(image, server.socket(), pageSize());
  auto restore = server.restore();
  const auto failing = failReads(server, 1);
  auto request = restore.prefaultRequest();
  auto range = request.initRanges(1)[0];
  range.setFirst(PAGE);
  range.setCount(1);
  auto prefault = server.wait(request.send()).getPrefault();
  server.wait(prefault.waitRequest().send());
  EXPECT_EQ(errors(server), 1u);
  EXPECT_FALSE(target.inMemory(PAGE));
  EXPECT_TRUE(target.holdsImage(PAGE));
}

}  // namespace
}  // namespace faultline::test
