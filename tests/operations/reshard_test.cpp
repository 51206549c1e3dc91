// Resharding while a restore is served: extents move, and no fault is lost or answered twice.

#include <gmock/gmock.h>

#include <atomic>
#include <random>
#include <thread>

#include "tests/recovery/recovery_test.h"

namespace faultline::test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

constexpr std::uint64_t MANY = 12 * EXTENT;

auto reshardLater(Server& server, unsigned shards, unsigned n = 0) {
  auto request = server.client().coordinator().reshardRequest();
  request.setRestore(Server::restoreName(n).c_str());
  request.setShards(shards);
  return request.send();
}

void reshard(Server& server, unsigned shards, unsigned n = 0) {
  server.wait(reshardLater(server, shards, n));
}

// How many extents each shard owns, as the statistics say. They do not name a shard that has never had to do
// with the restore.
std::vector<unsigned> owners(Server& server, rpc::Restore::Client& restore) {
  std::vector<unsigned> extents;
  auto response = server.wait(restore.statsRequest().send());
  for (auto shard : response.getStats().getShards()) {
    extents.resize(shard.getShard() + 1);
    extents[shard.getShard()] = shard.getExtents();
  }
  return extents;
}

struct Sums {
  std::uint64_t copied = 0, zeroedRemoved = 0, poisoned = 0;
};

Sums sumsOf(Server& server, rpc::Restore::Client& restore) {
  Sums sums;
  auto response = server.wait(restore.statsRequest().send());
  for (auto shard : response.getStats().getShards()) {
    sums.copied += shard.getCopied();
    sums.zeroedRemoved += shard.getZeroedRemoved();
    sums.poisoned += shard.getPoisoned();
  }
  return sums;
}

// A thread goes on as the kernel has put its page there, a moment before the worker counts it.
void awaitCopied(Server& server, rpc::Restore::Client& restore, std::uint64_t pages) {
  await([&] { return sumsOf(server, restore).copied >= pages; });
}

bool hasAll(const Target& target, const std::vector<std::uint64_t>& pages, bool zeros) {
  return std::all_of(pages.begin(), pages.end(), [&](std::uint64_t page) {
    return zeros ? target.isAll(page, 0) : target.holdsImage(page);
  });
}

// Threads that touch and give back all the time, in stages: a stage begins as the reshard before it has
// ended, so that each reshard meets a load that goes on behind it.
class StagedLoad {
 public:
  static constexpr unsigned TOUCHERS = 3, STAGES = 3;

  explicit StagedLoad(Target& target) : target_(target) {
    std::vector<std::uint64_t> kept;
    // A page in eight is touched and then given back, another is given back untouched.
    for (std::uint64_t page = 0; page < target.pages(); page++)
      (page % 8 == 0 ? touchedFirst : page % 8 == 4 ? neverTouched : kept).push_back(page);
    std::shuffle(kept.begin(), kept.end(), std::mt19937_64(7));
    keptPages = kept.size();
    for (unsigned i = 0; i < TOUCHERS; i++)
      threads_.emplace_back([this, i, kept] {
        inStages(kept.size(), [&](std::size_t at) {
          if (at % TOUCHERS == i && !target_.holdsImage(kept[at])) wrong++;
        });
      });
    threads_.emplace_back([this] {
      inStages(touchedFirst.size(), [&](std::size_t at) {
        if (!target_.holdsImage(touchedFirst[at])) wrong++;
        target_.giveBack(touchedFirst[at]);
        target_.giveBack(neverTouched[at]);
        if (!target_.isAll(touchedFirst[at], 0) || !target_.isAll(neverTouched[at], 0)) wrong++;
      });
    });
  }
  ~StagedLoad() { join(); }

  // Returns when every thread has done something in the present stage.
  void awaitUnderWay() {
    await([this] { return started_ == (stage_ + 1) * threads_.size(); });
  }
  void nextStage() { stage_++; }
  void join() {
    stage_ = STAGES;
    for (auto& thread : threads_) thread.join();
    threads_.clear();
  }

  std::vector<std::uint64_t> touchedFirst, neverTouched;
  std::size_t keptPages = 0;
  std::atomic<unsigned> wrong{0};

