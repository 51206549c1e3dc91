#include "coordinator/restore_policy.h"

#include "rpc/refusal.h"

namespace faultline::coordinator {

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
  policy.workingSet = workingSetFrom(reader.getWorkingSet(), source);
  return policy;
}

void fill(rpc::RestorePolicy::Builder to, const shm::Policy& flags) {
  to.setPrefault(flags.prefault != 0);
  to.setKeepServing(flags.keepServing != 0);
  to.setOnLost(flags.killOnLost != 0 ? rpc::OnLost::KILL : rpc::OnLost::POISON);
  to.setRecordWorkingSet(flags.recordWorkingSet != 0);
}

void fill(rpc::RestorePolicy::Builder to, const RestorePolicy& policy) {
  fill(to, policy.flags);
  if (!policy.workingSet.ranges.empty()) fill(to.initWorkingSet(), policy.workingSet);
}

}  // namespace faultline::coordinator
