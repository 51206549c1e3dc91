#include "cli/restore_options.h"

namespace faultline::cli {

void addControl(CLI::App& command, std::string& path) {
  command.add_option("--control", path, "Control socket of the server")->capture_default_str();
}

const CLI::Validator& restoreName() {
  static const CLI::Validator validator(
      [](const std::string& name) {
        const bool good =
            !name.empty() && name.size() <= 50 && name.find_first_of(".:/ \t\n") == std::string::npos;
        return good ? ""
                    : "\"" + name + "\" must have 1 to 50 characters, none of them '.', ':', '/' or blank";
      },
      "NAME");
  return validator;
}

}  // namespace faultline::cli