 private:
  template <typename Step>
  void inStages(std::size_t steps, Step step) {
    for (unsigned stage = 0; stage < STAGES; stage++) {
      await([&] { return stage_ >= stage; });
      const std::size_t from = steps * stage / STAGES, to = steps * (stage + 1) / STAGES;
      for (std::size_t at = from; at < to; at++) {
        step(at);
        if (at == from) started_++;
      }
    }
  }

  Target& target_;
  std::atomic<unsigned> stage_{0}, started_{0};
  std::vector<std::thread> threads_;
};

void expectWhole(Server& server, rpc::Restore::Client& restore, const Target& target,
                 const StagedLoad& load) {
  EXPECT_EQ(load.wrong, 0u);
  for (std::uint64_t page = 0; page < target.pages(); page++)
    ASSERT_TRUE(page % 4 == 0 ? target.isAll(page, 0) : target.holdsImage(page)) << page;
  // The source is read once for each page that was touched before it was given back, and never for another.
  awaitCopied(server, restore, load.keptPages + load.touchedFirst.size());
  await([&] {
    return sumsOf(server, restore).zeroedRemoved >= load.touchedFirst.size() + load.neverTouched.size();
  });
  const Sums sums = sumsOf(server, restore);
  EXPECT_EQ(sums.copied, load.keptPages + load.touchedFirst.size());
  EXPECT_EQ(sums.zeroedRemoved, load.touchedFirst.size() + load.neverTouched.size());
  EXPECT_EQ(sums.poisoned, 0u);
}

TEST(Reshard, UnderLoad) {
  Image image(MANY * SMALL);
  Server server(image, {.shards = 1});
  Target target(image, server.socket(), SMALL, 3);
  auto restore = server.restore();
  EXPECT_THAT(owners(server, restore), ElementsAre(12));
  StagedLoad load(target);
  load.awaitUnderWay();
  reshard(server, 4);
  EXPECT_THAT(owners(server, restore), ElementsAre(3, 3, 3, 3));
  load.nextStage();
  load.awaitUnderWay();
  reshard(server, 2);
  EXPECT_THAT(owners(server, restore), ElementsAre(6, 6, 0, 0));
  load.nextStage();
  load.awaitUnderWay();
  reshard(server, 3);
  EXPECT_THAT(owners(server, restore), ElementsAre(4, 4, 4, 0));
  load.join();
  expectWhole(server, restore, target, load);
  await([&] { return server.status().getShards().size() == 3; });
}

TEST(Reshard, NewOwnersTakeTheFaults) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = 1});
  Target target(image, server.socket(), SMALL);
  auto restore = server.restore();
  reshard(server, 4);
  for (std::uint64_t extent = 0; extent < 4; extent++) {
    EXPECT_EQ(server.ownerOf(extent * EXTENT), extent);
    EXPECT_TRUE(target.holdsImage(extent * EXTENT));
  }
  awaitCopied(server, restore, 4);
  auto response = server.wait(restore.statsRequest().send());
  for (auto shard : response.getStats().getShards()) EXPECT_EQ(shard.getCopied(), 1u) << shard.getShard();
}

// --- a worker is held at a place of a fault's way while its page moves to another shard ---

struct Place {
  const char* point;
  bool inSection;  // the worker holds the read side: extents cannot move before it has left
};

class ReshardWithAWorkerHeld : public testing::TestWithParam<Place> {
 protected:
  static constexpr std::uint64_t HELD = EXTENT + 5;

  Image image_{PAGES * SMALL};
  Server server_{image_, {.shards = 1}};
  Target target_{image_, server_.socket(), SMALL};
};

