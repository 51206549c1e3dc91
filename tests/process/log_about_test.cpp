// The subject of a line of the log, on its way to the journal.

#include "process/log_about.h"

#include <gtest/gtest.h>
#include <spdlog/sinks/base_sink.h>

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include "process/log.h"

namespace faultline::process {
namespace {

// Notes what each line is about.
class Subjects final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  std::vector<std::string> lines;

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    const LogSubject& about = logSubject();
    lines.push_back(std::string(message.payload.data(), message.payload.size()) + "|" + about.restore + "|" +
                    (about.shard.has_value() ? std::to_string(*about.shard) : "") + "|" +
                    (about.messageId == nullptr ? "" : about.messageId));
  }
  void flush_() override {}
};

spdlog::details::log_msg line(const std::string& text) {
  return {"log", spdlog::level::info, text};
}

// The queue's own thread hands it on, when the one that logged has gone on to something else.
TEST(LogAbout, GoesWithTheLineThroughTheQueue) {
  const auto subjects = std::make_shared<Subjects>();
  QueuedSink queue(subjects);
  queue.log(line("a"));
  {
    const LogAbout vm({.restore = "vm1", .shard = 3, .messageId = message::RESTORE_BEGUN});
    queue.log(line("b"));
    {
      const LogAbout other({.restore = "vm2"});
      queue.log(line("c"));
    }
    queue.log(line("d"));
    std::thread([&] { queue.log(line("another thread")); }).join();
  }
  queue.log(line("e"));
  ASSERT_TRUE(queue.drain(std::chrono::seconds(10)));
  const std::string begun = message::RESTORE_BEGUN;
  EXPECT_EQ(subjects->lines, (std::vector<std::string>{"a|||", "b|vm1|3|" + begun, "c|vm2|3|" + begun,
                                                       "d|vm1|3|" + begun, "another thread|||", "e|||"}));
}

TEST(LogAbout, MessageIdsAreOnesOfTheJournal) {
  std::vector<std::string> ids{message::SERVING,       message::SERVICE_ENDS, message::RESTORE_BEGUN,
                               message::RESTORE_ENDED, message::TARGET_LOST,  message::TARGET_REFUSED,
                               message::HEALED,        message::PLANNED};
  for (const std::string& id : ids) {
    EXPECT_EQ(id.size(), 32u) << id;
    EXPECT_EQ(id.find_first_not_of("0123456789abcdef"), std::string::npos) << id;
  }
  std::sort(ids.begin(), ids.end());
  EXPECT_EQ(std::unique(ids.begin(), ids.end()), ids.end());
}

}  // namespace
}  // namespace faultline::process
