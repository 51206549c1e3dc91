#include "coordinator/restore_policy.h"

#include <bit>
#include <string>

#include "rpc/convert.h"
#include "rpc/refusal.h"

namespace faultline::coordinator {

namespace {

// A page that comes unasked would be missing in the recording.
std::uint32_t aroundFrom(rpc::RestorePolicy::Reader reader) {
  constexpr std::uint32_t LEAST = 4096, MOST = 65536;  // bytes
  const std::uint32_t around = reader.getAround();
  if (around != 0 && (around < LEAST || around > MOST || !std::has_single_bit(around)))
    rpc::refuse(rpc::Reason::BAD_INPUT,
                "around is " + std::to_string(around) +
                    " bytes; it can be 0 (as the faults tell) or a power of two from 4096 "
                    "to 65536");
  return reader.getRecordWorkingSet() ? LEAST : around;
}

}  // namespace

RestorePolicy policyFrom(rpc::RestorePolicy::Reader reader, int source) {
  RestorePolicy policy;
  if (reader.getOnLost() > rpc::OnLost::KILL)
    rpc::refuse(rpc::Reason::BAD_INPUT, "onLost is " +
                                            std::to_string(static_cast<unsigned>(reader.getOnLost())) +
                                            ", which this server does not know; it knows poison and kill");
  policy.flags.prefault = reader.getPrefault() ? 1 : 0;
  policy.flags.keepServing = reader.getKeepServing() ? 1 : 0;
  policy.flags.killOnLost = reader.getOnLost() == rpc::OnLost::KILL ? 1 : 0;
  policy.flags.recordWorkingSet = reader.getRecordWorkingSet() ? 1 : 0;
  policy.flags.around = aroundFrom(reader);
  policy.flags.keepRegistered = reader.getKeepRegistered() ? 1 : 0;
  policy.workingSet = workingSetFrom(reader.getWorkingSet(), source);
  return policy;
}

void fill(rpc::RestorePolicy::Builder to, const shm::Policy& flags) {
  to.setPrefault(flags.prefault != 0);
  to.setKeepServing(flags.keepServing != 0);
  to.setOnLost(flags.killOnLost != 0 ? rpc::OnLost::KILL : rpc::OnLost::POISON);
  to.setRecordWorkingSet(flags.recordWorkingSet != 0);
  to.setAround(flags.around);
  to.setKeepRegistered(flags.keepRegistered != 0);
}

void fill(rpc::RestorePolicy::Builder to, const RestorePolicy& policy) {
  fill(to, policy.flags);
  if (!policy.workingSet.ranges.empty()) fill(to.initWorkingSet(), policy.workingSet);
}

}  // namespace faultline::coordinator
