// The recording of a restore: the order of first touch, each page once, and only what needed the source.

#include <signal.h>

#include <thread>

#include "cli/errors.h"
#include "tests/working_set/working_set_test.h"

namespace faultline::test {
namespace {

using testing::HasSubstr;

const std::vector<std::string> RECORDING = {"--record-working-set"};

TEST(Record, KeepsTheOrderOfFirstTouch) {
  Image image(PAGES * SMALL);
  Server server(image, {.more = RECORDING});
  Target target(image, server.socket(), SMALL, 2);
  server.restore();
  const Pages touched = {1500, 3, 4, 5, 700, 4, 2, 1500, 0, PAGES - 1};
  for (const std::uint64_t page : touched) EXPECT_TRUE(target.holdsImage(page));
  const auto set = saved(server, image);
  EXPECT_EQ(set.ranges, rangesOf(target, {1500, 3, 4, 5, 700, 2, 0, PAGES - 1}));
  EXPECT_EQ(set.pageSize, SMALL);
  EXPECT_EQ(set.lost, 0u);
}

TEST(Record, WritesCountAsReadsDo) {
  Image image(PAGES * SMALL);
  Server server(image, {.more = RECORDING});
  Target target(image, server.socket(), SMALL);
  server.restore();
  target.write(9, 1);
  target.read(8);
  EXPECT_EQ(saved(server, image).ranges, rangesOf(target, {9, 8}));
}

// Pages that need nothing from the source again: given back before they were touched, or populated already.
TEST(Record, LeavesOutWhatTheSourceWasNotNeededFor) {
  Image image(PAGES * SMALL);
  Server server(image, {.more = RECORDING});
  Target target(image, server.socket(), SMALL);
  auto restore = server.restore();
  target.giveBack(100, 3);
  EXPECT_TRUE(target.isAll(101, 0));
  auto request = restore.prefaultRequest();
  request.initRanges(1)[0].setFirst(200);
  request.getRanges()[0].setCount(1);
  auto prefault = server.wait(request.send()).getPrefault();
  server.wait(prefault.waitRequest().send());
  EXPECT_TRUE(target.holdsImage(200));
  EXPECT_TRUE(target.holdsImage(300));
  target.giveBack(300);
  EXPECT_TRUE(target.isAll(300, 0));
  EXPECT_EQ(saved(server, image).ranges, rangesOf(target, {300}));
}

TEST(Record, HugePages) {
  if (!hugePagesAvailable(16)) GTEST_SKIP() << "no 16 free huge pages; echo 256 > /proc/sys/vm/nr_hugepages";
  Image image(8 * HUGE);
  Server server(image, {.more = RECORDING});
  Target target(image, server.socket(), HUGE);
  server.restore();
  for (const std::uint64_t page : {5, 1, 2}) target.read(page);
  const auto set = saved(server, image);
  EXPECT_EQ(set.ranges, rangesOf(target, {5, 1, 2}));
  EXPECT_EQ(set.pageSize, HUGE);
}

TEST(Record, EachPageOnceWhateverTheThreadsDo) {
  Image image(PAGES * SMALL);
  Server server(image, {.more = RECORDING});
  Target target(image, server.socket(), SMALL, 3);
  server.restore();
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 4; i++)
    threads.emplace_back([&] {
      for (std::uint64_t page = 0; page < target.pages(); page++) target.read(page);
    });
  for (auto& thread : threads) thread.join();
  // The file's own check: no page twice.
  EXPECT_EQ(saved(server, image).bytes(), target.pages() * SMALL);
}

TEST(Record, OutlivesTheCoordinator) {
  Image image(PAGES * SMALL);
  Server server(image, {.more = RECORDING});
  Target target(image, server.socket(), SMALL);
  server.restore();
  for (const std::uint64_t page : {1500, 7}) target.read(page);
  ASSERT_EQ(kill(server.coordinatorPid(), SIGKILL), 0);
  target.read(600);
  server.reconnect();
  server.restore();
  for (const std::uint64_t page : {7, 6, 1500}) target.read(page);
  EXPECT_EQ(server.status().getIncarnation(), 2u);
  EXPECT_EQ(saved(server, image).ranges, rangesOf(target, {1500, 7, 600, 6}));
}

TEST(Record, OfARestoreThatDoesNotRecordIsAnError) {
  Image image(PAGES * SMALL);
  Server server(image);
  Target target(image, server.socket(), SMALL);
  auto restore = server.restore();
  EXPECT_FALSE(server.wait(restore.infoRequest().send()).getInfo().getRecording());
  const auto result =
      run({"working-set", "save", "vm", "--control", server.control(), "--output", fileBeside(image)});
  EXPECT_EQ(result.code, cli::NOT_FOUND);
  EXPECT_THAT(result.err, HasSubstr("restore vm records no working set: begin it with --record-working-set"));
  EXPECT_NE(access(fileBeside(image).c_str(), F_OK), 0);
}

// More than one answer's worth of pages.
TEST(Record, LargerThanOneAnswer) {
  constexpr std::uint64_t LARGE = 65536 + 100;
  Image image(LARGE * SMALL);
  Server server(image, {.more = RECORDING});
  Target target(image, server.socket(), SMALL);
  server.restore();
  for (std::uint64_t page = 0; page < LARGE; page++) target.read(page);
  EXPECT_EQ(saved(server, image).ranges, (std::vector<cli::SourceRange>{{0, LARGE * SMALL}}));
}

}  // namespace
}  // namespace faultline::test
