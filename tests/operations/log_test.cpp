// Lines that the log hands on, and their limit.

#include "process/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>

#include <condition_variable>
#include <mutex>
#include <sstream>

namespace faultline::test {
namespace {

using spdlog::level::level_enum;
using ::testing::ElementsAre;

class Log {
 public:
  explicit Log(unsigned limit) : sink_(std::make_shared<spdlog::sinks::ostream_sink_mt>(out_), limit) {
    sink_.set_pattern("%l %v");
  }
  // `at`: ms, of any epoch.
  void say(int at, level_enum level, const std::string& text) {
    const auto time =
        std::chrono::system_clock::time_point(std::chrono::hours(1) + std::chrono::milliseconds(at));
    sink_.log(spdlog::details::log_msg(time, {}, "log", level, text));
  }
  std::vector<std::string> lines() const {
    std::istringstream in(out_.str());
    std::vector<std::string> result;
    for (std::string line; std::getline(in, line);) result.push_back(line);
    return result;
  }

 private:
  std::ostringstream out_;
  process::LimitedSink sink_;
};

TEST(Log, LeavesOutWhatIsTooMuchAndSaysHowMuch) {
  Log log(2);
  for (int i = 0; i < 5; i++) log.say(i, level_enum::err, "page " + std::to_string(i));
  EXPECT_THAT(log.lines(), ElementsAre("error page 0", "error page 1"));
  log.say(999, level_enum::err, "still the same second");
  log.say(1000, level_enum::err, "the next");
  EXPECT_THAT(log.lines(), ElementsAre("error page 0", "error page 1",
                                       "error 4 lines of this level were left out", "error the next"));
}

TEST(Log, AFloodDoesNotHideWhatIsWorse) {
  Log log(1);
  log.say(0, level_enum::info, "a");
  log.say(1, level_enum::info, "b");
  log.say(2, level_enum::critical, "c");
  EXPECT_THAT(log.lines(), ElementsAre("info a", "critical c"));
}

// Holds every line that it is given until it is let go.
class StandingReader final : public spdlog::sinks::sink {
 public:
  void log(const spdlog::details::log_msg& message) override {
    std::unique_lock lock(mutex_);
    lines_.emplace_back(message.payload.data(), message.payload.size());
    changed_.notify_all();
    changed_.wait(lock, [this] { return reads_; });
  }
  void flush() override {}
  void set_pattern(const std::string&) override {}
  void set_formatter(std::unique_ptr<spdlog::formatter>) override {}

  void awaitFirst() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !lines_.empty(); });
  }
  void read() {
    std::lock_guard lock(mutex_);
    reads_ = true;
    changed_.notify_all();
  }
  std::vector<std::string> lines() {
    std::lock_guard lock(mutex_);
    return lines_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> lines_;
  bool reads_ = false;
};

// A pipe whose reader stands still is full, and a write to it waits.
TEST(Log, IsNotWaitedForAndCountsWhatItDrops) {
  auto reader = std::make_shared<StandingReader>();
  process::QueuedSink sink(reader, 2);
  auto say = [&](const std::string& text) { sink.log({{}, "log", level_enum::info, text}); };
  say("a");
  reader->awaitFirst();
  for (const char* text : {"b", "c", "d", "e"}) say(text);
  EXPECT_FALSE(sink.drain(std::chrono::milliseconds(1)));
  reader->read();
  ASSERT_TRUE(sink.drain(std::chrono::seconds(30)));
  say("f");
  ASSERT_TRUE(sink.drain(std::chrono::seconds(30)));
  EXPECT_THAT(reader->lines(),
              ElementsAre("a", "b", "c", "2 lines were dropped: the log was not being read", "f"));
}

// A clock that is set back must not silence the log.
TEST(Log, GoesOnWhenTheClockIsSetBack) {
  Log log(1);
  log.say(5000, level_enum::info, "a");
  log.say(10, level_enum::info, "b");
  EXPECT_THAT(log.lines(), ElementsAre("info a", "info b"));
}

TEST(Log, AMessageIsOneLineWhateverAPeerPutIntoIt) {
  Log log(10);
  log.say(0, level_enum::warn, "restore vm\n<0>forged\x1b[2J: refused");
  EXPECT_THAT(log.lines(), ElementsAre("warning restore vm <0>forged [2J: refused"));
}

}  // namespace
}  // namespace faultline::test
