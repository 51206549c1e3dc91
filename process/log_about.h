// The subject of a line of the log, for readers that look for it by fields: the journal's RESTORE=, SHARD= and
// MESSAGE_ID=.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace faultline::process {

// MESSAGE_ID of lines that a program may look for (sd-id128(3)); they do not change. docs/operating.md lists them.
namespace message {
inline constexpr const char* SERVING = "5c2c0e1ba8f34bd2a4d9cf6d8b5c0a01";        // the service takes targets
inline constexpr const char* SERVICE_ENDS = "5c2c0e1ba8f34bd2a4d9cf6d8b5c0a02";   // told to end
inline constexpr const char* RESTORE_BEGUN = "5c2c0e1ba8f34bd2a4d9cf6d8b5c0a03";  // a target is served
inline constexpr const char* RESTORE_ENDED = "5c2c0e1ba8f34bd2a4d9cf6d8b5c0a04";  // for whatever reason
inline constexpr const char* TARGET_LOST = "5c2c0e1ba8f34bd2a4d9cf6d8b5c0a05";  // a target has lost something
inline constexpr const char* TARGET_REFUSED = "5c2c0e1ba8f34bd2a4d9cf6d8b5c0a06";  // a handshake was refused
inline constexpr const char* HEALED =
    "5c2c0e1ba8f34bd2a4d9cf6d8b5c0a07";  // something that died, or was wrong, was dealt with
inline constexpr const char* PLANNED = "5c2c0e1ba8f34bd2a4d9cf6d8b5c0a08";  // something asked for happened
}  // namespace message

struct LogSubject {
  std::string restore = {};                 // empty: none, or several
  std::optional<std::uint32_t> shard = {};  // index
  const char* messageId = nullptr;          // from message::, or none
};

// Lines that this thread logs while the object lives are about this. Objects of one thread may lie in one another: what
// the inner one leaves open the outer one says.
class LogAbout {
 public:
  explicit LogAbout(LogSubject subject);
  ~LogAbout();
  LogAbout(const LogAbout&) = delete;
  LogAbout& operator=(const LogAbout&) = delete;

 private:
  LogSubject former_;
};

// The subject of this thread's lines, now.
const LogSubject& logSubject();
// For a process that is about one shard: where a line names none, it is this one. To be called before any thread is made.
void logForShard(std::uint32_t index);

}  // namespace faultline::process
