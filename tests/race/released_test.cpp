// Large holes of the memory file, and what a target has given up: they are registered no more, the kernel alone answers for
// them, and the target sees what it would have seen.

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <optional>
#include <string>

#include "tests/recovery/recovery_test.h"
#include "tests/support/child_process.h"
#include "tests/support/stack.h"

namespace faultline::test {
namespace {

constexpr std::uint64_t ALL = (16u << 20) / SMALL;
// Two large holes, and a small one that stays registered.
constexpr shm::PageRange LARGE{1024, 1024}, LARGEST{2560, 1280}, LITTLE{128, 64};
constexpr std::uint64_t HOLES = LARGE.count + LARGEST.count;

bool contains(const shm::PageRange& range, std::uint64_t page) {
  return page >= range.first && page < range.end();
}
bool isReleasable(std::uint64_t page) {
  return contains(LARGE, page) || contains(LARGEST, page);
}

class ReleasedHoles : public testing::Test {
 protected:
  ReleasedHoles() {
    for (const shm::PageRange& range : {LARGE, LARGEST, LITTLE})
      image_.hole(range.first * SMALL, range.count * SMALL);
  }
  ~ReleasedHoles() noexcept override {}  // KJ's may throw

  void serve(ServerOptions options = {}) { server_.emplace(image_, std::move(options)); }
  // A target; what of it is to be released is, unless the test holds it.
  void connect(unsigned flags = 0) {
    target_.emplace(image_, server_->socket(), SMALL, 1, flags);
    restore_ = server_->restore();
  }
  void awaitReleased(std::uint64_t pages = HOLES) {
    await([&] { return info().getReleased() >= pages; });
    EXPECT_EQ(info().getReleased(), pages);
  }
  rpc::RestoreInfo::Reader info() {
    answer_ = std::make_unique<capnp::Response<rpc::Restore::InfoResults>>(
        server_->wait(restore_.infoRequest().send()));
    return answer_->getInfo();
  }
  std::uint64_t faults() { return server_->wait(restore_.statsRequest().send()).getStats().getFaults(); }
  std::uint64_t removals() { return server_->wait(restore_.statsRequest().send()).getStats().getRemoves(); }
  rpc::PageState stateOf(std::uint64_t page) {
    auto request = restore_.pageStatesRequest();
    request.initPages().setFirst(page);
    request.getPages().setCount(1);
    return server_->wait(request.send()).getRuns()[0].getState();
  }
  // Holds the next release at this point until the barrier is released. The server serves on.
  rpc::Barrier::Client hold(const char* point, std::uint64_t page) {
    return arm(*server_, coordinatorHooks(*server_), point, rpc::Action::PARK, page);
  }
  void waitHeld(rpc::Barrier::Client& barrier) { server_->wait(barrier.waitHeldRequest().send()); }
  void letGoOn(rpc::Barrier::Client& barrier) { server_->wait(barrier.releaseRequest().send()); }

  Image image_{ALL * SMALL};
  std::optional<Server> server_;
  std::optional<Target> target_;
  rpc::Restore::Client restore_{nullptr};

