#include "process/log.h"

#include <spdlog/details/log_msg_buffer.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <deque>
#include <exception>
#include <utility>

#include "process/journal_sink.h"
#include "process/log_about.h"
#include "process/plain_text.h"
#include "threads/detached.h"

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

// Whether a write to it can wait for a reader: one to a file never does.
bool mayWait(int fd) {
  struct stat status {};
  return fstat(fd, &status) != 0 || !S_ISREG(status.st_mode);
}

std::weak_ptr<QueuedSink> ownQueue;  // of setUpLog()

constexpr std::chrono::milliseconds LAST_LINES{500};

}  // namespace

struct QueuedSink::Shared {
  Shared(std::shared_ptr<spdlog::sinks::sink> sink, std::size_t most) : to(std::move(sink)), room(most) {}

  const std::shared_ptr<spdlog::sinks::sink> to;  // the thread's, once it runs
  const std::size_t room;
  threads::Mutex mutex;
  threads::Condition changed;
  struct Line {
    spdlog::details::log_msg_buffer message;
    LogSubject about;
  };
  std::deque<Line> queue GUARDED_BY(mutex);
  std::uint64_t dropped GUARDED_BY(mutex) = 0;
  bool writing GUARDED_BY(mutex) = false, ending GUARDED_BY(mutex) = false;

  bool written() const REQUIRES(mutex) { return queue.empty() && !writing; }
};

QueuedSink::QueuedSink(std::shared_ptr<spdlog::sinks::sink> to, std::size_t room)
    : shared_(std::make_shared<Shared>(std::move(to), room)) {
  threads::startWithoutSignals([shared = shared_] { run(shared); });
}

QueuedSink::~QueuedSink() {
  drain(LAST_LINES);
  const threads::Lock lock(shared_->mutex);
  shared_->ending = true;
  shared_->changed.notifyAll();
}

void QueuedSink::set_pattern(const std::string& pattern) {
  const threads::Lock lock(shared_->mutex);
  shared_->to->set_pattern(pattern);
}

void QueuedSink::set_formatter(std::unique_ptr<spdlog::formatter> formatter) {
  const threads::Lock lock(shared_->mutex);
  shared_->to->set_formatter(std::move(formatter));
}

void QueuedSink::log(const spdlog::details::log_msg& message) {
  const threads::Lock lock(shared_->mutex);
  if (shared_->queue.size() >= shared_->room) {
    shared_->dropped++;
    return;
  }
  if (shared_->dropped != 0) {
    const std::string text =
        std::to_string(shared_->dropped) + " lines were dropped: the log was not being read";
    spdlog::details::log_msg told(message);
    told.payload = text;
    shared_->queue.push_back({spdlog::details::log_msg_buffer(told), {}});
    shared_->dropped = 0;
  }
  shared_->queue.push_back({spdlog::details::log_msg_buffer(message), logSubject()});
  shared_->changed.notifyAll();
}

bool QueuedSink::drain(std::chrono::milliseconds limit) {
  const auto until = std::chrono::steady_clock::now() + limit;
  const threads::Lock lock(shared_->mutex);
  while (!shared_->written())
    if (!shared_->changed.waitUntil(shared_->mutex, until)) return shared_->written();
  return true;
}

void QueuedSink::run(const std::shared_ptr<Shared>& shared) {
  threads::Lock lock(shared->mutex);
  for (;;) {
    while (shared->queue.empty() && !shared->ending) shared->changed.wait(shared->mutex);
    if (shared->queue.empty()) return;
    const Shared::Line line(std::move(shared->queue.front()));
    shared->queue.pop_front();
    shared->writing = true;
    lock.unlock();
    try {
      const LogAbout about(line.about);
      shared->to->log(line.message);
      shared->to->flush();
    } catch (const std::exception&) {  // a full disk, a closed pipe: there is no place to say so
    }
    lock.lock();
    shared->writing = false;
    shared->changed.notifyAll();
  }
}

void flushLog(std::chrono::milliseconds limit) {
  if (const auto queue = ownQueue.lock()) queue->drain(limit);
}

void setUpLog(const std::string& name, LogStream stream) {
  const int fd = stream == LogStream::err ? STDERR_FILENO : STDOUT_FILENO;
  std::shared_ptr<spdlog::sinks::sink> to;
  const bool fields = isJournal(fd) && JournalSink::possible();
  if (fields)
    to = std::make_shared<JournalSink>(name);
  else if (stream == LogStream::err)
    to = std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
  else
    to = std::make_shared<spdlog::sinks::stdout_color_sink_mt>();
  if (mayWait(fd)) {
    auto queued = std::make_shared<QueuedSink>(std::move(to));
    ownQueue = queued;
    to = std::move(queued);
  }
  auto logger = std::make_shared<spdlog::logger>(name, std::make_shared<LimitedSink>(std::move(to)));
  auto formatter = std::make_unique<spdlog::pattern_formatter>();
  if (fields)
    formatter->set_pattern("%n[%P]: %v");
  else if (isJournal(fd))
    formatter->add_flag<JournalLevel>('*').set_pattern("%*%n[%P]: %v");
  else
    formatter->set_pattern("%Y-%m-%dT%H:%M:%S.%e %n[%P] %l: %v");
  logger->set_formatter(std::move(formatter));
  logger->flush_on(spdlog::level::trace);
  logger->set_level(spdlog::get_level());
  spdlog::set_default_logger(std::move(logger));
}

void LimitedSink::log(const spdlog::details::log_msg& message) {
  const threads::Lock lock(mutex_);
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
  const std::string_view text(message.payload.data(), message.payload.size());
  if (isPlainText(text)) return to_->log(message);
  const std::string line = plainText(text);
  spdlog::details::log_msg changed(message);
  changed.payload = line;
  to_->log(changed);
}

}  // namespace faultline::process
