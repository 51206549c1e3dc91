#include "cli/restore_options.h"

#include "process/plain_text.h"

namespace faultline::cli {

void addControl(CLI::App& command, std::string& path) {
  command.add_option("--control", path, "Control socket of the server")->capture_default_str();
}

const CLI::Validator& restoreName() {
  static const CLI::Validator validator(
      [](const std::string& name) {
        return process::isRestoreName(name) ? "" : "\"" + name + "\": " + process::RESTORE_NAME_RULE;
      },
      "NAME");
  return validator;
}

}  // namespace faultline::cli