 private:
  std::unique_ptr<capnp::Response<rpc::Restore::InfoResults>> answer_;
};

// Pages that are registered no more since we released them do not keep a restore whose target has closed.
TEST_F(ReleasedHoles, DoNotKeepARestoreWhoseTargetIsClosed) {
  serve();
  connect();
  awaitReleased();
  EXPECT_EQ(target_->close(), 0);
  EXPECT_EQ(server_->wait(restore_.waitEndedRequest().send()).getReason(), rpc::EndReason::TARGET_GONE);
}

// Each page is touched once. The faults that came are counted: none of a hole.
TEST_F(ReleasedHoles, ReachUsWithNoFault) {
  serve();
  connect();
  awaitReleased();
  for (std::uint64_t page = 0; page < ALL; page++) {
    ASSERT_TRUE(target_->holdsImage(page)) << page;
    ASSERT_EQ(stateOf(LARGE.first), rpc::PageState::RELEASED);
  }
  EXPECT_EQ(faults(), ALL - HOLES);
  EXPECT_EQ(stateOf(LARGEST.end() - 1), rpc::PageState::RELEASED);
  EXPECT_EQ(stateOf(LARGEST.end()), rpc::PageState::FAULTED);
  EXPECT_EQ(stateOf(LITTLE.first), rpc::PageState::FAULTED);
  EXPECT_EQ(info().getMissing(), 0u);
  EXPECT_EQ(info().getFaulted(), ALL - HOLES);
}

// What the target writes there is its own, and stays; what it gives up is zeros, and no event tells of it.
TEST_F(ReleasedHoles, AreTheTargetsOwn) {
  serve();
  connect();
  awaitReleased();
  target_->write(LARGE.first, 0x5a);
  target_->write(LARGE.first + 1, 0x5a);
  EXPECT_EQ(target_->read(LARGE.first), 0x5a);
  target_->giveBack(LARGE.first, 1);
  EXPECT_TRUE(target_->isAll(LARGE.first, 0));
  EXPECT_EQ(target_->read(LARGE.first + 1), 0x5a);
  EXPECT_EQ(removals(), 0u);
  // One over a border: the part that is registered is told.
  target_->giveBack(LARGE.first - 2, 4);
  EXPECT_EQ(removals(), 1u);
  for (std::uint64_t page = LARGE.first - 2; page < LARGE.first + 2; page++)
    EXPECT_TRUE(target_->isAll(page, 0)) << page;
  EXPECT_TRUE(target_->holdsImage(LARGE.first - 3));
  EXPECT_EQ(stateOf(LARGE.first), rpc::PageState::RELEASED);
}

TEST_F(ReleasedHoles, StayRegisteredIfTheOperatorWantsThat) {
  serve({.more = {"--keep-registered"}});
  connect();
  EXPECT_TRUE(info().getPolicy().getKeepRegistered());
  for (std::uint64_t page = 0; page < ALL; page++) ASSERT_TRUE(target_->holdsImage(page)) << page;
  EXPECT_EQ(faults(), ALL);
  EXPECT_EQ(info().getReleased(), 0u);
}

// The registration is also what tracks the writes.
TEST_F(ReleasedHoles, StayRegisteredWhereTheTargetTracksItsWrites) {
  serve();
  connect(FAULTLINE_TRACK_WRITES);
  target_->write(LARGE.first, 1);
  EXPECT_TRUE(target_->holdsImage(LARGE.first + 1));
  EXPECT_TRUE(target_->written(LARGE.first));
  EXPECT_FALSE(target_->written(LARGE.first + 1));
  EXPECT_EQ(info().getReleased(), 0u);
}

TEST_F(ReleasedHoles, AreNoPartOfAnyRecordingAndAreNotReleasedWhileThereIsOne) {
  serve({.more = {"--record-working-set"}});
  connect();
  EXPECT_TRUE(target_->holdsImage(LARGE.first));
  EXPECT_EQ(faults(), 1u);
  EXPECT_EQ(info().getReleased(), 0u);
}

// Nothing of them is populated, and the restore is complete without.
TEST_F(ReleasedHoles, CountAsDone) {
  serve({.keepServing = false});
  connect();
  awaitReleased();
  for (std::uint64_t page = 0; page < ALL; page++)
    ASSERT_TRUE(isReleasable(page) || target_->holdsImage(page)) << page;
  auto end = server_->wait(restore_.waitEndedRequest().send());
  EXPECT_EQ(end.getReason(), rpc::EndReason::COMPLETED);
  EXPECT_EQ(end.getMissing(), 0u);
  for (std::uint64_t page = 0; page < ALL; page++) ASSERT_TRUE(target_->holdsImage(page)) << page;
}

TEST_F(ReleasedHoles, AreNotPopulated) {
  serve();
  connect();
  awaitReleased();
  auto job = server_->wait(restore_.prefaultRequest().send()).getPrefault();
  server_->wait(job.waitRequest().send());
  EXPECT_EQ(info().getMissing(), 0u);
  EXPECT_FALSE(target_->inMemory(LARGE.first + 7));
  EXPECT_TRUE(target_->inMemory(LITTLE.first));
  EXPECT_EQ(server_->sum(&rpc::ShardStats::Reader::getPrefaulted), ALL - HOLES);
}

// An image that is one hole: complete as soon as that is known, and served on for as long as the target wants.
TEST_F(ReleasedHoles, CanBeAllOfIt) {
  image_.hole(0, ALL * SMALL);
  serve({.keepServing = false});
  auto release = hold("beforeUnregister", 0);  // else it is over before it can be asked for
  connect();
  waitHeld(release);
  letGoOn(release);
  auto end = server_->wait(restore_.waitEndedRequest().send());
  EXPECT_EQ(end.getReason(), rpc::EndReason::COMPLETED);
  for (std::uint64_t page = 0; page < ALL; page++) ASSERT_TRUE(target_->isAll(page, 0)) << page;
}

// The rest of the memory leaves, which a look finds. What is released is the target's still, so the restore is not over.
TEST(ReleasedAndTheRestLeft, IsNotTakenForATargetWithoutItsMemory) {
  Image image(ALL * SMALL);
  image.hole(0, ALL / 2 * SMALL);
  Server server(image);
  Signal go;
  const ChildProcess child([&, socket = server.socket()] {
    const Target target(image, socket, SMALL);
    go.wait();
    if (munmap(const_cast<unsigned char*>(target.address(ALL / 2)), ALL / 2 * SMALL) != 0) _exit(2);
    pause();
  });
  auto restore = server.restore();
  auto released = [&] { return server.wait(restore.infoRequest().send()).getInfo().getReleased(); };
  await([&] { return released() == ALL / 2; });
  go.send();
  await([&] { return released() == ALL; });
  server.wait(restore.waitCompleteRequest().send());
  EXPECT_EQ(server.wait(restore.infoRequest().send()).getInfo().getPhase(), rpc::Phase::COMPLETE);
}

// All of the memory leaves as a part of it is about to be released, which the kernel refuses: the target has nothing left.
TEST(ReleasedAndAllOfItLeft, IsTakenForATargetWithoutItsMemory) {
  Image image(ALL * SMALL);
  image.hole(0, ALL / 2 * SMALL);
  Server server(image);
  auto release = arm(server, coordinatorHooks(server), "beforeUnregister", rpc::Action::PARK);
  Signal go, gone;
  const ChildProcess child([&, socket = server.socket()] {
    const Target target(image, socket, SMALL);
    go.wait();
    if (munmap(const_cast<unsigned char*>(target.address(0)), ALL * SMALL) != 0) _exit(2);
    gone.send();
    pause();
  });
  auto restore = server.restore();
  server.wait(release.waitHeldRequest().send());
  go.send();
  gone.wait();
  server.wait(release.releaseRequest().send());
  EXPECT_EQ(server.wait(restore.waitEndedRequest().send()).getReason(), rpc::EndReason::TARGET_GONE);
}

// A fault that was there before its range is unregistered: the thread waits, a shard is about to answer, and the kernel wakes
// it. What the shard does then has nowhere to go.
TEST_F(ReleasedHoles, AFaultOfBeforeIsAnswered) {
  serve({.shards = 1});
  auto release = hold("beforeUnregister", LARGEST.first);
  connect();
  waitHeld(release);
  auto worker = server_->barrier(LARGEST.first + 3, rpc::FaultPoint::BEFORE_COPY);
  auto read = target_->readLater(LARGEST.first + 3);
  server_->wait(worker.waitHeldRequest().send());
  auto held = hold("unregistered", LARGEST.first);
  letGoOn(release);
  EXPECT_EQ(read.get(), 0);  // by the kernel
  waitHeld(held);
  letGoOn(worker);
  await([&] { return stateOf(LARGEST.first + 3) == rpc::PageState::RELEASED; });
  EXPECT_EQ(info().getReleased(), 1u);  // this one alone: the kernel has answered ENOENT
  letGoOn(held);
  awaitReleased();
  EXPECT_TRUE(target_->isAll(LARGEST.first + 3, 0));
}

// Between unregistering and marking a population comes by: it finds pages gone, one by one, and they are zero for good all
// the same in the end.
TEST_F(ReleasedHoles, APopulationInBetweenIsRight) {
  serve();
  auto held = hold("unregistered", LARGE.first);
  connect();
  waitHeld(held);
  auto job = server_->wait(restore_.prefaultRequest().send()).getPrefault();
  server_->wait(job.waitRequest().send());
  EXPECT_EQ(info().getMissing(), 0u);
  letGoOn(held);
  awaitReleased();
  for (std::uint64_t page = 0; page < ALL; page++) ASSERT_TRUE(target_->holdsImage(page)) << page;
}

// The target registers a released page once more with the same userfaultfd: the page is zeros, since that is what the snapshot
// has there, and its thread does not wait.
TEST_F(ReleasedHoles, RegisteredAnewTheyAreZeros) {
  serve();
  connect();
  awaitReleased();
  const std::uint64_t page = LARGE.first + 5;
  uffdio_register request{};
  request.range = {reinterpret_cast<std::uint64_t>(target_->address(page)), 2 * SMALL};
  request.mode = UFFDIO_REGISTER_MODE_MISSING;
  ASSERT_EQ(ioctl(target_->uffd(), UFFDIO_REGISTER, &request), 0);
  EXPECT_TRUE(target_->isAll(page, 0));
  EXPECT_EQ(faults(), 1u);
  EXPECT_EQ(stateOf(page), rpc::PageState::RELEASED);
  target_->giveBack(page, 1);
  EXPECT_TRUE(target_->isAll(page, 0));
  EXPECT_EQ(server_->sum(&rpc::ShardStats::Reader::getPoisoned), 0u);
}

// A detach with pages missing: they get an error, and those that are released are as they were.
TEST_F(ReleasedHoles, KeepWhatTheyAreAtAnEndWithoutAll) {
  serve();
  connect();
  awaitReleased();
  target_->write(LARGE.first, 0x5a);
  auto request = restore_.detachRequest();
  request.setForce(true);
  server_->wait(request.send());
  EXPECT_EQ(target_->touch(0), Touch::sigbus);
  EXPECT_EQ(target_->touch(LITTLE.first), Touch::sigbus);
  EXPECT_EQ(target_->read(LARGE.first), 0x5a);
  for (const shm::PageRange& range : {LARGE, LARGEST})
    for (std::uint64_t page = range.first + 1; page < range.end(); page++)
      ASSERT_EQ(target_->touch(page), Touch::ok) << page;
}

// A restore that has failed answers with errors. Released pages know nothing of that.
TEST_F(ReleasedHoles, OutliveAFailure) {
  serve({.shards = 1});
  connect();
  awaitReleased();
  auto segment = server_->segment();
  segment.header().state.store(shm::SegmentState::failed);
  ::kill(server_->coordinatorPid(), SIGKILL);
  server_->reconnect();
  EXPECT_EQ(target_->touch(0), Touch::sigbus);
  EXPECT_TRUE(target_->isAll(LARGE.first, 0));
}

// --- what the target has given up ---

class ReleasedRemovals : public ReleasedHoles {
 protected:
  static constexpr shm::PageRange GIVEN{200, 700};  // data of the image

