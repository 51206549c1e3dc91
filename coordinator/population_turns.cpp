#include "coordinator/population_turns.h"

#include <algorithm>

namespace faultline::coordinator {

bool PopulationTurns::ask(Member& member) {
  if (having_.count(&member) != 0) return true;
  if (std::find(waiting_.begin(), waiting_.end(), &member) != waiting_.end()) return false;
  if (room() && waiting_.empty()) {
    having_.insert(&member);
    return true;
  }
  waiting_.push_back(&member);
  return false;
}

void PopulationTurns::leave(Member& member) {
  std::erase(waiting_, &member);
  having_.erase(&member);
  next();
}

void PopulationTurns::forAll() {
  atOnce_ = 0;
  next();
}

void PopulationTurns::next() {
  while (room() && !waiting_.empty()) {
    Member& member = *waiting_.front();
    waiting_.pop_front();
    having_.insert(&member);
    member.turnCame();
  }
}

std::size_t PopulationTurns::before(const Member& member) const {
  const auto place = std::find(waiting_.begin(), waiting_.end(), &member);
  return static_cast<std::size_t>(place - waiting_.begin());
}

}  // namespace faultline::coordinator
