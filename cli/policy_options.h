// The options of a restore's policy (rpc::RestorePolicy), for serve and restore alike.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "cli/working_set.h"
#include "rpc/control.capnp.h"

namespace faultline::cli {

struct PolicyOptions {
  bool prefault = true;
  bool keepServing = false;
  bool recordWorkingSet = false;  // has an option of its own in each command
  std::string onLost = "poison";
  std::string around = "auto";
};

// Adds all but --record-working-set. Returns --prefault, which restore gives another default.
CLI::Option* addPolicyOptions(CLI::App& command, PolicyOptions& options);

// `workingSet`: null for none.
void fill(rpc::RestorePolicy::Builder to, const PolicyOptions& options, const WorkingSet* workingSet);
// The one file of a source; takes a duplicate of it. `path`: for messages.
void fill(rpc::SourceSpec::Builder to, int file, const std::string& path);

}  // namespace faultline::cli
