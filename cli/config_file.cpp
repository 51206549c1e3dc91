#include "cli/config_file.h"

#include <fcntl.h>
#include <kj/io.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sstream>

#include "cli/errors.h"
#include "process/plain_text.h"

namespace faultline::cli {

namespace {

constexpr std::size_t MOST_BYTES = 1u << 20;

std::string trimmed(const std::string& text) {
  const char* blanks = " \t\r\n";
  const std::size_t first = text.find_first_not_of(blanks);
  return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(blanks) - first + 1);
}

// Why there is no value in `text` is said in `why`.
std::string contentOf(const std::string& path, std::string& why) {
  // Not waiting for a writer, should it be a pipe.
  const kj::AutoCloseFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status {};
  if (fd.get() < 0 || fstat(fd.get(), &status) != 0) {
    why = std::strerror(errno);
    return "";
  }
  if (!S_ISREG(status.st_mode)) why = "it is no regular file";
  std::string text;
  char piece[65536];
  while (why.empty()) {
    const ssize_t length = read(fd.get(), piece, sizeof piece);
    if (length < 0) why = std::strerror(errno);
    if (length <= 0) break;
    text.append(piece, static_cast<std::size_t>(length));
    if (text.size() > MOST_BYTES) why = "it has more than 1 MiB";
  }
  return text;
}

}  // namespace

ConfigFile::ConfigFile(std::string path) : path_(std::move(path)) {
  std::string why;
  std::istringstream lines(contentOf(path_, why));
  if (!why.empty()) refuse(0, why);
  const CLI::ConfigTOML format;
  unsigned number = 0;
  for (std::string text; std::getline(lines, text);) {
    number++;
    std::replace(text.begin(), text.end(), '\t', ' ');
    text = trimmed(text);
    if (text.empty() || text.front() == '#' || text.front() == ';') continue;
    if (!process::isPlainText(text)) refuse(number, "control characters, or no UTF-8");
    if (text.front() == '[') refuse(number, "sections are not used here: a setting is NAME = VALUE");
    const std::size_t list = text.find('[');
    if (text.find('=') < list && trimmed(text.substr(text.find('=') + 1)).front() == '[' &&
        text.find(']', list) == std::string::npos)
      refuse(number, "a list stands in one line, from [ to ]");
    // CLI11 reads one line at a time here: what it finds has no line of its own.
    std::istringstream line(text);
    const std::vector<CLI::ConfigItem> items = format.from_config(line);
    if (items.size() != 1 || items[0].name.empty() || !items[0].parents.empty())
      refuse(number, "\"" + text.substr(0, 64) + "\" is no setting: NAME = VALUE");
    if (const Setting* before = find(items[0].name))
      refuse(number, items[0].name + " is set already, in line " + std::to_string(before->line));
    settings_.push_back({items[0].name, items[0].inputs, number});
  }
}

const Setting* ConfigFile::find(const std::string& name) const {
  const auto found = std::find_if(settings_.begin(), settings_.end(),
                                  [&](const Setting& setting) { return setting.name == name; });
  return found == settings_.end() ? nullptr : &*found;
}

void ConfigFile::apply(CLI::App& app, const Kept& kept) const {
  for (const Setting& setting : settings_) {
    CLI::Option* option = app.get_option_no_throw("--" + setting.name);
    if (option == nullptr) refuse(setting.line, setting.name + " is no setting of this file");
    give(*option, setting, kept);
  }
}

void ConfigFile::applyWhatIsKnown(CLI::App& app, const std::set<std::string>& names, const Kept& kept) const {
  for (const Setting& setting : settings_)
    if (names.count(setting.name) != 0) give(*app.get_option("--" + setting.name), setting, kept);
}

void ConfigFile::give(CLI::Option& option, const Setting& setting, const Kept& kept) const {
  const CLI::ConfigTOML format;
  if (option.count() > 0) return kept(setting);
  if (setting.values.size() == 1 && setting.values[0].empty())
    refuse(setting.line, setting.name + " has no value");
  try {
    if (option.get_expected_min() == 0) {
      CLI::ConfigItem item;
      item.name = setting.name;
      item.inputs = setting.values;
      option.add_result(option.get_flag_value(setting.name, format.to_flag(item)));
    } else {
      option.add_result(setting.values);
    }
    option.run_callback();
  } catch (const CLI::ParseError& error) {
    refuse(setting.line, error.what());
  }
}

void ConfigFile::refuse(unsigned line, const std::string& what) const {
  throw CommandError(USAGE, path_ + (line == 0 ? "" : ":" + std::to_string(line)) + ": " + what);
}

}  // namespace faultline::cli
