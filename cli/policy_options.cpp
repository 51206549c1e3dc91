#include "cli/policy_options.h"

#include <grp.h>
#include <pwd.h>

#include "cli/recorded_working_set.h"
#include "rpc/convert.h"
#include "rpc/fd.h"

namespace faultline::cli {

namespace {

// As RestorePolicy.around has it.
std::uint32_t aroundBytes(const std::string& text) {
  if (text == "auto") return 0;
  return text == "off" ? 4096 : static_cast<std::uint32_t>(std::stoul(text));
}

bool isNumber(const std::string& text) {
  return !text.empty() && text.size() < 10 && text.find_first_not_of("0123456789") == std::string::npos;
}
// For a CLI::App's check().
std::string whyNoUser(const std::string& name) {
  return isNumber(name) || getpwnam(name.c_str()) != nullptr ? "" : "there is no user " + name;
}
std::string whyNoGroup(const std::string& name) {
  return isNumber(name) || getgrnam(name.c_str()) != nullptr ? "" : "there is no group " + name;
}
std::string whyNoMode(const std::string& mode) {
  const bool octal =
      !mode.empty() && mode.size() <= 4 && mode.find_first_not_of("01234567") == std::string::npos;
  return octal && std::stoul(mode, nullptr, 8) <= 0777 && std::stoul(mode, nullptr, 8) != 0
             ? ""
             : mode + " is no mode; give permission bits, as in 0660";
}
}  // namespace

void addSocketAccess(CLI::App& command, rpc::SocketAccess& access, std::string& mode) {
  command
      .add_option("--owner", access.owner,
                  "The socket's owner, by name or number; default: the server's user")
      ->check(whyNoUser);
  command.add_option("--group", access.group, "The socket's group, by name or number; default: the server's")
      ->check(whyNoGroup);
  command.add_option("--mode", mode, "The socket's permission bits, octal; default: 0600")->check(whyNoMode);
}

CLI::Option* addPolicyOptions(CLI::App& command, PolicyOptions& options) {
  CLI::Option* prefault =
      command.add_flag("--prefault,!--no-prefault", options.prefault,
                       "Populate every page in the background (the default), or only answer faults");
  command.add_flag("--keep-serving", options.keepServing,
                   "Go on serving after the last page, until the target goes");
  command
      .add_option(
          "--on-lost", options.onLost,
          "What a target gets when a page is lost (its source is gone for good, or it cannot be served\n"
          "any more): poison, an error on each such page as it touches it (SIGBUS), or kill, SIGKILL")
      ->check(CLI::IsMember({"poison", "kill"}))
      ->capture_default_str();
  command
      .add_option(
          "--around", options.around,
          "What comes with a fault on a 4 KiB page: off, that page alone; auto, up to 64 KiB where the\n"
          "faults show that its neighbourhood is being touched; or always so many bytes, aligned: 8192,\n"
          "16384, 32768 or 65536. off where a working set is recorded")
      ->check(CLI::IsMember({"off", "auto", "8192", "16384", "32768", "65536"}))
      ->capture_default_str();
  command.add_flag("--keep-registered", options.keepRegistered,
                   "Keep large holes of the memory file, and large ranges that the target has given up,\n"
                   "registered with the userfaultfd, too, and answer their faults; else they are\n"
                   "unregistered, and the kernel answers alone");
  return prefault;
}

void fill(rpc::RestorePolicy::Builder to, const PolicyOptions& options, const WorkingSet* workingSet) {
  to.setPrefault(options.prefault);
  to.setKeepServing(options.keepServing);
  to.setOnLost(options.onLost == "kill" ? rpc::OnLost::KILL : rpc::OnLost::POISON);
  to.setRecordWorkingSet(options.recordWorkingSet);
  to.setAround(aroundBytes(options.around));
  to.setKeepRegistered(options.keepRegistered);
  if (workingSet != nullptr) fill(to.initWorkingSet(), *workingSet);
}

nlohmann::json policyJson(rpc::RestorePolicy::Reader policy) {
  return {{"prefault", policy.getPrefault()},
          {"keep_serving", policy.getKeepServing()},
          {"on_lost", policy.getOnLost() == rpc::OnLost::KILL ? "kill" : "poison"},
          {"record_working_set", policy.getRecordWorkingSet()},
          {"around", policy.getAround()},
          {"keep_registered", policy.getKeepRegistered()}};
}

void fill(rpc::SourceSpec::Builder to, const Memory& memory) {
  auto layers = to.initLayers(static_cast<unsigned>(memory.files.size()));
  for (unsigned i = 0; i < layers.size(); i++) {
    layers[i].setFile(rpc::makeFdFrom(memory.files[i].get()));
    layers[i].setName(memory.paths[i].c_str());
    layers[i].setPacked(memory.packed[i]);
  }
}

void addOver(CLI::App& command, std::vector<std::string>& paths) {
  command.add_option(
      "--over", paths,
      "The snapshot that the --memory, a differential one, lies over (repeatable, the newest first)");
}

}  // namespace faultline::cli
