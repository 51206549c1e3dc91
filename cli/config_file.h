// Files of settings: NAME = VALUE, as CLI11 reads them (INI, TOML), one setting a line. A setting is named as the long option
// of a command is.
//
//   shards = 4             # a comment
//   over = ["/a", "/b"]    a list, in one line
//   prefault = false       a flag
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <set>
#include <string>
#include <vector>

namespace faultline::cli {

struct Setting {
  std::string name;
  std::vector<std::string> values;
  unsigned line;  // 1 for the first
};

// Errors are CommandError(USAGE), "FILE:LINE: what".
class ConfigFile {
 public:
  // Reads the file, at most 1 MiB. A file that is not there is an error, too.
  explicit ConfigFile(std::string path);

  const std::string& path() const { return path_; }
  const std::vector<Setting>& settings() const { return settings_; }
  // Null where it is not set.
  const Setting* find(const std::string& name) const;

  // Told of a setting whose option has a value already, which it keeps.
  using Kept = std::function<void(const Setting&)>;
  // Gives the settings to the options of their names, with the options' own checks and conversions. A setting that is no
  // option is an error.
  void apply(CLI::App& app, const Kept& kept) const;
  // The settings of these names alone, each of which is an option.
  void applyWhatIsKnown(CLI::App& app, const std::set<std::string>& names, const Kept& kept) const;

  // Throws what is wrong with a setting. `line` 0: with the file as a whole.
  [[noreturn]] void refuse(unsigned line, const std::string& what) const;

 private:
  void give(CLI::Option& option, const Setting& setting, const Kept& kept) const;

  std::string path_;
  std::vector<Setting> settings_;
};

}  // namespace faultline::cli
