#include "process/log_about.h"

#include <utility>

namespace faultline::process {

namespace {

std::optional<std::uint32_t> ownShard;

LogSubject& current() {
  thread_local LogSubject subject{.restore = {}, .shard = ownShard, .messageId = nullptr};
  return subject;
}

}  // namespace

LogAbout::LogAbout(LogSubject subject) {
  const LogSubject& outer = current();
  if (subject.restore.empty()) subject.restore = outer.restore;
  if (!subject.shard.has_value()) subject.shard = outer.shard;
  if (subject.messageId == nullptr) subject.messageId = outer.messageId;
  former_ = std::exchange(current(), std::move(subject));
}

LogAbout::~LogAbout() {
  current() = std::move(former_);
}

const LogSubject& logSubject() {
  return current();
}

void logForShard(std::uint32_t index) {
  ownShard = index;
  current().shard = index;
}

}  // namespace faultline::process
