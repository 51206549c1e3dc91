// Lines that the log hands on, and their limit.

#include "process/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>

#include <sstream>

#include "process/plain_text.h"
#include "threads/mutex.h"

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
    const threads::Lock lock(mutex_);
    lines_.emplace_back(message.payload.data(), message.payload.size());
    changed_.notifyAll();
    while (!reads_) changed_.wait(mutex_);
  }
  void flush() override {}
  void set_pattern(const std::string&) override {}
  void set_formatter(std::unique_ptr<spdlog::formatter>) override {}

  void awaitFirst() {
    const threads::Lock lock(mutex_);
    while (lines_.empty()) changed_.wait(mutex_);
  }
  void read() {
    const threads::Lock lock(mutex_);
    reads_ = true;
    changed_.notifyAll();
  }
  std::vector<std::string> lines() {
    const threads::Lock lock(mutex_);
    return lines_;
  }

 private:
  threads::Mutex mutex_;
  threads::Condition changed_;
  std::vector<std::string> lines_ GUARDED_BY(mutex_);
  bool reads_ GUARDED_BY(mutex_) = false;
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
  EXPECT_THAT(log.lines(), ElementsAre("warning restore vm <0>forged?[2J: refused"));
}

// --- what others say ---

using process::isPlainText;
using process::isRestoreName;
using process::plainText;

TEST(PlainText, IsLeftAsItIs) {
  for (const char* text : {"", "vm1", "~ }", "caf\xc3\xa9", "\xe2\x82\xac \xf0\x9f\x90\xa7"}) {
    EXPECT_EQ(plainText(text), text);
    EXPECT_TRUE(isPlainText(text)) << text;
  }
}

TEST(PlainText, HasNoCommandsForATerminal) {
  EXPECT_EQ(plainText("x\x1b[31mRED\x1b]0;pwn\x07"), "x?[31mRED?]0;pwn?");
  EXPECT_EQ(plainText("a\x7f"
                      "b"),
            "a?b");
  EXPECT_EQ(plainText("a\xc2\x9b"
                      "31m"),
            "a?31m");  // C1: CSI
  EXPECT_EQ(plainText("a\xe2\x80\xae"
                      "b"),
            "a?b");  // right to left from here on
  EXPECT_EQ(plainText(std::string_view("a\0b", 3)), "a?b");
}

TEST(PlainText, IsValidUtf8) {
  EXPECT_EQ(plainText("\xff\xfe"), "??");
  EXPECT_EQ(plainText("\xc3"), "?");                 // cut off
  EXPECT_EQ(plainText("\xc0\xaf"), "??");            // not the shortest form
  EXPECT_EQ(plainText("\xed\xa0\x80"), "???");       // half of a surrogate pair
  EXPECT_EQ(plainText("\xf4\x90\x80\x80"), "????");  // behind the last
  EXPECT_EQ(plainText("\xe2\x82x"), "??x");
}

TEST(PlainText, IsOneLineUnlessLinesAreWanted) {
  EXPECT_EQ(plainText("a\nb\tc\rd"), "a b c d");
  EXPECT_EQ(plainText("a\nb\r", process::Lines::keep), "a\nb ");
}

TEST(RestoreName, IsPlainTextWithoutWhatSeparatesNames) {
  for (const char* name : {"vm1", "a", "caf\xc3\xa9", "x_y-z"}) EXPECT_TRUE(isRestoreName(name)) << name;
  for (const char* name :
       {"", "a b", "a.b", "a:b", "/", "\x1b[31mX", "a\x7f", "\xff", "a\xc2\x9b", "two\nlines"})
    EXPECT_FALSE(isRestoreName(name)) << name;
  EXPECT_TRUE(isRestoreName(std::string(50, 'n')));
  EXPECT_FALSE(isRestoreName(std::string(51, 'n')));
}

}  // namespace
}  // namespace faultline::test
