// The latest events, kept across coordinators, for an operator who asks afterwards.
#pragma once

#include <spdlog/common.h>

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "coordinator/supervisor_link.h"

namespace faultline::coordinator {

// Loop thread only.
class EventLog {
 public:
  static constexpr std::size_t KEPT = 64;

  struct Event {
    std::uint64_t unixNs;
    std::string text;
  };

  // `inherited`: events as the supervisor kept them.
  EventLog(SupervisorLink& link, const std::vector<std::string>& inherited);

  // Adds a line: what, why, how long it took. Goes to the log too.
  void add(const std::string& text) { add(text, spdlog::level::warn); }
  // Adds a loss of a target, as an error.
  void lost(const std::string& text) { add(text, spdlog::level::err); }
  const std::deque<Event>& latest() const { return events_; }

 private:
  void add(const std::string& text, spdlog::level::level_enum level);
  void keep(Event event);

  SupervisorLink& link_;
  std::deque<Event> events_;
};

}  // namespace faultline::coordinator
