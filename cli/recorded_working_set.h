// Working sets over the control interface: fetching what a restore recorded, giving one to a restore.
#pragma once

#include "cli/session.h"
#include "cli/working_set.h"

namespace faultline::cli {

// The contents of `recorded` now. kj::Exception where the server has gone or says what cannot be,
// CommandError(FAILED) where the snapshot can't be read. Waits on `session`, whose capability it is.
WorkingSet fetchWorkingSet(Session& session, rpc::RecordedWorkingSet::Client recorded);

// A line for people: "512 pages (2.0 MiB) in 3 runs".
std::string describe(const WorkingSet& set);

}  // namespace faultline::cli
