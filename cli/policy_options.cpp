#include "cli/policy_options.h"

#include "cli/recorded_working_set.h"
#include "rpc/fd.h"

namespace faultline::cli {

CLI::Option* addPolicyOptions(CLI::App& command, PolicyOptions& options) {
  CLI::Option* prefault =
      command.add_flag("--prefault,!--no-prefault", options.prefault,
                       "Populate every page in the background (the default), or only answer faults");
  command.add_flag("--keep-serving", options.keepServing,
                   "Go on serving after the last page, until the target goes");
  command
      .add_option(
          "--on-lost", options.onLost,
          "What a target gets when a page is lost (its source is gone for good, or nobody can serve it\n"
          "any more): poison, an error on each such page as it touches it (SIGBUS), or kill, SIGKILL")
      ->check(CLI::IsMember({"poison", "kill"}))
      ->capture_default_str();
  return prefault;
}

void fill(rpc::RestorePolicy::Builder to, const PolicyOptions& options, const WorkingSet* workingSet) {
  to.setPrefault(options.prefault);
  to.setKeepServing(options.keepServing);
  to.setOnLost(options.onLost == "kill" ? rpc::OnLost::KILL : rpc::OnLost::POISON);
  to.setRecordWorkingSet(options.recordWorkingSet);
  if (workingSet != nullptr) fill(to.initWorkingSet(), *workingSet);
}

void fill(rpc::SourceSpec::Builder to, int file, const std::string& path) {
  auto layer = to.initLayers(1)[0];
  layer.setFile(rpc::makeFdFrom(file));
  layer.setName(path.c_str());
}

}  // namespace faultline::cli