TEST_P(ReshardWithAWorkerHeld, ItsFaultIsAnsweredOnce) {
  const auto [point, inSection] = GetParam();
  auto restore = server_.restore();
  auto barrier = arm(server_, shardHooks(server_, 0), point, rpc::Action::PARK, HELD);
  auto held = target_.readLater(HELD);
  server_.wait(barrier.waitHeldRequest().send());
  bool done = false;
  auto moving = reshardLater(server_, 4).then([&](auto&&) { done = true; }).eagerlyEvaluate(nullptr);
  if (inSection) {
    // The gate is closed by now, and the owners are as they were.
    shm::Segment segment = server_.segment();
    await([&] { return server_.ownerOf(HELD) != 0 || segment.lock().closed(); });
    EXPECT_EQ(server_.ownerOf(HELD), 0u);
    EXPECT_FALSE(done);
    server_.wait(barrier.releaseRequest().send());
    server_.wait(kj::mv(moving));
  } else {
    server_.wait(kj::mv(moving));
    EXPECT_EQ(server_.ownerOf(HELD), 1u);
    // Its new owner is asked for the very page, and for one beside it.
    EXPECT_TRUE(target_.holdsImage(HELD + 1));
    auto again = target_.readLater(HELD);
    server_.wait(barrier.releaseRequest().send());
    EXPECT_EQ(again.get(), image_.at(target_.offset(HELD)));
  }
  EXPECT_EQ(held.get(), image_.at(target_.offset(HELD)));
  EXPECT_EQ(server_.ownerOf(HELD), 1u);
  for (std::uint64_t page = 0; page < PAGES; page++) ASSERT_TRUE(target_.holdsImage(page)) << page;
  awaitCopied(server_, restore, PAGES);
  EXPECT_EQ(sumsOf(server_, restore).copied, PAGES);
}

// The page is given back behind the move: what the former owner had staged must not appear in it.
TEST_P(ReshardWithAWorkerHeld, APageGivenBackMeanwhileStaysSo) {
  const auto [point, inSection] = GetParam();
  server_.restore();
  auto barrier = arm(server_, shardHooks(server_, 0), point, rpc::Action::PARK, HELD);
  auto held = target_.readLater(HELD);
  server_.wait(barrier.waitHeldRequest().send());
  auto moving = reshardLater(server_, 4).ignoreResult().eagerlyEvaluate(nullptr);
  auto given = target_.giveBackLater(HELD, 2);
  if (inSection) {
    await([&] { return target_.eventInFlight(); });
    server_.wait(barrier.releaseRequest().send());
    server_.wait(kj::mv(moving));
    given.get();
  } else {
    server_.wait(kj::mv(moving));
    given.get();
    server_.wait(barrier.releaseRequest().send());
  }
  held.get();
  expectContent(target_, {HELD, HELD + 1});
}

INSTANTIATE_TEST_SUITE_P(Places, ReshardWithAWorkerHeld,
                         testing::Values(Place{"beforeStage", false}, Place{"beforeReadLock", false},
                                         Place{"beforeCopy", true}, Place{"afterCopy", true},
                                         Place{"afterStore", true}),
                         [](const auto& info) { return std::string(info.param.point); });

// --- together with what else goes on ---

// A population that was asked for before goes on with the new owners, and has not ended before they are done:
// shard 0 had passed over an extent that it owns only since.
TEST(Reshard, APopulationEndsOnlyWhenTheNewOwnersAreDone) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = 2, .workers = 1});
  Target target(image, server.socket(), SMALL);
  auto restore = server.restore();
  const std::uint64_t first = EXTENT, moved = 3 * EXTENT, last = 2 * EXTENT;
  auto one = arm(server, shardHooks(server, 1), "beforeStage", rpc::Action::PARK, first);
  auto zero = arm(server, shardHooks(server, 0), "beforeStage", rpc::Action::PARK, last);
  auto again = arm(server, shardHooks(server, 0), "beforeStage", rpc::Action::PARK, moved);
  auto request = restore.prefaultRequest();
  auto ranges = request.initRanges(3);
  for (unsigned i = 0; i < 3; i++) {
    ranges[i].setFirst(i == 0 ? first : i == 1 ? moved : last);
    ranges[i].setCount(i == 0 ? 1 : EXTENT);
  }
  auto prefault = server.wait(request.send()).getPrefault();
  server.wait(one.waitHeldRequest().send());
  server.wait(zero.waitHeldRequest().send());
  reshard(server, 1);
  server.wait(one.releaseRequest().send());
  server.wait(zero.releaseRequest().send());
  server.wait(again.waitHeldRequest().send());
  await([&] { return target.inMemory(first); });
  auto progress = server.wait(prefault.progressRequest().send());
  EXPECT_FALSE(progress.getFinished());
  EXPECT_GE(progress.getMissing(), EXTENT);
  server.wait(again.releaseRequest().send());
  server.wait(prefault.waitRequest().send());
  EXPECT_EQ(server.wait(prefault.progressRequest().send()).getMissing(), 0u);
  for (std::uint64_t page = moved; page < PAGES; page++) ASSERT_TRUE(target.inMemory(page)) << page;
}

