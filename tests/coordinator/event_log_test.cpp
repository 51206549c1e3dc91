// The event log: lines that it inherits, and the numbers of events.

#include "coordinator/event_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <kj/async-io.h>
#include <spdlog/spdlog.h>

#include <string>
#include <vector>

#include "process/fd_channel.h"

namespace faultline::coordinator {
namespace {

using rpc::EventLevel;
using testing::ElementsAre;
using testing::MatchesRegex;

struct Logged {
  explicit Logged(const std::vector<std::string>& inherited, std::uint64_t last = 0)
      : counter(last), log(link, inherited, counter) {}

  std::vector<std::uint64_t> numbers() const {
    std::vector<std::uint64_t> numbers;
    for (const EventLog::Event& event : log.latest()) numbers.push_back(event.number);
    return numbers;
  }
  // The line that was sent to the supervisor last.
  std::string sent() {
    std::string line;
    for (;;) {
      auto received = supervisor.receive(process::FdChannel::Wait::no);
      KJ_IF_MAYBE (message, received) {
        line = message->name;
      } else {
        return line;
      }
    }
  }

  static kj::AsyncIoContext& loop() {
    static kj::AsyncIoContext io = kj::setupAsyncIo();
    return io;
  }

  std::pair<kj::AutoCloseFd, kj::AutoCloseFd> channel = process::FdChannel::pair();
  SupervisorLink link{kj::mv(channel.first), loop().unixEventPort};
  process::FdChannel supervisor{kj::mv(channel.second)};
  shm::Counter counter;
  EventLog log;
};

TEST(EventLog, ASuccessorReadsTheLineThatWasSent) {
  Logged first({});
  first.log.lost("restore vm: page 7 is\nlost", "vm");
  const std::string line = first.sent();
  EXPECT_THAT(line, MatchesRegex("[0-9]+ 1 error vm restore vm: page 7 is lost"));
  Logged second({line});
  ASSERT_EQ(second.log.latest().size(), 1u);
  const EventLog::Event& event = second.log.latest().front();
  EXPECT_EQ(event.number, 1u);
  EXPECT_EQ(event.unixNs, first.log.latest().front().unixNs);
  EXPECT_EQ(event.level, EventLevel::ERROR);
  EXPECT_EQ(event.restore, "vm");
  EXPECT_EQ(event.text, "restore vm: page 7 is lost");
  second.log.planned("the next");
  EXPECT_THAT(second.sent(), MatchesRegex("[0-9]+ 2 info [.] the next"));
}

TEST(EventLog, LinesOfAFormerBuildGetNumbers) {
  Logged log({"17 shard 1 (pid 4) is killed: it stood still", "18 12 shards are up", "no line of ours"});
  EXPECT_THAT(log.numbers(), ElementsAre(1, 2));
  EXPECT_EQ(log.log.latest().front().text, "shard 1 (pid 4) is killed: it stood still");
  EXPECT_EQ(log.log.latest().front().level, EventLevel::WARNING);
  EXPECT_EQ(log.log.latest().back().text, "12 shards are up");
  EXPECT_EQ(log.log.lastNumber(), 2u);
}

// A predecessor had told of event 9, and its line was lost with it.
TEST(EventLog, NoNumberIsGivenTwice) {
  Logged log({"17 7 info . seven"}, 9);
  log.log.add("the next");
  EXPECT_THAT(log.numbers(), ElementsAre(7, 10));
}

// The counter began anew: a line with a number is ahead of it.
TEST(EventLog, GoesOnFromTheLines) {
  Logged log({"17 7 info . seven"});
  log.log.add("the next");
  EXPECT_THAT(log.numbers(), ElementsAre(7, 8));
}

TEST(EventLog, ALongTextFitsTheChannel) {
  Logged log({}, ~0ull - 1);
  spdlog::set_level(spdlog::level::off);
  log.log.planned(std::string(5000, 'x'), std::string(62, 'n'));
  spdlog::set_level(spdlog::level::info);
  EXPECT_THAT(log.sent(), MatchesRegex("[0-9]+ 18446744073709551615 info n+ x+"));
}

}  // namespace
}  // namespace faultline::coordinator
