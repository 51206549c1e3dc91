// Things that a service tells afterwards: its events, to those who wait for them, and the last figures of restores that
// are over; both under coordinators that come later.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <optional>
#include <vector>

#include "cli/errors.h"
#include "coordinator/event_log.h"
#include "process/process.h"
#include "rpc/refusal.h"
#include "tests/cli/command.h"
#include "tests/recovery/recovery_test.h"

namespace faultline::test {
namespace {

using rpc::EventLevel;
using testing::Each;
using testing::HasSubstr;
using testing::IsEmpty;

using Events = std::vector<coordinator::EventLog::Event>;

auto eventsRequest(rpc::ControlClient& client, std::uint64_t after) {
  auto request = client.coordinator().eventsRequest();
  request.setAfter(after);
  return request.send();
}

struct Told {
  Events events;
  std::uint64_t lost = 0;
};
Told told(capnp::Response<rpc::Coordinator::EventsResults> response) {
  Told told{{}, response.getLost()};
  for (auto event : response.getEvents())
    told.events.push_back({event.getNumber(), event.getUnixNs(), event.getLevel(), event.getRestore().cStr(),
                           event.getText().cStr()});
  return told;
}
// Returns as soon as there is one.
Told eventsBehind(Server& server, std::uint64_t after) {
  return told(server.wait(eventsRequest(server.client(), after)));
}

std::uint64_t lastEvent(Server& server) {
  std::uint64_t last = 0;
  for (auto event : server.status().getEvents()) last = event.getNumber();
  return last;
}

void reshard(Server& server, unsigned shards) {
  auto request = server.client().coordinator().reshardRequest();
  request.setRestore("vm");
  request.setShards(shards);
  server.wait(request.send());
}

std::optional<rpc::Refusal> refusal(Server& server, kj::Promise<void> call) {
  std::optional<rpc::Refusal> refused;
  server.wait(call.catch_([&](kj::Exception&& error) { refused = rpc::refusalOf(error); }));
  return refused;
}

void killCoordinator(Server& server) {
  kill(server.coordinatorPid(), SIGKILL);
  server.reconnect();
}

// --- events ---

TEST(Told, AnEventComesToThoseWhoWaitForIt) {
  Image image(PAGES * SMALL);
  Server server(image);
  Target target(image, server.socket(), SMALL);
  server.restore();
  const std::uint64_t last = lastEvent(server);
  auto waiting = eventsRequest(server.client(), last), other = eventsRequest(server.client(), last);
  reshard(server, 1);
  for (const Told& got : {told(server.wait(kj::mv(waiting))), told(server.wait(kj::mv(other)))}) {
    ASSERT_EQ(got.events.size(), 1u);
    EXPECT_EQ(got.lost, 0u);
    EXPECT_EQ(got.events[0].number, last + 1);
    EXPECT_EQ(got.events[0].level, EventLevel::INFO);
    EXPECT_EQ(got.events[0].restore, "vm");
    EXPECT_THAT(got.events[0].text, HasSubstr("restore vm is served by 1 shards now"));
    EXPECT_NE(got.events[0].unixNs, 0u);
  }
}

TEST(Told, EventsGoOnUnderASuccessor) {
  Image image(PAGES * SMALL);
  Server server(image);
  Target target(image, server.socket(), SMALL);
  server.restore();
  reshard(server, 1);
  const std::uint64_t last = lastEvent(server);
  killCoordinator(server);
  const Told got = eventsBehind(server, last - 1);
  EXPECT_EQ(got.lost, 0u);
  for (std::size_t i = 0; i < got.events.size(); i++) EXPECT_EQ(got.events[i].number, last + i);
  EXPECT_EQ(got.events[0].level, EventLevel::INFO);
  EXPECT_EQ(got.events[0].restore, "vm");
  ASSERT_GE(got.events.size(), 2u);
  EXPECT_THAT(got.events[1].text, HasSubstr("takes over"));
  EXPECT_EQ(got.events[1].level, EventLevel::WARNING);
}

// An upgrade is planned: nothing of it is a reason to look.
TEST(Told, WhatWasAskedForIsNoWarning) {
  Image image(PAGES * SMALL);
  Server server(image);
  Target target(image, server.socket(), SMALL);
  server.restore();
  const std::uint64_t last = lastEvent(server);
  EXPECT_EQ(run({"upgrade", "--control", server.control(), "--build", process::ownDirectory()}).code, 0);
  server.reconnect();
  std::vector<EventLevel> levels;
  std::string texts;
  for (const auto& event : eventsBehind(server, last).events) {
    levels.push_back(event.level);
    texts += event.text + "\n";
  }
  EXPECT_THAT(levels, Each(EventLevel::INFO)) << texts;
  EXPECT_THAT(texts, HasSubstr("serves 1 restores again"));
}

TEST(Told, ALostPageIsAnError) {
  Image image(PAGES * SMALL);
  Server server(image);
  Target target(image, server.socket(), SMALL);
  server.restore();
  const std::uint64_t last = lastEvent(server);
  image.truncate(SMALL);
  EXPECT_EQ(target.touch(7), Touch::sigbus);
  const Told got = eventsBehind(server, last);
  EXPECT_EQ(got.events[0].level, EventLevel::ERROR);
  EXPECT_EQ(got.events[0].restore, "vm");
}

TEST(Told, TheLatestEventsAreKeptAndTheRestIsCounted) {
  Image image(PAGES * SMALL);
  Server server(image);
  Target target(image, server.socket(), SMALL);
  server.restore();
  const std::uint64_t before = lastEvent(server), more = coordinator::EventLog::KEPT + 3;
  for (unsigned i = 0; i < more; i++) reshard(server, 1 + i % 2);
  const Told got = eventsBehind(server, before);
  EXPECT_EQ(got.events.size(), coordinator::EventLog::KEPT);
  EXPECT_EQ(got.lost, 3u);
  EXPECT_EQ(got.events.back().number, before + more);
}

TEST(Told, AnEventThatHasNotBeenIsNotWaitedFor) {
  Image image(PAGES * SMALL);
  Server server(image);
  const auto refused = refusal(server, eventsRequest(server.client(), lastEvent(server) + 1).ignoreResult());
  ASSERT_TRUE(refused.has_value());
  EXPECT_EQ(refused->reason, rpc::Reason::BAD_INPUT);
  EXPECT_THAT(refused->message, HasSubstr("ask on from 0"));
}

// As many as are allowed; those of a connection that is closed count no more.
TEST(Told, WaitsAreBoundedAndGoWithTheirConnection) {
  Image image(PAGES * SMALL);
  Server server(image);
  const std::uint64_t last = lastEvent(server);
  const auto fill = [&] {
    std::vector<kj::Promise<void>> waiting;
    for (std::size_t i = 0; i < coordinator::EventLog::MOST_WAITING; i++)
      waiting.push_back(eventsRequest(server.client(), last).ignoreResult());
    return waiting;
  };
  for (unsigned round = 0; round < 2; round++) {
    auto waiting = fill();
    const auto refused = refusal(server, eventsRequest(server.client(), last).ignoreResult());
    ASSERT_TRUE(refused.has_value());
    EXPECT_EQ(refused->reason, rpc::Reason::LIMIT_REACHED);
    waiting.clear();
    server.client().reconnect();
  }
}

// --- ended restores ---

struct End {
  std::uint64_t id = 0;
  std::string name, text;
  rpc::EndReason reason = rpc::EndReason::NOT_ENDED;
  std::uint64_t missing = 0, faulted = 0, faults = 0, copied = 0, firstPageNs = 0, ageNs = 0, ended = 0;
  bool operator==(const End&) const = default;
};

std::vector<End> ended(Server& server, const std::string& name = "") {
  auto request = server.client().coordinator().endedRequest();
  request.setName(name.c_str());
  const auto response = server.wait(request.send());
  std::vector<End> ends;
  for (auto restore : response.getRestores()) {
    auto info = restore.getInfo();
    End end{info.getId(), info.getName().cStr(), restore.getText().cStr(), restore.getReason()};
    end.missing = info.getMissing();
    end.faulted = info.getFaulted();
    end.ageNs = info.getAgeNs();
    end.ended = restore.getEndedUnixNs();
    end.faults = restore.getStats().getFaults();
    end.firstPageNs = restore.getStats().getFirstPageNs();
    for (auto shard : restore.getStats().getShards()) end.copied += shard.getCopied();
    ends.push_back(end);
  }
  return ends;
}

void awaitEnd(Server& server, std::size_t count = 1) {
  await([&] { return ended(server).size() == count; });
}

TEST(Told, ARestoreThatIsOverIsToldWithItsLastFigures) {
  Image image(PAGES * SMALL);
  Server server(image, {.keepServing = false});
  EXPECT_THAT(ended(server), IsEmpty());
  Target target(image, server.socket(), SMALL);
  auto restore = server.restore();
  EXPECT_EQ(server.wait(restore.statsRequest().send()).getStats().getFirstPageNs(), 0u);
  ASSERT_TRUE(target.holdsImage(0));
  const auto before = server.wait(restore.statsRequest().send()).getStats().getFirstPageNs();
  EXPECT_NE(before, 0u);
  expectContent(target, {});
  awaitEnd(server);
  const std::vector<End> ends = ended(server, "vm");
  ASSERT_EQ(ends.size(), 1u);
  EXPECT_EQ(ends[0].reason, rpc::EndReason::COMPLETED);
  EXPECT_THAT(ends[0].text, HasSubstr("every page is in place"));
  EXPECT_EQ(ends[0].missing, 0u);
  EXPECT_EQ(ends[0].faulted, PAGES);
  EXPECT_EQ(ends[0].copied, PAGES);
  EXPECT_EQ(ends[0].faults, PAGES);
  EXPECT_EQ(ends[0].firstPageNs, before);
  EXPECT_LT(ends[0].firstPageNs, ends[0].ageNs);
  EXPECT_NE(ends[0].ended, 0u);
  EXPECT_THAT(ended(server, "other"), IsEmpty());

  killCoordinator(server);
  EXPECT_EQ(ended(server, "vm"), ends);
}

TEST(Told, ANameThatCameTwiceIsToldTwiceTheLatestFirst) {
  Image image(PAGES * SMALL);
  Server server(image);
  for (std::size_t n = 1; n <= 2; n++) {
    {
      Target target(image, server.socket(), SMALL);
      server.restore();
    }
    awaitEnd(server, n);
  }
  const std::vector<End> ends = ended(server, "vm");
  ASSERT_EQ(ends.size(), 2u);
  EXPECT_GT(ends[0].id, ends[1].id);
  EXPECT_EQ(ends[0].reason, rpc::EndReason::TARGET_GONE);
}

// The coordinator dies between telling of the end and giving back what the restore had: its successor gives it back, and
// tells the same.
TEST(Told, AnEndIsToldOnceWhereItsCoordinatorDies) {
  Image image(PAGES * SMALL);
  Server server(image, {.keepServing = false});
  Target target(image, server.socket(), SMALL);
  server.restore();
  const std::uint64_t id = server.status().getRestores()[0].getId();
  const pid_t coordinator = server.coordinatorPid();
  const auto barrier = arm(server, coordinatorHooks(server), "endNoted", rpc::Action::KILL);
  expectContent(target, {});
  await([&] { return kill(coordinator, 0) != 0; });
  server.reconnect();
  EXPECT_EQ(server.status().getIncarnation(), 2u);
  EXPECT_EQ(server.status().getRestores().size(), 0u);
  const std::vector<End> ends = ended(server);
  ASSERT_EQ(ends.size(), 1u);
  EXPECT_EQ(ends[0].id, id);
  EXPECT_EQ(ends[0].reason, rpc::EndReason::COMPLETED);
  EXPECT_EQ(ends[0].missing, 0u);
  // Nothing of it is kept any more: the next coordinator has it no more either.
  await([&] { return uffdsOf(server.supervisor()) == 0; });
  killCoordinator(server);
  EXPECT_EQ(ended(server), ends);
}

// --- faultline restore, that has missed something ---

class MissedEnd : public testing::Test {
 protected:
  std::unique_ptr<Command> command(std::vector<std::string> more = {}) {
    more.insert(more.begin(), {"restore", "--control", server_.control(), "--memory", image_.path(),
                               "--socket", socket_, "--name", "own"});
    auto command = std::make_unique<Command>(more);
    command->await("waiting for a target");
    return command;
  }
  static void stop(Command& command) {
    command.signal(SIGSTOP);
    command.awaitStop();
  }