TEST(Reshard, UnderLoadWithABackgroundPopulation) {
  Image image(MANY * SMALL);
  Server server(image, {.shards = 1});
  Target target(image, server.socket(), SMALL);
  auto restore = server.restore();
  std::vector<std::uint64_t> low, high;
  for (std::uint64_t page = 0; page < MANY / 2; page++) low.push_back(page), high.push_back(MANY / 2 + page);
  for (const std::uint64_t page : high) target.giveBack(page);
  auto prefault = server.wait(restore.prefaultRequest().send()).getPrefault();
  std::atomic<bool> right{true};
  std::thread thread([&] { right = hasAll(target, low, false) && hasAll(target, high, true); });
  for (const unsigned shards : {4, 2, 5, 1}) reshard(server, shards);
  thread.join();
  server.wait(prefault.waitRequest().send());
  EXPECT_TRUE(right);
  EXPECT_EQ(server.wait(prefault.progressRequest().send()).getMissing(), 0u);
  awaitCopied(server, restore, low.size());
  EXPECT_EQ(sumsOf(server, restore).copied, low.size());
}

// --- shards that are needed no more ---

TEST(Reshard, ShardsThatOwnNothingAnyMoreEnd) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = 1});
  Target target(image, server.socket(), SMALL);
  server.restore();
  reshard(server, 4);
  std::vector<pid_t> former;
  for (unsigned shard = 1; shard < 4; shard++) former.push_back(server.shardPid(shard));
  EXPECT_TRUE(target.holdsImage(3 * EXTENT));
  reshard(server, 1);
  await([&] { return server.status().getShards().size() == 1; });
  for (const pid_t pid : former) await([pid] { return kill(pid, 0) != 0; });
  expectContent(target, {});
  // As they are wanted again, they come back.
  reshard(server, 3);
  EXPECT_EQ(server.status().getShards().size(), 3u);
}

TEST(Reshard, AShardStaysAsLongAsAnyRestoreNeedsIt) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = 1});
  Target target(image, server.socket(), SMALL);
  server.restore(0);
  auto other = std::make_unique<Target>(image, server.socket(), SMALL);
  server.restore(1);
  reshard(server, 4);
  reshard(server, 3, 1);
  reshard(server, 1);
  await([&] { return server.status().getShards().size() == 3; });
  expectContent(*other, {});
  other.reset();
  await([&] { return server.status().getShards().size() == 1; });
  expectContent(target, {});
}

// The former owner has a fault in its hands that it cannot go on with: the new owner answers it.
TEST(Reshard, AFormerOwnersFaultIsAnsweredByTheNewOne) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = 1});
  Target target(image, server.socket(), SMALL);
  server.restore();
  reshard(server, 4);
  const std::uint64_t page = 3 * EXTENT + 1;
  ASSERT_EQ(server.ownerOf(page), 3u);
  auto barrier = arm(server, shardHooks(server, 3), "beforeStage", rpc::Action::PARK, page);
  auto held = target.readLater(page);
  server.wait(barrier.waitHeldRequest().send());
  reshard(server, 1);
  EXPECT_EQ(held.get(), image.at(target.offset(page)));
  EXPECT_THAT(server.eventWith({"shard 3", "is killed", "does not let go of restore vm"}), Not(IsEmpty()));
  await([&] { return server.status().getShards().size() == 1; });
  expectContent(target, {});
}

