// The configuration of a service.
//
//   /etc/faultline/faultline.conf        options of `faultline serve`; and what a restore has that its own file does not say
//   /etc/faultline/restores.d/NAME.conf  a handshake socket, the memory of its targets, and their policy
//
// The folder lies beside the file. docs/operating.md says what each setting means.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "cli/config_file.h"
#include "cli/served_listeners.h"

namespace faultline::cli {

struct Configuration {
  std::string path;
  std::optional<ConfigFile> service;      // nothing: there is no such file
  std::vector<ServedListener> listeners;  // by name
};

inline constexpr const char* DEFAULT_CONFIGURATION = "/etc/faultline/faultline.conf";

// Reads and checks all of it, but for what lies at the paths that it names. CommandError(USAGE) with file and line.
Configuration readConfiguration(const std::string& path);

// The settings of the service itself, which take effect as it starts.
const std::set<std::string>& serviceSettings();

}  // namespace faultline::cli
