#include "cli/configuration.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <utility>

#include "cli/errors.h"
#include "cli/service_options.h"
#include "process/plain_text.h"
#include "rpc/source_uri.h"

namespace faultline::cli {

namespace {

namespace fs = std::filesystem;

constexpr std::size_t MOST_FILES = 100'000;

std::string whyNotAbsolute(const std::string& path) {
  return path.front() == '/' ? "" : path + " does not begin with /";
}

std::string whyNoLayer(const std::string& path) {
  if (!rpc::SourceUri::isMeant(path)) return whyNotAbsolute(path);
  try {
    rpc::SourceUri::parse(path);
    return "";
  } catch (const rpc::BadUri& error) {
    return error.what();
  }
}

// The settings that a restore's file may have, and those that faultline.conf may have for all of them.
void addSettingsOfAll(CLI::App& app, ServedListener& listener, std::string& mode) {
  addPolicyOptions(app, listener.policy);
  app.add_flag("--record-working-set", listener.policy.recordWorkingSet);
  app.add_flag("--any-user", listener.anyUser);
  app.add_flag("--keep-refused", listener.keepRefused);
  addSocketAccess(app, listener.access, mode);
}

void setMode(ServedListener& listener, const std::string& mode) {
  if (!mode.empty()) listener.access.mode = static_cast<std::uint16_t>(std::stoul(mode, nullptr, 8));
}

std::string place(const ConfigFile& file, const std::string& setting) {
  const Setting* found = file.find(setting);
  return file.path() + (found == nullptr ? "" : ":" + std::to_string(found->line));
}

ServedListener listenerOf(const fs::path& path, const ServedListener& defaults) {
  const ConfigFile file(path.string());
  ServedListener listener = defaults;
  listener.name = path.stem().string();
  if (!process::isRestoreName(listener.name))
    file.refuse(0, "the file's name is no name of a restore: " + std::string(process::RESTORE_NAME_RULE));
  std::string memory, mode;
  std::vector<std::string> over;
  CLI::App app;
  addSettingsOfAll(app, listener, mode);
  app.add_option("--memory", memory)->check(whyNoLayer);
  app.add_option("--over", over)->check(whyNoLayer);
  app.add_option("--socket", listener.socket)->check(whyNotAbsolute);
  app.add_option("--working-set", listener.workingSet)->check(whyNotAbsolute);
  app.remove_option(app.get_option("--help"));
  file.apply(app, [](const Setting&) {});
  setMode(listener, mode);
  for (const char* needed : {"memory", "socket"})
    if (file.find(needed) == nullptr) file.refuse(0, std::string(needed) + " is not set");
  listener.layers = pathsOf(memory, over);
  listener.memoryAt = place(file, "memory");
  listener.socketAt = place(file, "socket");
  return listener;
}

std::vector<fs::path> filesIn(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code error;
  fs::directory_iterator at(folder, error);
  // A folder that is not there has no files.
  if (error && error != std::errc::no_such_file_or_directory)
    throw CommandError(USAGE, folder.string() + ": " + error.message());
  for (; at != fs::directory_iterator(); at.increment(error)) {
    if (error) throw CommandError(USAGE, folder.string() + ": " + error.message());
    const fs::path& path = at->path();
    if (path.extension() != ".conf" || path.filename().string().front() == '.') continue;
    files.push_back(path);
    if (files.size() > MOST_FILES)
      throw CommandError(USAGE, folder.string() + ": more than " + std::to_string(MOST_FILES) + " files");
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

const std::set<std::string>& serviceSettings() {
  static const std::set<std::string> names = [] {
    CLI::App app;
    ServiceOptions options;
    addServiceOptions(app, options);
    std::set<std::string> found;
    for (const CLI::Option* option : app.get_options())
      for (const std::string& name : option->get_lnames()) found.insert(name);
    found.erase("help");
    found.erase("test-hooks");
    return found;
  }();
  return names;
}

Configuration readConfiguration(const std::string& path) {
  Configuration configuration{path, {}, {}};
  ServedListener defaults;
  std::error_code error;
  if (fs::exists(path, error)) {
    configuration.service.emplace(path);
    ServiceOptions checked;
    std::string mode;
    CLI::App app;
    addServiceOptions(app, checked);
    for (const char* none : {"--help", "--test-hooks"}) app.remove_option(app.get_option(none));
    addSettingsOfAll(app, defaults, mode);
    configuration.service->apply(app, [](const Setting&) {});
    setMode(defaults, mode);
  }
  std::map<std::string, std::string> sockets;  // and where each is said
  for (const fs::path& file : filesIn(fs::path(path).parent_path() / "restores.d")) {
    ServedListener listener = listenerOf(file, defaults);
    const auto [other, fresh] = sockets.emplace(listener.socket, listener.socketAt);
    if (!fresh)
      throw CommandError(USAGE,
                         listener.socketAt + ": socket " + listener.socket + " is that of " + other->second);
    configuration.listeners.push_back(std::move(listener));
  }
  return configuration;
}

}  // namespace faultline::cli
