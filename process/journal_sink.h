// The log as the journal's own messages, with fields (sd_journal_send(3)): PRIORITY=, and what a line is about (log_about.h).
#pragma once

#include <spdlog/sinks/base_sink.h>

#include <mutex>

namespace faultline::process {

// Thread-safe. May wait for the journal: to be put behind a queue.
class JournalSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  // Whether there is a journal to send to.
  static bool possible();
  // Sends a first line, at level debug: the library opens its socket with it, which a sandbox may forbid later.
  explicit JournalSink(const std::string& process);

 private:
  void sink_it_(const spdlog::details::log_msg& message) override;
  void flush_() override {}
};

}  // namespace faultline::process
