// Lines that the log hands on, and their limit.

#include "process/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>

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
