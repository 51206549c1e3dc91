// The latest events, kept across coordinators, for an operator who asks afterwards or waits for them.
//
// An event goes to the supervisor as a line: NS NUMBER LEVEL RESTORE TEXT, the restore "." where there is none. A line
// of a former build is NS TEXT; it gets the next number and is a warning.
#pragma once

#include <kj/async.h>
#include <spdlog/common.h>

#include <cstdint>
#include <deque>
#include <set>
#include <string>
#include <vector>

#include "coordinator/supervisor_link.h"
#include "rpc/control.capnp.h"
#include "shmtracker/counters.h"

namespace faultline::coordinator {

// Loop thread only.
class EventLog {
 public:
  static constexpr std::size_t KEPT = 64;
  static constexpr std::size_t MOST_WAITING = 256;

  struct Event {
    std::uint64_t number;  // 1 for the service's first, +1 for each
    std::uint64_t unixNs;
    rpc::EventLevel level;
    std::string restore;  // empty: of none, or of several
    std::string text;     // one line
  };

  // `inherited`: events as the supervisor kept them. `last`: the number of the service's last event, which outlives
  // this coordinator; borrowed.
  EventLog(SupervisorLink& link, const std::vector<std::string>& inherited, shm::Counter& last);

  // The three functions below add a line, here and to the log: what, why, how long it took; and the restore that it is about.
  // Something happened that was asked for, or is planned.
  void planned(const std::string& text, const std::string& restore = "");
  // Something happened that was not asked for, and the service has dealt with it.
  void add(const std::string& text, const std::string& restore = "");
  // A target has lost something.
  void lost(const std::string& text, const std::string& restore = "");

  const std::deque<Event>& latest() const { return events_; }
  std::uint64_t lastNumber() const { return last_.load(std::memory_order_relaxed); }
  // Resolves once there is an event behind number `after`. Refuses a number that no event has had (badInput), and more
  // than MOST_WAITING waits at a time (limitReached). To be dropped before this object is.
  kj::Promise<void> whenBehind(std::uint64_t after);
  // Events behind number `after`, oldest first, and how many of them are kept no more.
  void fill(rpc::Coordinator::EventsResults::Builder results, std::uint64_t after) const;

 private:
  struct Waiter {
    Waiter(kj::PromiseFulfiller<void>& fulfiller, EventLog& log);
    ~Waiter();
    kj::PromiseFulfiller<void>& fulfiller;
    EventLog& log;
  };
  void add(rpc::EventLevel level, const std::string& text, const std::string& restore);
  void inherit(const std::string& line);
  void keep(Event event);

  SupervisorLink& link_;
  shm::Counter& last_;
  std::deque<Event> events_;
  std::set<Waiter*> waiting_;
};

void fill(rpc::ServiceEvent::Builder to, const EventLog::Event& event);

}  // namespace faultline::coordinator
