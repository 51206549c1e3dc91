// The watch over the memory that targets may take: what is populated in the background must not be the reason that the
// kernel kills one.
//
// A page that is populated counts for the control group of its target, which the kernel kills where the group has no more.
// Touched pages are the target's own affair. A page that it may never touch, though, must not take the room of one that it will.
// Hence a restore is populated where all that would be populated fits below each limit of the group and of those above it, with
// a margin, and not at all otherwise. The bytes that restores of one group would be populated with are added up.
//
// The looks are in a thread of their own, again and again while something is populated or held: MEMORY_LOOK_LIMITED apart
// where a limit is set, MEMORY_LOOK where none is.
#pragma once

#include <kj/async.h>
#include <kj/timer.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/control_groups.h"
#include "coordinator/hurried_pause.h"

namespace faultline::coordinator {

inline constexpr kj::Duration MEMORY_LOOK_LIMITED = 100 * kj::MILLISECONDS;
inline constexpr kj::Duration MEMORY_LOOK = 1 * kj::SECONDS;

// Bytes below a limit that population leaves alone; one that is held goes on where twice as many would be left.
constexpr std::uint64_t marginOf(std::uint64_t limit) {
  constexpr std::uint64_t MOST = 32u << 20;
  return limit / 8 < MOST ? limit / 8 : MOST;
}

// Loop thread only.
class MemoryWatch {
 public:
  // A population of a restore.
  class Member {
   public:
    virtual int target() const = 0;  // pidfd
    // Whether it waits until it fits; otherwise it populates, or is about to.
    virtual bool held() const = 0;
    // Bytes that it would add at most, without a look at any page.
    virtual std::uint64_t mostBytes() const = 0;
    // Bytes that it would add, by a look at the pages. Fails where the restore ends meanwhile.
    virtual kj::Promise<std::uint64_t> missingBytes() = 0;
    // Its bytes fit below all limits; they do not, for this reason. May watch and leave.
    virtual void fits() = 0;
    virtual void doesNotFit(const std::string& why) = 0;

   protected:
    ~Member() = default;
  };

  explicit MemoryWatch(kj::Timer& timer) : pause_(timer) {}

  // Has it looked at soon, and from then on until it leaves.
  void watch(Member& member);
  void leave(Member& member) { members_.erase(&member); }

 private:
  struct Looked;
  struct Round;
  kj::Promise<void> look();
  kj::Promise<void> judge(const std::shared_ptr<Round>& round);
  void judge(Round& round, const Looked& looked, std::uint64_t bytes);
  kj::Promise<void> pause(const Round& round);

  HurriedPause pause_;                        // hurried by members that come
  std::map<Member*, std::uint64_t> members_;  // every one with a number of its own
  std::uint64_t lastNumber_ = 0;
  kj::Promise<void> looking_ = nullptr;
  bool looks_ = false;
};

}  // namespace faultline::coordinator
