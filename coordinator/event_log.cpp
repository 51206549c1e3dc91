#include "coordinator/event_log.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>
#include <utility>

#include "process/clock.h"
#include "process/log_about.h"
#include "rpc/refusal.h"

namespace faultline::coordinator {

namespace {

constexpr std::size_t MAX_TEXT = 850;   // room in a channel message, with what stands before it
constexpr std::string_view NONE = ".";  // in place of a restore: no restore is called that

struct Level {
  rpc::EventLevel level;
  std::string_view word;
  spdlog::level::level_enum logged;
  const char* message;  // MESSAGE_ID
};
constexpr Level LEVELS[] = {
    {rpc::EventLevel::INFO, "info", spdlog::level::info, process::message::PLANNED},
    {rpc::EventLevel::WARNING, "warning", spdlog::level::warn, process::message::HEALED},
    {rpc::EventLevel::ERROR, "error", spdlog::level::err, process::message::TARGET_LOST}};

const Level& levelOf(rpc::EventLevel level) {
  return *std::find_if(std::begin(LEVELS), std::end(LEVELS),
                       [level](const Level& l) { return l.level == level; });
}

// The word that `rest` begins with, which it loses with the blank behind it.
std::string_view take(std::string_view& rest) {
  const std::size_t blank = rest.find(' ');
  const std::string_view word = rest.substr(0, blank);
  rest = blank == std::string_view::npos ? std::string_view() : rest.substr(blank + 1);
  return word;
}

std::optional<std::uint64_t> numberFrom(std::string_view word) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number);
  if (word.empty() || error != std::errc() || end != word.data() + word.size()) return std::nullopt;
  return number;
}

}  // namespace

EventLog::Waiter::Waiter(kj::PromiseFulfiller<void>& its, EventLog& at) : fulfiller(its), log(at) {
  log.waiting_.insert(this);
}

EventLog::Waiter::~Waiter() {
  log.waiting_.erase(this);
}

EventLog::EventLog(SupervisorLink& link, const std::vector<std::string>& inherited, shm::Counter& last)
    : link_(link), last_(last) {
  for (const std::string& line : inherited) inherit(line);
  // The counter is ahead of the lines where a predecessor's last ones were lost with it, and behind them where it began
  // anew.
  if (!events_.empty()) last_.store(std::max(last_.load(), events_.back().number));
}

void EventLog::inherit(const std::string& line) {
  std::string_view rest = line;
  const auto ns = numberFrom(take(rest));
  if (!ns.has_value()) return;
  const std::uint64_t next = events_.empty() ? 1 : events_.back().number + 1;
  Event event{next, *ns, rpc::EventLevel::WARNING, "", std::string(rest)};
  const auto number = numberFrom(take(rest));
  const std::string_view word = take(rest), restore = take(rest);
  const auto level =
      std::find_if(std::begin(LEVELS), std::end(LEVELS), [word](const Level& l) { return l.word == word; });
  if (number.has_value() && *number >= next && level != std::end(LEVELS) && !restore.empty())
    event = {*number, *ns, level->level, std::string(restore == NONE ? "" : restore), std::string(rest)};
  keep(std::move(event));
}

void EventLog::planned(const std::string& text, const std::string& restore) {
  add(rpc::EventLevel::INFO, text, restore);
}

void EventLog::add(const std::string& text, const std::string& restore) {
  add(rpc::EventLevel::WARNING, text, restore);
}

void EventLog::lost(const std::string& text, const std::string& restore) {
  add(rpc::EventLevel::ERROR, text, restore);
}

void EventLog::add(rpc::EventLevel level, const std::string& text, const std::string& restore) {
  const Level& its = levelOf(level);
  const process::LogAbout about({.restore = restore, .messageId = its.message});
  spdlog::log(its.logged, "{}", text);
  std::string line = text.substr(0, MAX_TEXT);
  std::replace(line.begin(), line.end(), '\n', ' ');
  const std::uint64_t ns = process::unixNs();
  const std::uint64_t number = last_.fetch_add(1) + 1;
  link_.event(std::to_string(ns) + " " + std::to_string(number) + " " + std::string(its.word) + " " +
              (restore.empty() ? std::string(NONE) : restore) + " " + line);
  keep({number, ns, level, restore, std::move(line)});
  // Fulfilled, a waiter is still there until its promise is dropped.
  for (Waiter* waiter : std::exchange(waiting_, {})) waiter->fulfiller.fulfill();
}

void EventLog::keep(Event event) {
  events_.push_back(std::move(event));
  if (events_.size() > KEPT) events_.pop_front();
}

kj::Promise<void> EventLog::whenBehind(std::uint64_t after) {
  if (after > lastNumber())
    rpc::refuse(rpc::Reason::BAD_INPUT,
                "there has been no event " + std::to_string(after) + ": the service's last one is number " +
                    std::to_string(lastNumber()) + "; was the service started anew? Then ask on from 0");
  if (after < lastNumber()) return kj::READY_NOW;
  if (waiting_.size() >= MOST_WAITING)
    rpc::refuse(rpc::Reason::LIMIT_REACHED,
                std::to_string(waiting_.size()) + " calls wait for an event already");
  return kj::newAdaptedPromise<void, Waiter>(*this);
}

void EventLog::fill(rpc::Coordinator::EventsResults::Builder results, std::uint64_t after) const {
  const auto first =
      std::find_if(events_.begin(), events_.end(), [after](const Event& e) { return e.number > after; });
  const auto found = static_cast<std::uint64_t>(events_.end() - first);
  auto list = results.initEvents(static_cast<unsigned>(found));
  for (unsigned i = 0; i < found; i++) coordinator::fill(list[i], first[i]);
  results.setLost(lastNumber() - after - found);
}

void fill(rpc::ServiceEvent::Builder to, const EventLog::Event& event) {
  to.setUnixNs(event.unixNs);
  to.setText(event.text.c_str());
  to.setNumber(event.number);
  to.setRestore(event.restore.c_str());
  to.setLevel(event.level);
}

}  // namespace faultline::coordinator