  void begin() {
    serve();
    connect();
    awaitReleased();
  }
  void give(const shm::PageRange& pages = GIVEN) { target_->giveBack(pages.first, pages.count); }
  void expectContent(const shm::PageRange& given = GIVEN) {
    for (std::uint64_t page = 0; page < ALL; page++)
      ASSERT_TRUE(contains(given, page) ? target_->isAll(page, 0) : target_->holdsImage(page)) << page;
  }
};

// The next removal there is told to nobody, and what the target touches there reaches us no more.
TEST_F(ReleasedRemovals, ReachUsNoMore) {
  begin();
  target_->write(GIVEN.first, 1);
  give();
  awaitReleased(HOLES + GIVEN.count);
  const std::uint64_t before = faults();
  for (std::uint64_t page = GIVEN.first; page < GIVEN.end(); page++)
    ASSERT_TRUE(target_->isAll(page, 0)) << page;
  target_->write(GIVEN.first + 1, 0x5a);
  EXPECT_EQ(target_->read(GIVEN.first + 1), 0x5a);
  give();
  EXPECT_TRUE(target_->isAll(GIVEN.first + 1, 0));
  EXPECT_EQ(faults(), before);
  EXPECT_EQ(removals(), 1u);
  expectContent();
}

// As a balloon gives up.
TEST_F(ReleasedRemovals, MayComePageByPage) {
  begin();
  const std::uint64_t hole = GIVEN.first + 300;
  for (std::uint64_t page = GIVEN.first; page < GIVEN.end(); page++)
    if (page != hole) give({page, 1});
  give({hole, 1});
  awaitReleased(HOLES + GIVEN.count);
  expectContent();
}

// Fewer pages than are worth two mappings, and pages of which one is in use again.
TEST_F(ReleasedRemovals, OfFewPagesStayRegistered) {
  begin();
  give({0, 511});
  give({2048, 300});
  target_->write(2048 + 299, 0x5a);
  give({2048 + 300, 212});
  give({512, 512});
  awaitReleased(HOLES + 512);
  EXPECT_EQ(stateOf(0), rpc::PageState::REMOVED);
  EXPECT_EQ(target_->read(2048 + 299), 0x5a);
  EXPECT_TRUE(target_->holdsImage(511));
  EXPECT_TRUE(target_->holdsImage(2047));
  EXPECT_TRUE(target_->holdsImage(2560 - 1 + 1280 + 1));
  EXPECT_EQ(stateOf(2048), rpc::PageState::REMOVED);
}

// What was written there after the removal stays: before the range is unregistered, and behind our back before it is marked.
TEST_F(ReleasedRemovals, KeepWhatIsWrittenMeanwhile) {
  begin();
  auto release = hold("beforeUnregister", GIVEN.first);
  give();
  waitHeld(release);
  target_->write(GIVEN.first + 3, 0x5a);
  auto held = hold("unregistered", GIVEN.first);
  letGoOn(release);
  waitHeld(held);
  target_->write(GIVEN.first + 4, 0x5b);
  EXPECT_EQ(stateOf(GIVEN.first + 4), rpc::PageState::REMOVED);
  letGoOn(held);
  awaitReleased(HOLES + GIVEN.count);
  EXPECT_EQ(target_->read(GIVEN.first + 3), 0x5a);
  EXPECT_EQ(target_->read(GIVEN.first + 4), 0x5b);
  EXPECT_TRUE(target_->isAll(GIVEN.first + 5, 0));
}

// A worker is about to put zeros into a page of the range as that is unregistered.
TEST_F(ReleasedRemovals, WhileAFaultIsAnsweredThere) {
  begin();
  const std::uint64_t page = GIVEN.first + 3;
  auto release = hold("beforeUnregister", GIVEN.first);
  give();
  waitHeld(release);
  auto worker = server_->barrier(page, rpc::FaultPoint::BEFORE_COPY);
  auto read = target_->readLater(page);
  server_->wait(worker.waitHeldRequest().send());
  auto held = hold("unregistered", GIVEN.first);
  letGoOn(release);
  EXPECT_EQ(read.get(), 0);  // by the kernel
  waitHeld(held);
  target_->write(page, 0x5a);
  letGoOn(worker);
  await([&] { return stateOf(page) == rpc::PageState::RELEASED; });
  letGoOn(held);
  awaitReleased(HOLES + GIVEN.count);
  EXPECT_EQ(target_->read(page), 0x5a);
}

// A copy of the source's bytes, staged before the removal, is in its section as the removal comes: the removal waits for it, and
// so does the release.
TEST_F(ReleasedRemovals, OfAPageThatIsBeingCopied) {
  begin();
  const std::uint64_t page = GIVEN.first + 3;
  auto worker = server_->barrier(page, rpc::FaultPoint::BEFORE_COPY);
  auto read = target_->readLater(page);
  server_->wait(worker.waitHeldRequest().send());
  auto given = target_->giveBackLater(GIVEN.first, GIVEN.count);
  await([&] { return target_->eventInFlight(); });
  letGoOn(worker);
  given.get();
  read.get();
  awaitReleased(HOLES + GIVEN.count);
  expectContent();
}

// The memory is being given up a second time, and its caller waits for the event, as a part of it is unregistered: the kernel
// goes on over all the pieces.
TEST_F(ReleasedRemovals, WhileTheirRangeIsGivenUpAgain) {
  begin();
  auto release = hold("beforeUnregister", GIVEN.first);
  give();
  waitHeld(release);
  for (const std::uint64_t page : {GIVEN.first + 3, GIVEN.end(), ALL - 1}) target_->write(page, 0x5a);
  auto held = hold("unregistered", GIVEN.first);
  server_->wait(restore_.pauseRequest().send());
  auto given = target_->giveBackLater(0, ALL);
  await([&] { return target_->eventInFlight(); });
  letGoOn(release);
  waitHeld(held);
  server_->wait(restore_.resumeRequest().send());
  given.get();
  for (std::uint64_t page = 0; page < ALL; page++) ASSERT_TRUE(target_->isAll(page, 0)) << page;
  letGoOn(held);
  awaitReleased(HOLES + GIVEN.count);
}

// Beside a released range a further one splits no mapping, and takes nothing of the budget.
TEST_F(ReleasedRemovals, BesideReleasedOnesTakeNothingOfTheBudget) {
  begin();
  give({LARGE.end(), 512});
  awaitReleased(HOLES + 512);
  EXPECT_EQ(server_->segment().header().rangesReleased.load(), 2u);
  give({0, 512});
  awaitReleased(HOLES + 1024);
  EXPECT_EQ(server_->segment().header().rangesReleased.load(), 3u);
}

// The target has mapped a file over the range, which the kernel registers no more. That takes no mapping, so nothing of the
// budget is gone.
TEST_F(ReleasedRemovals, ThatTheKernelRefusesTakeNothingOfTheBudget) {
  begin();
  auto release = hold("beforeUnregister", GIVEN.first);
  give();
  waitHeld(release);
  EXPECT_EQ(server_->segment().header().rangesReleased.load(), 3u);
  const int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  void* const start = const_cast<unsigned char*>(target_->address(GIVEN.first));
  ASSERT_EQ(mmap(start, GIVEN.count * SMALL, PROT_READ, MAP_PRIVATE | MAP_FIXED, file, 0), start);
  close(file);
  letGoOn(release);
  await([&] { return server_->segment().header().rangesReleased.load() == 2; });
  ASSERT_EQ(mmap(start, GIVEN.count * SMALL, PROT_READ, MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS, -1, 0),
            start);
  target_->giveBack(2048, 512);
  await([&] { return stateOf(2048) == rpc::PageState::RELEASED; });
  EXPECT_EQ(server_->segment().header().rangesReleased.load(), 2u);  // beside two that are released
}

TEST_F(ReleasedRemovals, StayRegisteredIfTheOperatorWantsThat) {
  serve({.more = {"--keep-registered"}});
  connect();
  give();
  give();
  EXPECT_EQ(removals(), 2u);
  for (std::uint64_t page = GIVEN.first; page < GIVEN.end(); page++) ASSERT_TRUE(target_->isAll(page, 0));
  EXPECT_EQ(faults(), GIVEN.count);
  EXPECT_EQ(info().getReleased(), 0u);
}

TEST_F(ReleasedRemovals, StayRegisteredWhereTheTargetTracksItsWrites) {
  serve();
  connect(FAULTLINE_TRACK_WRITES);
  give();
  give();
  EXPECT_EQ(removals(), 2u);
  target_->write(GIVEN.first, 1);
  EXPECT_TRUE(target_->written(GIVEN.first));
  EXPECT_EQ(info().getReleased(), 0u);
}

// Where an upper layer has data, the lowest one's hole is none, and zeros there are data, too.
TEST(ReleasedLayers, AreWhereNoLayerHasAnything) {
  Stack stack(ALL * SMALL, 2);
  stack.hole(LARGE.first, LARGE.count);
  stack.hole(LARGEST.first, LARGEST.count);
  stack.data(0, LARGEST.first + 600, 1);
  ServerOptions options{.memory = stack.top().path()};
  options.more = stack.over();
  Server server(stack.shown(), std::move(options));
  const Target target(stack.shown(), server.socket(), SMALL);
  auto restore = server.restore();
  await([&] {
    return server.wait(restore.infoRequest().send()).getInfo().getReleased() ==
           LARGE.count + 600 + (LARGEST.count - 601);
  });
  for (std::uint64_t page = 0; page < ALL; page++) ASSERT_TRUE(target.holdsImage(page)) << page;
  EXPECT_EQ(server.wait(restore.statsRequest().send()).getStats().getFaults(),
            ALL - LARGE.count - LARGEST.count + 1);
}

// Each released range takes two mappings. A target that has half of what the kernel allows gets none released.
TEST(ReleasedBudget, LeavesATargetItsMappings) {
  std::uint64_t most = 0;
  std::ifstream("/proc/sys/vm/max_map_count") >> most;
  if (most > 100'000) GTEST_SKIP() << "too many mappings to make: " << most;
  Image image(ALL * SMALL);
  image.hole(LARGE.first * SMALL, LARGE.count * SMALL);
  Server server(image, {.logFile = image.directory() + "/log"});
  const ChildProcess child([&, socket = server.socket()] {
    // Pages of different rights by turns, which are never joined.
    auto* start = static_cast<char*>(
        mmap(nullptr, most / 2 * SMALL, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    for (std::uint64_t page = 0; page < most / 2; page += 2)
      if (mprotect(start + page * SMALL, SMALL, PROT_READ) != 0) _exit(3);
    const Target target(image, socket, SMALL);
    for (std::uint64_t page = 0; page < ALL; page++)
      if (!target.holdsImage(page)) _exit(2);
    pause();
  });
  auto restore = server.restore();
  await([&] { return server.wait(restore.statsRequest().send()).getStats().getFaults() == ALL; });
  EXPECT_EQ(server.wait(restore.infoRequest().send()).getInfo().getReleased(), 0u);
  await([&] {
    return textOf(image.directory() + "/log").find("1 further ranges stay registered") != std::string::npos;
  });
}

// The target has no mapping left as its hole is about to be released. What it gives up later, when it has some again, is released,
// all of it. In small steps, since something is armed throughout.
TEST(ReleasedBudget, IsThereAgainWhenTheTargetHasMappingsAgain) {
  std::uint64_t most = 0;
  std::ifstream("/proc/sys/vm/max_map_count") >> most;
  if (most > 100'000) GTEST_SKIP() << "too many mappings to make: " << most;
  Image image(ALL * SMALL);
  image.hole(LARGE.first * SMALL, LARGE.count * SMALL);
  Server server(image, {.logFile = image.directory() + "/log"});
  auto release = arm(server, coordinatorHooks(server), "beforeUnregister", rpc::Action::PARK);
  auto never = arm(server, coordinatorHooks(server), "midRelease", rpc::Action::PARK, ALL);
  Signal fill, full, unfill;
  const ChildProcess child([&, socket = server.socket()] {
    const Target target(image, socket, SMALL);
    auto* const start = static_cast<char*>(
        mmap(nullptr, most * SMALL, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    fill.wait();
    for (std::uint64_t page = 1; mprotect(start + page * SMALL, SMALL, PROT_READ) == 0;) page += 2;
    full.send();
    unfill.wait();
    munmap(start, most * SMALL);
    target.giveBack(0, 512);
    target.giveBack(2560, 512);
    pause();
  });
  auto restore = server.restore();
  server.wait(release.waitHeldRequest().send());
  fill.send();
  full.wait();
  server.wait(release.releaseRequest().send());
  await([&] {
    return textOf(image.directory() + "/log").find("1 further ranges stay registered") != std::string::npos;
  });
  unfill.send();
  auto released = [&] { return server.wait(restore.infoRequest().send()).getInfo().getReleased(); };
  await([&] { return released() == 1024; });
}

}  // namespace
}  // namespace faultline::test
