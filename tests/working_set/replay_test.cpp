// A recorded working set that is given to a restore: what is there before the target touches anything, in
// which order it comes, and what is refused.

#include <signal.h>

#include "cli/errors.h"
#include "cli/memory_file.h"
#include "cli/socket_file.h"
#include "rpc/fd.h"
#include "tests/support/sources.h"
#include "tests/working_set/working_set_test.h"

namespace faultline::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

ServerOptions with(const std::string& set, ServerOptions options = {}) {
  options.more = {"--working-set", set};
  return options;
}

TEST(Replay, WhatWasRecordedIsThereBeforeTheFirstTouch) {
  Image image(PAGES * SMALL);
  Pages touched = {1500, 3, 4, 5, 700, 2, 1024};
  std::vector<std::uint64_t> offsets;
  {
    Server server(image, {.more = {"--record-working-set"}});
    Target target(image, server.socket(), SMALL, 2);
    server.restore();
    for (const std::uint64_t page : touched) {
      target.read(page);
      offsets.push_back(target.offset(page));
    }
    saved(server, image);
  }
  // Another process layout: other addresses, other page numbers, the same places in the snapshot.
  Server server(image, with(fileBeside(image)));
  Target target(image, server.socket(), SMALL, 4);
  auto restore = server.restore();
  await([&] { return !populating(server, restore); });
  for (std::uint64_t page = 0; page < target.pages(); page++) {
    const bool wanted = std::find(offsets.begin(), offsets.end(), target.offset(page)) != offsets.end();
    EXPECT_EQ(target.inMemory(page), wanted) << page;
    EXPECT_EQ(stateOf(server, restore, page), wanted ? rpc::PageState::FAULTED : rpc::PageState::MISSING)
        << page;
  }
  EXPECT_EQ(server.wait(restore.statsRequest().send()).getStats().getFaults(), 0u);
  for (std::uint64_t page = 0; page < target.pages(); page++) ASSERT_TRUE(target.holdsImage(page)) << page;
}

// A shard with one worker populates strictly in the recorded order: held before each page in turn, exactly
// those in front of it are there.
TEST(Replay, TheOrderIsThatOfTheRecording) {
  const Pages order = {900, 2, 1500, 40, 7, 1100};
  for (std::size_t at = 0; at < order.size(); at++) {
    Image image(PAGES * SMALL);
    Server server(image, with(writeSet(image, order), {.shards = 1, .workers = 1}));
    auto barrier = parkShard(server, 0, order[at]);
    Target target(image, server.socket(), SMALL);
    auto restore = server.restore();
    server.wait(barrier.waitHeldRequest().send());
    for (std::size_t i = 0; i < order.size(); i++)
      EXPECT_EQ(stateOf(server, restore, order[i]),
                i < at ? rpc::PageState::FAULTED : rpc::PageState::MISSING)
          << "held at " << at << ", looked at " << i;
    server.wait(barrier.releaseRequest().send());
    await([&] { return !populating(server, restore); });
    for (const std::uint64_t page : order) EXPECT_TRUE(target.inMemory(page)) << page;
  }
}

// While one shard is held at its first page, the other brings all of its own.
TEST(Replay, EveryShardPopulatesItsPartAtOnce) {
  Pages order;
  for (std::uint64_t i = 0; i < 100; i++)
    for (std::uint64_t extent = 0; extent < 4; extent++) order.push_back(extent * EXTENT + 5 * i);
  Image image(PAGES * SMALL);
  Server server(image, with(writeSet(image, order), {.shards = 2, .workers = 1}));
  auto barrier = parkShard(server, 0, order.front());
  Target target(image, server.socket(), SMALL);
  auto restore = server.restore();
  ASSERT_EQ(server.ownerOf(order.front()), 0u);
  server.wait(barrier.waitHeldRequest().send());
  await([&] {
    return std::all_of(order.begin(), order.end(), [&](std::uint64_t page) {
      return server.ownerOf(page) == 0 || stateOf(server, restore, page) == rpc::PageState::FAULTED;
    });
  });
  for (const std::uint64_t page : order) EXPECT_EQ(target.inMemory(page), server.ownerOf(page) != 0) << page;
  server.wait(barrier.releaseRequest().send());
  await([&] { return !populating(server, restore); });
  for (const std::uint64_t page : order) EXPECT_TRUE(target.inMemory(page)) << page;
}

