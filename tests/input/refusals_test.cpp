// Reasons of refused calls, as data, over the wire.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <kj/debug.h>
#include <signal.h>

#include <string>

#include "rpc/connection.h"
#include "rpc/refusal.h"
#include "tests/recovery/recovery_test.h"
#include "tests/support/image.h"
#include "tests/support/server.h"
#include "tests/support/sources.h"
#include "tests/support/target.h"

namespace faultline::test {
namespace {

using rpc::Reason;
using testing::HasSubstr;
using testing::Not;

constexpr std::uint64_t SMALL = 4096, PAGES = 64;

class Refusals : public testing::Test {
 protected:
  ~Refusals() noexcept override {}  // KJ's may throw

  // Why `promise` is broken. The message must not show how the server is written.
  template <typename Promise>
  Reason reasonOf(Promise promise) {
    try {
      server_.wait(kj::mv(promise));
    } catch (const kj::Exception& error) {
      EXPECT_TRUE(rpc::hasReason(error)) << error.getDescription().cStr();
      EXPECT_THAT(error.getDescription().cStr(), Not(HasSubstr("expected ")));
      EXPECT_THAT(error.getDescription().cStr(), Not(HasSubstr("stringify")));
      return rpc::refusalOf(error).reason;
    }
    ADD_FAILURE() << "not refused";
    return Reason::FAILED;
  }

  rpc::Coordinator::Client& coordinator() { return server_.client().coordinator(); }
  auto listening(const char* name) {
    auto request = coordinator().listenRequest();
    request.initSpec().setName(name);
    fill(request.initSource(), image_.path());
    request.setSocket(rpc::makeFd(rpc::listenAt(image_.directory() + "/" + name)));
    return request;
  }

