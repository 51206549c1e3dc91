#include "coordinator/event_log.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>

namespace faultline::coordinator {

namespace {
constexpr std::size_t MAX_TEXT = 900;  // room in a channel message, with the time
}

EventLog::EventLog(SupervisorLink& link, const std::vector<std::string>& inherited) : link_(link) {
  for (const std::string& line : inherited) {
    const std::size_t space = line.find(' ');
    if (space == std::string::npos) continue;
    keep({std::strtoull(line.c_str(), nullptr, 10), line.substr(space + 1)});
  }
}

void EventLog::add(const std::string& text, spdlog::level::level_enum level) {
  spdlog::log(level, "{}", text);
  std::string line = text.substr(0, MAX_TEXT);
  std::replace(line.begin(), line.end(), '\n', ' ');
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const auto ns =
      static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
  link_.event(std::to_string(ns) + " " + line);
  keep({ns, std::move(line)});
}

void EventLog::keep(Event event) {
  events_.push_back(std::move(event));
  if (events_.size() > KEPT) events_.pop_front();
}

}  // namespace faultline::coordinator