TEST(Reshard, TheCoordinatorsSuccessorEndsShardsThatOwnNothing) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = 1});
  Target target(image, server.socket(), SMALL);
  server.restore();
  reshard(server, 4);
  reshard(server, 2);
  ASSERT_EQ(kill(server.coordinatorPid(), SIGKILL), 0);
  server.reconnect();
  await([&] { return server.status().getShards().size() == 2; });
  auto restore = server.restore();
  EXPECT_THAT(owners(server, restore), ElementsAre(2, 2));
  expectContent(target, {});
}

TEST(Reshard, TheCoordinatorsSuccessorKeepsTheOwners) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = 1});
  Target target(image, server.socket(), SMALL);
  server.restore();
  reshard(server, 4);
  EXPECT_TRUE(target.holdsImage(3));
  ASSERT_EQ(kill(server.coordinatorPid(), SIGKILL), 0);
  target.giveBack(EXTENT, 4);
  server.reconnect();
  auto restore = server.restore();
  EXPECT_THAT(owners(server, restore), ElementsAre(1, 1, 1, 1));
  expectContent(target, pagesOf(EXTENT, 4));
}

// The coordinator dies in the middle of a reshard: every fault is answered, whichever shard owns its extent
// then.
TEST(Reshard, TheCoordinatorDiesInTheMiddle) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = 1});
  Target target(image, server.socket(), SMALL);
  server.restore();
  auto barrier = arm(server, shardHooks(server, 0), "beforeCopy", rpc::Action::PARK, 9);
  auto held = target.readLater(9);
  server.wait(barrier.waitHeldRequest().send());
  shm::Segment segment = server.segment();
  auto moving = reshardLater(server, 4);
  await([&] { return server.ownerOf(9) != 0 || segment.lock().closed(); });
  ASSERT_EQ(kill(server.coordinatorPid(), SIGKILL), 0);
  EXPECT_THROW(server.wait(kj::mv(moving)), kj::Exception);
  server.reconnect();
  // Held no longer: its barrier went with the connection of the coordinator that had set it.
  EXPECT_EQ(held.get(), image.at(target.offset(9)));
  server.restore();
  expectContent(target, {});
}

// A new owner dies between its attach and the deal: its successor came up as one that owns nothing.
TEST(Reshard, ANewOwnerThatDiesBeforeTheDealServesAllTheSame) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = 2});
  Target target(image, server.socket(), SMALL);
  server.restore();
  auto barrier = arm(server, shardHooks(server, 0), "beforeCopy", rpc::Action::PARK, 9);
  auto held = target.readLater(9);
  server.wait(barrier.waitHeldRequest().send());
  shm::Segment segment = server.segment();
  auto moving = reshardLater(server, 4).ignoreResult().eagerlyEvaluate(nullptr);
  // Every new owner is attached, and the deal waits for the section.
  await([&] { return server.status().getShards().size() == 4 && segment.lock().closed(); });
  ASSERT_EQ(kill(server.shardPid(3), SIGKILL), 0);
  await([&] {
    const auto shard = server.status().getShards()[3];
    return shard.getRestarts() == 1 && shard.getAlive();
  });
  server.wait(barrier.releaseRequest().send());
  server.wait(kj::mv(moving));
  EXPECT_EQ(held.get(), image.at(target.offset(9)));
  EXPECT_EQ(server.ownerOf(3 * EXTENT), 3u);
  expectContent(target, {});
}

TEST(Reshard, WhatCannotBeIsRefused) {
  Image image(PAGES * SMALL);
  Server server(image, {.shards = 1});
  Target target(image, server.socket(), SMALL);
  auto restore = server.restore();
  auto refusal = [&](unsigned shards) -> std::string {
    try {
      reshard(server, shards);
    } catch (const kj::Exception& error) {
      return error.getDescription().cStr();
    }
    return "accepted";
  };
  EXPECT_THAT(refusal(0), HasSubstr("1 to 64 shards"));
  EXPECT_THAT(refusal(65), HasSubstr("1 to 64 shards"));
  server.wait(restore.pauseRequest().send());
  EXPECT_THAT(refusal(2), HasSubstr("not being served"));
  server.wait(restore.resumeRequest().send());
  EXPECT_EQ(refusal(2), "accepted");
  EXPECT_TRUE(target.holdsImage(EXTENT));
}

}  // namespace
}  // namespace faultline::test