  Image image_{PAGES * SMALL};
  Server server_{image_};
  Target target_{image_, server_.socket(), SMALL};
  rpc::Restore::Client restore_ = server_.restore();
};

TEST_F(Refusals, WhatIsNotThere) {
  auto restore = coordinator().restoreRequest();
  restore.setName("nobody");
  EXPECT_EQ(reasonOf(restore.send()), Reason::NOT_FOUND);
  auto unlisten = coordinator().unlistenRequest();
  unlisten.setName("nobody");
  EXPECT_EQ(reasonOf(unlisten.send()), Reason::NOT_FOUND);
  EXPECT_EQ(reasonOf(restore_.workingSetRequest().send()), Reason::NOT_FOUND);
}

TEST_F(Refusals, WhatIsThereAlready) {
  EXPECT_EQ(reasonOf(listening("vm").send()), Reason::NAME_TAKEN);
}

TEST_F(Refusals, WhatWouldLosePages) {
  EXPECT_EQ(reasonOf(restore_.detachRequest().send()), Reason::PAGES_MISSING);
  EXPECT_EQ(reasonOf(coordinator().shutdownRequest().send()), Reason::PAGES_MISSING);
}

TEST_F(Refusals, WhatIsNotForThisPhase) {
  EXPECT_EQ(reasonOf(restore_.resumeRequest().send()), Reason::WRONG_PHASE);
  server_.wait(restore_.pauseRequest().send());
  EXPECT_EQ(reasonOf(restore_.pauseRequest().send()), Reason::WRONG_PHASE);
  server_.wait(restore_.resumeRequest().send());
}

TEST_F(Refusals, WhatCanNeverBe) {
  auto states = restore_.pageStatesRequest();
  states.initPages().setFirst(PAGES + 1);
  EXPECT_EQ(reasonOf(states.send()), Reason::BAD_INPUT);
  auto reshard = coordinator().reshardRequest();
  reshard.setRestore("vm");
  reshard.setShards(65);
  EXPECT_EQ(reasonOf(reshard.send()), Reason::BAD_INPUT);
  auto upgrade = coordinator().upgradeRequest();
  upgrade.setDirectory("not/absolute");
  EXPECT_EQ(reasonOf(upgrade.send()), Reason::BAD_INPUT);
  EXPECT_EQ(reasonOf(listening("a.b").send()), Reason::BAD_INPUT);
}

// Work that anybody can ask for is bounded: by the ranges of a call, and by the pages in them.
TEST_F(Refusals, PopulationsOfTooMuch) {
  auto many = restore_.prefaultRequest();
  auto ranges = many.initRanges(65537);
  for (auto range : ranges) range.setCount(1);
  EXPECT_EQ(reasonOf(many.send()), Reason::BAD_INPUT);
  auto twice = restore_.prefaultRequest();
  twice.initRanges(2);  // each of all pages
  EXPECT_EQ(reasonOf(twice.send()), Reason::BAD_INPUT);
  auto once = restore_.prefaultRequest();
  auto halves = once.initRanges(2);
  halves[0].setCount(PAGES / 2);
  halves[1].setFirst(PAGES / 2);
  auto prefault = server_.wait(once.send()).getPrefault();
  server_.wait(prefault.waitRequest().send());
  const auto progress = server_.wait(prefault.progressRequest().send());
  EXPECT_EQ(progress.getMissing(), 0u);
  EXPECT_EQ(progress.getTotal(), PAGES);
}

TEST_F(Refusals, ListsAndNamesOfTooMuch) {
  auto regions = coordinator().attachRequest();
  fill(regions.initSource(), image_.path());
  regions.setUffd(rpc::makeFdFrom(target_.uffd()));
  regions.initSpec().initRegions(4097);
  EXPECT_EQ(reasonOf(regions.send()), Reason::BAD_TARGET);
  auto set = listening("set");
  set.getSpec().initPolicy().initWorkingSet().initRanges(1'048'577);
  EXPECT_EQ(reasonOf(set.send()), Reason::BAD_INPUT);
  auto source = listening("source");
  source.getSource().getLayers()[0].setName(std::string(4097, 'n').c_str());
  EXPECT_EQ(reasonOf(source.send()), Reason::BAD_INPUT);
  auto name = listening("name");
  name.getSpec().setName(std::string(51, 'n').c_str());
  EXPECT_EQ(reasonOf(name.send()), Reason::BAD_INPUT);
  auto directory = coordinator().upgradeRequest();
  directory.setDirectory(("/" + std::string(500, 'n')).c_str());
  EXPECT_EQ(reasonOf(directory.send()), Reason::BAD_INPUT);
  auto nobody = coordinator().restoreRequest();
  nobody.setName(std::string(1 << 20, 'n').c_str());
  EXPECT_EQ(reasonOf(nobody.send()), Reason::NOT_FOUND);
}

TEST_F(Refusals, SourcesThatAreNotServed) {
  auto uri = listening("uri");
  uri.initSource().setUri("nbd+ssh://host/disk");
  EXPECT_EQ(reasonOf(uri.send()), Reason::BAD_INPUT);
  auto absent = listening("absent");
  absent.initSource().setUri("nbd+unix:///?socket=/none");
  EXPECT_EQ(reasonOf(absent.send()), Reason::BAD_SOURCE);
  auto nothing = listening("nothing");
  nothing.initSource().initLayers(0);
  EXPECT_EQ(reasonOf(nothing.send()), Reason::BAD_INPUT);
  auto bare = listening("bare");
  bare.initSource().initLayers(1);
  EXPECT_EQ(reasonOf(bare.send()), Reason::BAD_INPUT);
}

TEST_F(Refusals, TargetsThatCannotBeServed) {
  auto request = coordinator().attachRequest();
  fill(request.initSource(), image_.path());
  request.setUffd(rpc::makeFd(kj::AutoCloseFd(open("/dev/null", O_RDONLY | O_CLOEXEC))));
  EXPECT_EQ(reasonOf(request.send()), Reason::BAD_TARGET);
}

// A supervisor that stands still takes what is kept until its channel is full.
TEST_F(Refusals, WhatCannotBeKeptNow) {
  const std::string stat = textOf("/proc/" + std::to_string(server_.coordinatorPid()) + "/stat");
  const auto supervisor = static_cast<pid_t>(std::stol(stat.substr(stat.rfind(") ") + 4)));  // proc(5): PPID
  kill(supervisor, SIGSTOP);
  KJ_DEFER(kill(supervisor, SIGCONT));
  awaitStopped(supervisor);
  for (unsigned i = 0; i < 200; i++) {
    const std::string name = "kept" + std::to_string(i);
    server_.wait(listening(name.c_str()).send());
    auto unlisten = coordinator().unlistenRequest();
    unlisten.setName(name.c_str());
    server_.wait(unlisten.send());
  }
  auto request = coordinator().attachRequest();
  fill(request.initSource(), image_.path());
  request.setUffd(rpc::makeFdFrom(target_.uffd()));
  auto region = request.initSpec().initRegions(1)[0];
  region.setBase(reinterpret_cast<std::uint64_t>(target_.address(0)));
  region.setSize(PAGES * SMALL);
  EXPECT_EQ(reasonOf(request.send()), Reason::NOT_READY);
}

TEST_F(Refusals, AnEndedRestore) {
  auto ended = restore_.waitEndedRequest().send();
  auto detach = restore_.detachRequest();
  detach.setForce(true);
  server_.wait(detach.send());
  auto end = server_.wait(kj::mv(ended));
  EXPECT_EQ(end.getReason(), rpc::EndReason::DETACHED);
  EXPECT_EQ(end.getMissing(), PAGES);
  EXPECT_EQ(reasonOf(restore_.infoRequest().send()), Reason::ENDED);
}

// Asked several times before a target has come, it gives each its own.
TEST_F(Refusals, NextRestoreIsForOneTargetEach) {
  auto request = listening("next");
  auto listener = server_.wait(request.send()).getListener();
  auto first = listener.nextRestoreRequest().send();
  auto second = listener.nextRestoreRequest().send();
  const std::string socket = image_.directory() + "/next";
  Target one(image_, socket, SMALL);
  EXPECT_STREQ(server_.wait(kj::mv(first)).getInfo().getName().cStr(), "next");
  Target two(image_, socket, SMALL);
  EXPECT_STREQ(server_.wait(kj::mv(second)).getInfo().getName().cStr(), "next-2");
}

// --- pages that are registered no more ---

// The test takes the last slot, which no shard of this restore has.
TEST_F(Refusals, WhatIsGoneIsWaitedForNoMore) {
  auto complete = restore_.waitCompleteRequest().send();
  for (std::uint64_t page = 1; page < PAGES; page++) ASSERT_TRUE(target_.holdsImage(page)) << page;
  shm::Segment segment = server_.segment();
  {
    auto guard = segment.lock().lockShared(segment.firstSlot(shm::MAX_SHARDS - 1));
    segment.pages().markGone(guard, 0);
  }
  auto info = server_.wait(kj::mv(complete)).getInfo();
  EXPECT_EQ(info.getMissing(), 0u);
  EXPECT_EQ(info.getReleased(), 1u);
  EXPECT_EQ(info.getPhase(), rpc::Phase::COMPLETE);
  auto states = server_.wait(restore_.pageStatesRequest().send());
  ASSERT_EQ(states.getRuns().size(), 2u);
  EXPECT_EQ(states.getRuns()[0].getState(), rpc::PageState::RELEASED);
  server_.wait(restore_.detachRequest().send());
}

}  // namespace
}  // namespace faultline::test
