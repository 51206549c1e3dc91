#include "process/journal_sink.h"

#include <sys/uio.h>
#include <unistd.h>

// The place in the code is no field of ours.
#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-journal.h>

#include <array>
#include <string>
#include <vector>

#include "process/log_about.h"

namespace faultline::process {

namespace {

constexpr const char* SOCKET = "/run/systemd/journal/socket";
// syslog(3), by the level of spdlog.
constexpr std::array<char, spdlog::level::n_levels> PRIORITIES{'7', '7', '6', '4', '3', '2', '6'};

void send(std::string text, char priority, const LogSubject& subject) {
  std::vector<std::string> fields{"MESSAGE=" + std::move(text), std::string("PRIORITY=") + priority,
                                  "SYSLOG_IDENTIFIER=faultline"};
  if (!subject.restore.empty()) fields.push_back("RESTORE=" + subject.restore);
  if (subject.shard.has_value()) fields.push_back("SHARD=" + std::to_string(*subject.shard));
  if (subject.messageId != nullptr) fields.push_back(std::string("MESSAGE_ID=") + subject.messageId);
  std::vector<iovec> parts;
  parts.reserve(fields.size());
  for (std::string& field : fields) parts.push_back({field.data(), field.size()});
  // A journal that is not there now gets nothing: there is no place to say so.
  static_cast<void>(sd_journal_sendv(parts.data(), static_cast<int>(parts.size())));
}

}  // namespace

bool JournalSink::possible() {
  return access(SOCKET, W_OK) == 0;
}

JournalSink::JournalSink(const std::string& process) {
  send(process + "[" + std::to_string(getpid()) + "]: begins", '7', logSubject());
}

void JournalSink::sink_it_(const spdlog::details::log_msg& message) {
  spdlog::memory_buf_t text;
  formatter_->format(message, text);
  send(std::string(text.data(), text.size()), PRIORITIES.at(static_cast<std::size_t>(message.level)),
       logSubject());
}

}  // namespace faultline::process
