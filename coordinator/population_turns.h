// Whose turn it is to be populated in the background, where only so many restores are at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <set>

namespace faultline::coordinator {

// First come, first served. Loop thread only.
class PopulationTurns {
 public:
  class Member {
   public:
    // Its turn has come, after it had to wait. May ask and leave.
    virtual void turnCame() = 0;

   protected:
    ~Member() = default;
  };

  // `atOnce`: turns at the same time; 0: one for each that asks.
  explicit PopulationTurns(std::uint32_t atOnce) : atOnce_(atOnce) {}

  // True: it has its turn. False: it waits, behind all that came before, until turnCame().
  bool ask(Member& member);
  // Its turn is over, or it waits no more; the next ones get theirs. Harmless where neither is so.
  void leave(Member& member);
  // From now on each has its turn.
  void forAll();

  std::uint32_t atOnce() const { return atOnce_; }
  // The number of members that come before it.
  std::size_t before(const Member& member) const;

 private:
  bool room() const { return atOnce_ == 0 || having_.size() < atOnce_; }
  void next();

  std::uint32_t atOnce_;
  std::set<Member*> having_;
  std::deque<Member*> waiting_;
};

}  // namespace faultline::coordinator
