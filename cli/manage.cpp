// The small commands on one restore or on the service.

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/common.h"

namespace faultline::cli {

namespace {

struct ManageOptions {
  std::string control = DEFAULT_CONTROL;
  std::string name;
  std::vector<std::string> ranges;
  unsigned shards = 1;
  bool force = false, wait = false, json = false;
};

using Action = std::function<void(rpc::ControlClient&, const ManageOptions&)>;

CLI::App* add(CLI::App& app, Result& chosen, const char* name, const char* help, Action action,
              std::shared_ptr<ManageOptions> options) {
  CLI::App* command = app.add_subcommand(name, help);
  addControl(*command, options->control);
  command->footer(EXIT_CODES);
  command->callback([options, &chosen, action = std::move(action)] {
    chosen = [options, action] {
      rpc::ControlClient client(options->control);
      action(client, *options);
      return OK;
    };
  });
  return command;
}

// "FIRST:COUNT", in pages.
std::pair<std::uint64_t, std::uint64_t> parseRange(const std::string& text) {
  try {
    std::size_t end = 0;
    const std::uint64_t first = std::stoull(text, &end);
    if (end < text.size() && text[end] == ':') {
      std::size_t rest = 0;
      const std::uint64_t count = std::stoull(text.substr(end + 1), &rest);
      if (end + 1 + rest == text.size() && count > 0) return {first, count};
    }
  } catch (const std::exception&) {  // said below
  }
  throw CommandError(USAGE, "--range " + text + " is not FIRST:COUNT, in pages, as in 0:512");
}

void prefault(rpc::ControlClient& client, const ManageOptions& options) {
  auto request = client.restore(options.name).prefaultRequest();
  auto ranges = request.initRanges(static_cast<unsigned>(options.ranges.size()));
  for (unsigned i = 0; i < options.ranges.size(); i++) {
    const auto [first, count] = parseRange(options.ranges[i]);
    ranges[i].setFirst(first);
    ranges[i].setCount(count);
  }
  auto prefault = client.wait(request.send()).getPrefault();
  if (!options.wait) return;
  client.wait(prefault.waitRequest().send());
  auto progress = client.wait(prefault.progressRequest().send());
  printf("%llu of %llu pages are still missing\n", static_cast<unsigned long long>(progress.getMissing()),
         static_cast<unsigned long long>(progress.getTotal()));
}

void pages(rpc::ControlClient& client, const ManageOptions& options) {
  const char* names[] = {"missing", "faulted", "removed"};
  auto restore = client.restore(options.name);
  const std::uint64_t total = client.wait(restore.infoRequest().send()).getInfo().getPages();
  auto out = nlohmann::json::array();
  for (std::uint64_t page = 0; page < total;) {
    auto request = restore.pageStatesRequest();
    request.initRange().setFirst(page);
    auto response = client.wait(request.send());
    for (auto run : response.getRuns()) {
      const auto range = run.getRange();
      const char* state = names[static_cast<unsigned>(run.getState())];
      page = range.getFirst() + range.getCount();
      if (options.json)
        out.push_back({{"first", range.getFirst()}, {"count", range.getCount()}, {"state", state}});
      else
        printf("%12llu %12llu  %s\n", static_cast<unsigned long long>(range.getFirst()),
               static_cast<unsigned long long>(range.getCount()), state);
    }
  }
  if (options.json) printf("%s\n", out.dump().c_str());
}

}  // namespace

void addManage(CLI::App& app, Result& chosen) {
  auto options = std::make_shared<ManageOptions>();
  auto onRestore = [&](const char* name, const char* help, Action action) {
    CLI::App* command = add(app, chosen, name, help, std::move(action), options);
    command->add_option("restore", options->name, "Name of the restore")->required();
    return command;
  };
  onRestore("pause", "Stop answering a restore's faults for a while",
            [](auto& client, auto& o) { client.wait(client.restore(o.name).pauseRequest().send()); });
  onRestore("resume", "Answer them again, beginning with what has queued up",
            [](auto& client, auto& o) { client.wait(client.restore(o.name).resumeRequest().send()); });
  onRestore("detach", "End a restore and release its target", [](auto& client, auto& o) {
    auto request = client.restore(o.name).detachRequest();
    request.setForce(o.force);
    client.wait(request.send());
  })->add_flag("--force", options->force, "Also with pages missing: the target reads zeros there");
  CLI::App* populate = onRestore("prefault", "Populate pages in the background", prefault);
  populate->add_option("--range", options->ranges,
                       "FIRST:COUNT in pages, in this order (repeatable); default: all");
  populate->add_flag("--wait", options->wait, "Return when it is done");
  onRestore("pages", "Print the states of a restore's pages as runs", pages)
      ->add_flag("--json", options->json, "Print one JSON array");
  onRestore("reshard", "Deal a restore's extents out to another number of shards",
            [](auto& client, auto& o) {
              auto request = client.coordinator().reshardRequest();
              request.setRestore(o.name.c_str());
              request.setShards(o.shards);
              client.wait(request.send());
            })
      ->add_option("--shards", options->shards, "To so many shards")
      ->required()
      ->check(CLI::Range(1u, 64u));
  add(
      app, chosen, "shutdown", "End the service",
      [](auto& client, auto& o) {
        auto request = client.coordinator().shutdownRequest();
        request.setForce(o.force);
        client.wait(request.send());
      },
      options)
      ->add_flag("--force", options->force, "Also while restores have pages missing");
}

}  // namespace faultline::cli
