// The log of our processes: one line an event, and a limit, so that it stays readable.
#pragma once

#include <spdlog/sinks/sink.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "threads/mutex.h"

namespace faultline::process {

enum class LogStream { out, err };

// Sets up the process's log, under the name of the process. A line has time, process, level and text. Lines go to the
// journal itself, with fields (journal_sink.h), where the stream is the journal's (JOURNAL_STREAM, systemd.exec(5)); where that
// takes none, into the stream, with the level as the journal reads it ("<4>"). To be called once, before any thread is made.
void setUpLog(const std::string& name, LogStream stream);

// Waits, at most `limit`, until what was logged is written. For an end by _exit(); exit() does it by itself.
void flushLog(std::chrono::milliseconds limit = std::chrono::milliseconds(500));

// Hands messages on in a thread of its own, so that the caller never waits for the reader of the log (a pipe
// whose reader stands still is full). At most `room` messages wait for that; further ones are counted, and
// the count is told before the next that goes out. Thread-safe.
class QueuedSink final : public spdlog::sinks::sink {
 public:
  static constexpr std::size_t ROOM = 1000;

  explicit QueuedSink(std::shared_ptr<spdlog::sinks::sink> to, std::size_t room = ROOM);
  // Waits a moment for what is queued; what is not written then is lost.
  ~QueuedSink() override;

  void log(const spdlog::details::log_msg& message) override;
  void flush() override {}  // the thread flushes
  // Before the first message.
  void set_pattern(const std::string& pattern) override;
  void set_formatter(std::unique_ptr<spdlog::formatter> formatter) override;

  // False: not within `limit`.
  bool drain(std::chrono::milliseconds limit);

 private:
  struct Shared;
  static void run(const std::shared_ptr<Shared>& shared);
  std::shared_ptr<Shared> shared_;  // with the thread, which may outlive this
};

// Hands messages on, each as one line whatever it was made of, and at most `limit` of one level a second:
// further ones are counted, and the count is told before the next that goes out. Levels do not count for each
// other, so no flood hides what is worse. Thread-safe.
class LimitedSink final : public spdlog::sinks::sink {
 public:
  static constexpr unsigned LIMIT = 100;

  explicit LimitedSink(std::shared_ptr<spdlog::sinks::sink> to, unsigned limit = LIMIT)
      : to_(std::move(to)), limit_(limit) {}

  void log(const spdlog::details::log_msg& message) override;
  void flush() override { to_->flush(); }
  void set_pattern(const std::string& pattern) override { to_->set_pattern(pattern); }
  void set_formatter(std::unique_ptr<spdlog::formatter> formatter) override {
    to_->set_formatter(std::move(formatter));
  }

 private:
  struct Second {
    std::chrono::system_clock::time_point began{};
    unsigned passed = 0;
    std::uint64_t leftOut = 0;
  };

  const std::shared_ptr<spdlog::sinks::sink> to_;
  const unsigned limit_;
  threads::Mutex mutex_;
  std::array<Second, spdlog::level::n_levels> seconds_ GUARDED_BY(mutex_);
};

}  // namespace faultline::process