  Image image_{PAGES * SMALL};
  Server server_{image_};
  const std::string socket_ = image_.directory() + "/own";
};

// The command stands still while its coordinator dies, and the restore comes and is over under the successor.
TEST_F(MissedEnd, OfARestoreThatCameMeanwhile) {
  auto waiting = command();
  stop(*waiting);
  killCoordinator(server_);
  Target target(image_, socket_, SMALL);
  expectContent(target, {});
  awaitEnd(server_);
  waiting->signal(SIGCONT);
  const auto result = waiting->finish();
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("own: complete: every page is in place"));
  EXPECT_THAT(result.out, HasSubstr("0 missing"));
}

TEST_F(MissedEnd, OfARestoreThatWasFollowed) {
  auto following = command({"--no-prefault"});
  Target target(image_, socket_, SMALL);
  ASSERT_TRUE(target.holdsImage(3));
  following->await("missing");
  stop(*following);
  killCoordinator(server_);
  expectContent(target, {});
  awaitEnd(server_);
  following->signal(SIGCONT);
  const auto result = following->finish();
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("own: complete: every page is in place"));
}

// Its recording went with the restore: that is said, and the exit code has it.
TEST_F(MissedEnd, OfARestoreThatWasRecorded) {
  auto waiting = command({"--record-working-set", image_.directory() + "/set"});
  stop(*waiting);
  killCoordinator(server_);
  Target target(image_, socket_, SMALL);
  expectContent(target, {});
  awaitEnd(server_);
  waiting->signal(SIGCONT);
  const auto result = waiting->finish();
  EXPECT_EQ(result.code, cli::FAILED);
  EXPECT_THAT(result.err, HasSubstr("is not written: the restore ended while its coordinator"));
}

// A restore of the same name that was over before is another one.
TEST_F(MissedEnd, OfAnEarlierOneIsNotOurs) {
  {
    auto first = command();
    Target target(image_, socket_, SMALL);
    EXPECT_EQ(first->finish().code, 0);
  }
  auto waiting = command();
  stop(*waiting);
  killCoordinator(server_);
  waiting->signal(SIGCONT);
  waiting->await("waiting for its successor");
  Target target(image_, socket_, SMALL);
  expectContent(target, {});
  EXPECT_EQ(waiting->finish().code, 0);
  EXPECT_EQ(ended(server_, "own").size(), 2u);
}

}  // namespace
}  // namespace faultline::test
