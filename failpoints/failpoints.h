// Named places in the code where a test can hold, kill or stop a process.
//
// Unarmed, hit() is one load and one predictable branch. Armed only over the test-hook capability
// (rpc/process_hooks.h), which exists only in a server started with --test-hooks.
#pragma once

#include <kj/io.h>

#include <atomic>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "threads/mutex.h"

namespace faultline::failpoints {

// Effect of an armed point on the thread that arrives there.
enum class Action {
  park,  // waits until it is released
  kill,  // SIGKILL to the own process
  stop,  // SIGSTOP to the own process
  pass,  // goes on, once `reached` is signalled
};

enum class Point {
  // shard, in the order a fault meets them
  beforeStage,     // before source bytes are looked for
  coldRead,        // source bytes are read from the disk: the read waits, not the thread (hold(), not hit())
  beforeReadLock,  // source bytes staged, no lock held
  beforeCopy,      // in the section, state checked, before the ioctl
  afterCopy,       // in the section, after the ioctl, before the state is stored
  afterStore,      // in the section, state stored, before the slot is unlocked
  // coordinator, in the order of one batch
  gateClosed,     // gate closed, nothing drained
  beforeRead,     // drained
  afterRead,      // events in the journal, nothing published
  midMark,        // before each page that is marked removed
  beforeOpen,     // all published, gate still closed
  beforeHandout,  // gate open, faults not handed out
  // coordinator, in the order of a release of ranges
  beforeUnregister,  // some are known, nothing is done about them (hold(), not hit())
  unregistered,      // unregistered and woken, not marked (hold(), not hit())
  midRelease,        // before each piece that is marked released
  // coordinator, in the order of a restore's beginning
  handshakeAccepted,  // the supervisor has handed over a connection
  handshakeRead,      // regions and uffd are known, nothing is stored
  targetRefused,      // a refused target has been told, its connection is kept yet
  restoreStored,      // the restore is durable, no shard knows of it
  shardStarting,      // a shard process was started and is not connected yet
  // coordinator, in the order of an adoption
  adoptClaimed,   // fds taken over, gate closed
  adoptDrained,   // sections in flight: none
  adoptReplayed,  // journal published
  adoptChecking,  // before each 64 pages that are checked: the work waits, not the thread (hold(), not hit())
  adoptOpened,    // gate open, no thread woken
  // coordinator, as a listener is made by a call
  listenerNamed,  // its spec is kept, its socket is not
  // coordinator, at a restore's end
  endNoted,  // told as ended, nothing of it is given back
  // coordinator, as the configuration changes a listener
  listenerChanging,  // it is kept as half changed
};

inline constexpr std::uint64_t ANY_PAGE = ~0ull;

// Empty for an unknown name.
std::optional<Point> pointNamed(std::string_view name);
std::string_view nameOf(Point point);

// The armed points of one process. hit(), hold(), awaits(): any thread. The rest: any thread, but not from
// these.
class Failpoints {
 public:
  struct Arm {
    Point point;
    Action action = Action::park;
    std::uint64_t page = ANY_PAGE;
    std::uint32_t skip = 0;   // times to pass first
    kj::AutoCloseFd reached;  // eventfd, signalled on arrival; -1: none
    kj::AutoCloseFd
        reached2;  // a further eventfd, signalled with the first, for the hooks of the process itself; -1: none
    kj::AutoCloseFd resume;  // blocking eventfd that a parked thread reads; -1: parked for good
  };

  void hit(Point point, std::uint64_t page = ANY_PAGE) {
    if (armedCount_.load(std::memory_order_relaxed) != 0) [[unlikely]]
      hitArmed(point, page);
  }
  // For work that is to be held while its thread goes on: an eventfd that becomes readable when the work may
  // go on; -1: not held.
  kj::AutoCloseFd hold(Point point, std::uint64_t page) {
    if (armedCount_.load(std::memory_order_relaxed) == 0) [[likely]]
      return {};
    return holdArmed(point, page);
  }
  // Whether the next hit() or hold() there acts, or is one of those that are passed first.
  bool awaits(Point point, std::uint64_t page) {
    return armedCount_.load(std::memory_order_relaxed) != 0 && awaitsArmed(point, page);
  }
  // Whether anything is armed, for code that takes smaller steps then.
  bool armed() const { return armedCount_.load(std::memory_order_relaxed) != 0; }

  // Each armed point acts once. Returns a number to disarm it by.
  std::uint64_t arm(Arm arm);
  void disarm(std::uint64_t number);

 private:
  void hitArmed(Point point, std::uint64_t page);
  kj::AutoCloseFd holdArmed(Point point, std::uint64_t page);
  bool awaitsArmed(Point point, std::uint64_t page);
  // Takes what is armed there, and signals the arrival.
  std::optional<Arm> arrive(Point point, std::uint64_t page);

  struct Armed {
    std::uint64_t number;
    Arm arm;
  };
  std::vector<Armed>::iterator findArmed(Point point, std::uint64_t page) REQUIRES(mutex_);

  std::atomic<std::uint32_t> armedCount_{0};
  threads::Mutex mutex_;
  std::vector<Armed> armed_ GUARDED_BY(mutex_);
  std::uint64_t last_ GUARDED_BY(mutex_) = 0;
};

}  // namespace faultline::failpoints