// The rest follows only when the working set is in place.
TEST(Replay, GoesBeforeThePopulationOfEverything) {
  const Pages order = {1500, 3, 700};
  Image image(PAGES * SMALL);
  Server server(image, with(writeSet(image, order), {.shards = 1, .workers = 1, .prefault = true}));
  auto barrier = parkShard(server, 0, 700);
  Target target(image, server.socket(), SMALL);
  auto restore = server.restore();
  server.wait(barrier.waitHeldRequest().send());
  for (std::uint64_t page = 0; page < PAGES; page++)
    ASSERT_EQ(target.inMemory(page), page == 1500 || page == 3) << page;
  server.wait(barrier.releaseRequest().send());
  await([&] { return !populating(server, restore); });
  EXPECT_EQ(server.wait(restore.infoRequest().send()).getInfo().getMissing(), 0u);
  for (std::uint64_t page = 0; page < PAGES; page++) ASSERT_TRUE(target.holdsImage(page)) << page;
}

TEST(Replay, FaultsAreAnsweredMeanwhileAndNoRemovedPageComesBack) {
  Pages order;
  for (std::uint64_t page = 0; page < PAGES; page += 2) order.push_back(page);
  Image image(PAGES * SMALL);
  Server server(image, with(writeSet(image, order), {.shards = 1, .workers = 1}));
  auto barrier = parkShard(server, 0, 100);
  Target target(image, server.socket(), SMALL);
  auto restore = server.restore();
  server.wait(barrier.waitHeldRequest().send());
  EXPECT_TRUE(target.holdsImage(101));
  EXPECT_TRUE(target.holdsImage(1000));
  target.giveBack(200, 10);
  server.wait(barrier.releaseRequest().send());
  await([&] { return !populating(server, restore); });
  for (std::uint64_t page = 0; page < PAGES; page++) {
    const bool given = page >= 200 && page < 210;
    ASSERT_EQ(target.inMemory(page), !given && (page % 2 == 0 || page == 101)) << page;
    ASSERT_TRUE(given ? target.isAll(page, 0) : target.holdsImage(page)) << page;
  }
}

TEST(Replay, AShardThatDiesIsReplacedAndItsPartStillComes) {
  Pages order;
  for (std::uint64_t page = 0; page < PAGES; page += 3) order.push_back(page);
  Image image(PAGES * SMALL);
  Server server(image, with(writeSet(image, order)));
  const unsigned last = 1;
  auto barrier = parkShard(server, last, order[300]);
  Target target(image, server.socket(), SMALL);
  auto restore = server.restore();
  ASSERT_EQ(server.ownerOf(order[300]), last);
  server.wait(barrier.waitHeldRequest().send());
  ASSERT_EQ(kill(server.shardPid(last), SIGKILL), 0);
  await([&] { return !populating(server, restore); });
  for (const std::uint64_t page : order) EXPECT_TRUE(target.inMemory(page)) << page;
  EXPECT_EQ(server.status().getShards()[last].getRestarts(), 1u);
}

// The order is lost with the coordinator, the population is not.
TEST(Replay, ACoordinatorThatDiesLosesOnlyTheOrder) {
  Image image(PAGES * SMALL);
  Server server(image, with(writeSet(image, {1500, 3, 700}), {.shards = 1, .workers = 1, .prefault = true}));
  auto barrier = parkShard(server, 0, 3);
  Target target(image, server.socket(), SMALL);
  server.restore();
  server.wait(barrier.waitHeldRequest().send());
  ASSERT_EQ(kill(server.coordinatorPid(), SIGKILL), 0);
  server.reconnect();
  auto restore = server.restore();
  await([&] { return !populating(server, restore); });
  EXPECT_EQ(server.wait(restore.infoRequest().send()).getInfo().getMissing(), 0u);
  for (std::uint64_t page = 0; page < PAGES; page++) ASSERT_TRUE(target.holdsImage(page)) << page;
}

