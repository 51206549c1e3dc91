// The life of a restore: what it is in the middle of, and what may come next.
//
//   serving    faults are answered from the snapshot
//   paused     as serving, but nothing is read or answered until it is resumed
//   complete   no page is missing; removals are followed
//   finishing  what is missing is being fetched; it is released then
//   failed     faults get an error
//   releasing  on its way out: of a target that lives the ranges are being unregistered, so that it runs on alone
//   kept       they cannot be unregistered yet: it is served until they can
//   departing  no shard has it any more, and what is missing becomes an error
//   over       nothing of it is left but its end
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "rpc/control.capnp.h"

namespace faultline::coordinator {

// Why and how a restore has ended.
struct RestoreEnd {
  rpc::EndReason reason = rpc::EndReason::NOT_ENDED;
  std::string text;           // for people
  std::uint64_t missing = 0;  // pages, as it ended
};

// Loop thread only.
class Life {
 public:
  enum class Stage { serving, paused, complete, finishing, failed, releasing, kept, departing, over };
  struct Failure {
    rpc::EndReason reason;
    std::string text;  // for people
  };

  // Whether a restore may go from one stage to the other at once.
  static bool leads(Stage from, Stage to);

  Stage stage() const { return stage_; }
  bool may(Stage next) const { return leads(stage_, next); }
  // The one way from stage to stage. Throws kj::Exception, and stays as it is, where it may not.
  void become(Stage next);
  // Becomes failed, for this reason.
  void fail(rpc::EndReason reason, std::string text);
  // Notes why it ends, before it becomes releasing or over; noted again, the last holds. The reason of a failure
  // outlives it, since the restore is over because its target is; but that the target was killed is told instead.
  void ends(rpc::EndReason reason, std::string text);
  // Notes how many pages are missing, as it ends.
  void misses(std::uint64_t pages) { end_.missing = pages; }

  // Faults are answered from the snapshot, or are to be again.
  bool served() const { return stage_ <= Stage::finishing; }
  // On its way out: nothing brings it back.
  bool ending() const { return stage_ >= Stage::releasing; }
  bool over() const { return stage_ == Stage::over; }
  // Also of one that is on its way out, or over, since.
  bool failed() const { return failure_.has_value(); }
  const std::optional<Failure>& failure() const { return failure_; }
  // The last end that was noted.
  const RestoreEnd& end() const { return end_; }
  // The stage as operators see it: of one that is on its way out, the last before.
  rpc::Phase phase() const { return phase_; }

 private:
  Stage stage_ = Stage::serving;
  rpc::Phase phase_ = rpc::Phase::SERVING;
  std::optional<Failure> failure_;
  RestoreEnd end_;
};

// A word for messages.
const char* nameOf(Life::Stage stage);

}  // namespace faultline::coordinator
