// Another build takes over a service that runs.

#include <filesystem>
#include <memory>

#include "cli/commands.h"
#include "cli/errors.h"
#include "cli/restore_options.h"
#include "cli/session.h"
#include "process/build.h"
#include "process/process.h"

namespace faultline::cli {

namespace {

struct UpgradeOptions {
  std::string control = DEFAULT_CONTROL;
  std::string build;  // directory; empty: our own
  bool checkOnly = false;
};

// Waits until the successor has put its shards in. The successor may itself be replaced meanwhile.
int awaitOutcome(Session& session, const std::string& before) {
  for (;;) {
    session.awaitSuccessor([] { return false; });
    try {
      auto outcome = session.wait(session.coordinator().waitUpgradedRequest().send());
      printf("%s -> %s, %u shards replaced\n", before.c_str(), outcome.getVersion().cStr(),
             outcome.getReplaced());
      return OK;
    } catch (const kj::Exception& error) {
      if (error.getType() != kj::Exception::Type::DISCONNECTED) throw;
    }
  }
}

int upgrade(const UpgradeOptions& options) {
  const std::string directory = options.build.empty()
                                    ? process::ownDirectory()
                                    : std::filesystem::absolute(options.build).lexically_normal().string();
  Interrupts::capture();
  Session session(options.control);
  const std::string before =
      session.wait(session.coordinator().statusRequest().send()).getService().getVersion();
  auto request = session.coordinator().upgradeRequest();
  request.setDirectory(directory.c_str());
  request.setCheckOnly(options.checkOnly);
  try {
    auto checked = session.wait(request.send());
    printf("%s can take over from %s\n", checked.getVersion().cStr(), before.c_str());
    return OK;
  } catch (const kj::Exception& error) {
    if (options.checkOnly || error.getType() != kj::Exception::Type::DISCONNECTED) throw;
  }
  return awaitOutcome(session, before);
}

}  // namespace

void addUpgrade(CLI::App& app, Result& chosen) {
  auto options = std::make_shared<UpgradeOptions>();
  CLI::App* command = app.add_subcommand("upgrade", "Have another build take over a running service");
  command->description(
      "Have another build take over a running service, while its restores are served: its coordinator "
      "first,\n"
      "then the shards one by one. Returns when all of them are there. Faults wait for some milliseconds.\n\n"
      "Refused, and the service goes on as it is, where the other build could not read what this one has in\n"
      "memory. Where the other build cannot start, the one before it serves on. The supervisor itself "
      "stays:\n"
      "it is replaced by a restart of the service.\n\n"
      "Examples:\n"
      "  faultline upgrade                          # to the build that this program belongs to\n"
      "  faultline upgrade --build /opt/next/bin --check");
  addControl(*command, options->control);
  command
      ->add_option("--build", options->build, "The directory of the other build's programs; default: our own")
      ->check(CLI::ExistingDirectory);
  command->add_flag("--check", options->checkOnly, "Only say whether it could");
  command->footer(EXIT_CODES);
  command->callback([options, &chosen] { chosen = [options] { return upgrade(*options); }; });
}

}  // namespace faultline::cli