// --- refused ---

Command::Result serveWith(const Image& image, const std::string& set) {
  return run({"serve", "--control", image.directory() + "/control", "--socket", image.directory() + "/socket",
              "--memory", image.path(), "--working-set", set});
}

TEST(Replay, OfAnotherSnapshotIsRefused) {
  Image image(PAGES * SMALL), other(PAGES * SMALL);
  other.fill(0, SMALL, 'x');
  const auto result = serveWith(image, writeSet(other, {1}));
  EXPECT_EQ(result.code, cli::USAGE);
  EXPECT_THAT(result.err,
              AllOf(HasSubstr("working set " + fileBeside(other) + " was recorded with another snapshot"),
                    HasSubstr(image.path()), HasSubstr("or leave it out")));
}

TEST(Replay, ADamagedFileIsRefused) {
  Image image(PAGES * SMALL);
  const std::string set = writeSet(image, {1, 2, 9});
  ASSERT_EQ(truncate(set.c_str(), 70), 0);
  const auto result = serveWith(image, set);
  EXPECT_EQ(result.code, cli::USAGE);
  EXPECT_THAT(result.err, AllOf(HasSubstr("working set " + set), HasSubstr("cut off")));
}

TEST(Replay, MoreWorkingSetsThanSocketsAreRefused) {
  Image image(PAGES * SMALL);
  const std::string set = writeSet(image, {1});
  const auto result = run({"serve", "--control", image.directory() + "/control", "--working-set", set});
  EXPECT_EQ(result.code, cli::USAGE);
  EXPECT_THAT(result.err, HasSubstr("1 working sets and 0 sockets"));
}

// Found out only when the target is there: the set is refused, the target is served.
TEST(Replay, ForPagesOfAnotherSizeIsRefusedAndTheTargetServed) {
  Image image(2 * HUGE);
  Server server(image, with(writeSet(image, {1}, HUGE)));
  Target target(image, server.socket(), SMALL);
  auto restore = server.restore();
  auto response = server.wait(restore.infoRequest().send());
  const std::string why = "it was recorded with pages of 2097152 bytes, this target has pages of 4096";
  EXPECT_THAT(response.getInfo().getWorkingSetRefused().cStr(), HasSubstr(why));
  EXPECT_FALSE(response.getInfo().getPrefaulting());
  EXPECT_EQ(response.getInfo().getMissing(), target.pages());
  EXPECT_TRUE(target.holdsImage(600));
  std::string events;
  for (auto event : server.status().getEvents()) events += event.getText().cStr();
  EXPECT_THAT(events, HasSubstr(why));
}

// A client of the control interface is not believed either.
TEST(Replay, ARangePastTheSourceIsRefusedByTheCoordinator) {
  Image image(PAGES * SMALL);
  Server server(image);
  auto request = server.client().coordinator().listenRequest();
  request.initSpec().setName("other");
  auto range = request.getSpec().initPolicy().initWorkingSet().initRanges(1)[0];
  range.setOffset(PAGES * SMALL);
  range.setSize(SMALL);
  const std::string path = image.directory() + "/other";
  cli::SocketFile socket(path);
  request.setSocket(rpc::makeFd(socket.take()));
  fill(request.initSource(), image.path());
  try {
    server.wait(request.send());
    FAIL() << "accepted";
  } catch (const kj::Exception& error) {
    EXPECT_THAT(error.getDescription().cStr(), HasSubstr("reaches past the end of the source"));
  }
}

}  // namespace
}  // namespace faultline::test
