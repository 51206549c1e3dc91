#include "process/log.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

namespace faultline::process {

namespace {

// sd-daemon(3): 2 critical, 3 error, 4 warning, 6 info, 7 debug.
class JournalLevel final : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&, spdlog::memory_buf_t& to) override {
    static constexpr char LEVELS[spdlog::level::n_levels] = {'7', '7', '6', '4', '3', '2', '6'};
    to.push_back('<');
    to.push_back(LEVELS[message.level]);
    to.push_back('>');
  }
  std::unique_ptr<custom_flag_formatter> clone() const override { return std::make_unique<JournalLevel>(); }
};

// The variable is inherited: whether it is about this stream only its value tells.
bool isJournal(int fd) {
  const char* journal = getenv("JOURNAL_STREAM");
  struct stat status {};
  return journal != nullptr && fstat(fd, &status) == 0 &&
         std::to_string(status.st_dev) + ":" + std::to_string(status.st_ino) == journal;
}

}  // namespace

void setUpLog(const std::string& name, LogStream stream) {
  std::shared_ptr<spdlog::sinks::sink> to;
  if (stream == LogStream::err)
    to = std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
  else
    to = std::make_shared<spdlog::sinks::stdout_color_sink_mt>();
  auto logger = std::make_shared<spdlog::logger>(name, std::make_shared<LimitedSink>(std::move(to)));
  auto formatter = std::make_unique<spdlog::pattern_formatter>();
  if (isJournal(stream == LogStream::err ? STDERR_FILENO : STDOUT_FILENO))
    formatter->add_flag<JournalLevel>('*').set_pattern("%*%n[%P]: %v");
  else
    formatter->set_pattern("%Y-%m-%dT%H:%M:%S.%e %n[%P] %l: %v");
  logger->set_formatter(std::move(formatter));
  logger->flush_on(spdlog::level::trace);
  logger->set_level(spdlog::get_level());
  spdlog::set_default_logger(std::move(logger));
}

void LimitedSink::log(const spdlog::details::log_msg& message) {
  std::lock_guard lock(mutex_);
  Second& second = seconds_[message.level];
  if (message.time - second.began >= std::chrono::seconds(1) || message.time < second.began) {
    if (second.leftOut != 0) {
      const std::string text = std::to_string(second.leftOut) + " lines of this level were left out";
      spdlog::details::log_msg told(message);
      told.payload = text;
      to_->log(told);
    }
    second = {message.time, 0, 0};
  }
  if (second.passed++ >= limit_) {
    second.leftOut++;
    return;
  }
  const auto control = [](char c) { return static_cast<unsigned char>(c) < ' '; };
  if (std::none_of(message.payload.begin(), message.payload.end(), control)) return to_->log(message);
  std::string line(message.payload.data(), message.payload.size());
  std::replace_if(line.begin(), line.end(), control, ' ');
  spdlog::details::log_msg changed(message);
  changed.payload = line;
  to_->log(changed);
}

}  // namespace faultline::process
