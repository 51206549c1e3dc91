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
  await([&] { return !server.eventWith({"truncated"}).empty(); });
  // Given back, a poisoned page is a page of zeros like any other.
  target.giveBack(PAGES - 1);
  EXPECT_TRUE(target.isAll(PAGES - 1, 0));
}

// A page that the target has given back meanwhile is owed zeros and not the source's bytes: nothing is lost.
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

// Two targets of one server with a file each: truncating one file costs the other target nothing.
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

}  // namespace
}  // namespace faultline::test
