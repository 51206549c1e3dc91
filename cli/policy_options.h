// The options of a restore's policy (rpc::RestorePolicy), for serve and restore alike.
#pragma once

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/memory_file.h"
#include "cli/working_set.h"
#include "rpc/connection.h"
#include "rpc/control.capnp.h"

namespace faultline::cli {

struct PolicyOptions {
  bool prefault = true;
  bool keepServing = false;
  bool recordWorkingSet = false;  // has an option of its own in each command
  std::string onLost = "poison";
  std::string around = "auto";
  bool keepRegistered = false;
};

// Adds all but --record-working-set. Returns --prefault, which restore gives another default.
CLI::Option* addPolicyOptions(CLI::App& command, PolicyOptions& options);

// `workingSet`: null for none.
void fill(rpc::RestorePolicy::Builder to, const PolicyOptions& options, const WorkingSet* workingSet);
// The flags as a program reads them, under the names of the options; without a working set.
nlohmann::json policyJson(rpc::RestorePolicy::Reader policy);
// The files of a source; takes duplicates of them.
void fill(rpc::SourceSpec::Builder to, const Memory& memory);

// Adds --owner, --group and --mode of a socket; `mode` is octal, checked as the two others are.
void addSocketAccess(CLI::App& command, rpc::SocketAccess& access, std::string& mode);

// Adds --over, for a command with one --memory: `paths` gets what lies below it.
void addOver(CLI::App& command, std::vector<std::string>& paths);

}  // namespace faultline::cli
