// The small commands on one restore or on the service.

#include <kj/debug.h>

#include <charconv>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/commands.h"
#include "cli/errors.h"
#include "cli/restore_options.h"
#include "cli/session.h"

namespace faultline::cli {

namespace {

struct ManageOptions {
  std::string control = DEFAULT_CONTROL;
  std::string name;
  std::vector<std::string> ranges;
  unsigned shards = 1;
  bool force = false, wait = false, json = false;
};

// Returns an exit code.
using Action = std::function<int(Session&, const ManageOptions&)>;

CLI::App* add(CLI::App& app, Result& chosen, const char* name, const char* help, const char* more,
              Action action, const std::shared_ptr<ManageOptions>& options) {
  CLI::App* command = app.add_subcommand(name, help);
  command->description(std::string(help) + ".\n\n" + more);
  addControl(*command, options->control);
  command->footer(EXIT_CODES);
  command->callback([options, &chosen, action = std::move(action)] {
    chosen = [options, action] {
      Interrupts::capture();
      Session session(options->control);
      return action(session, *options);
    };
  });
  return command;
}

// "FIRST:COUNT", in pages. Empty for any other text.
std::optional<std::pair<std::uint64_t, std::uint64_t>> parseRange(const std::string& text) {
  std::uint64_t first = 0, count = 0;
  const char* end = text.data() + text.size();
  const auto [colon, firstError] = std::from_chars(text.data(), end, first);
  if (firstError != std::errc() || colon == end || *colon != ':') return std::nullopt;
  const auto [rest, countError] = std::from_chars(colon + 1, end, count);
  if (countError != std::errc() || rest != end || count == 0) return std::nullopt;
  return std::pair(first, count);
}

std::string checkRange(const std::string& text) {
  return parseRange(text).has_value() ? "" : "\"" + text + "\" is not FIRST:COUNT in pages, as in 0:512";
}

int prefault(Session& session, const ManageOptions& options) {
  auto request = session.restore(options.name).prefaultRequest();
  auto ranges = request.initRanges(static_cast<unsigned>(options.ranges.size()));
  for (unsigned i = 0; i < options.ranges.size(); i++) {
    const auto [first, count] = *parseRange(options.ranges[i]);  // checked as it was given
    ranges[i].setFirst(first);
    ranges[i].setCount(count);
  }
  auto prefault = session.wait(request.send()).getPrefault();
  if (!options.wait) return OK;
  session.wait(prefault.waitRequest().send());
  auto progress = session.wait(prefault.progressRequest().send());
  const auto missing = static_cast<unsigned long long>(progress.getMissing());
  if (progress.getTotal() > 0)
    printf("%llu of %llu pages are still missing\n", missing,
           static_cast<unsigned long long>(progress.getTotal()));
  else
    printf("the restore has ended; %llu pages were missing\n", missing);
  return missing == 0 ? OK : INCOMPLETE;
}

bool answers(Session& session) {
  try {
    session.client().reconnect();
    session.wait(session.coordinator().listRequest().send());
    return true;
  } catch (const kj::Exception& error) {
    if (error.getType() != kj::Exception::Type::DISCONNECTED) throw;
    return false;
  }
}

// A service that ends may be gone before its answer is; one whose coordinator has just died is there again.
int shutdown(Session& session, const ManageOptions& options) {
  for (bool there = true; there;) {
    auto request = session.coordinator().shutdownRequest();
    request.setForce(options.force);
    try {
      session.wait(request.send());
      return OK;
    } catch (const kj::Exception& error) {
      if (error.getType() != kj::Exception::Type::DISCONNECTED) throw;
    }
    there = answers(session);
  }
  return OK;
}

}  // namespace

void addManage(CLI::App& app, Result& chosen) {
  auto options = std::make_shared<ManageOptions>();
  auto onRestore = [&](const char* name, const char* help, const char* more, Action action) {
    CLI::App* command = add(app, chosen, name, help, more, std::move(action), options);
    command->add_option("RESTORE", options->name, "The restore's name; `faultline status` lists them")
        ->required();
    return command;
  };
  onRestore("pause", "Stop answering a restore's faults for a while",
            "Faults and removals queue up in the kernel; the target's threads wait.\n"
            "Example: faultline pause vm1",
            [](auto& session, auto& o) {
              session.wait(session.restore(o.name).pauseRequest().send());
              return OK;
            });
  onRestore("resume", "Answer a paused restore's faults again",
            "Begins with what has queued up meanwhile.\nExample: faultline resume vm1",
            [](auto& session, auto& o) {
              session.wait(session.restore(o.name).resumeRequest().send());
              return OK;
            });
  onRestore("detach", "End a restore and release its target",
            "The target runs on without a server. Refused while pages are missing: prefault them first. A "
            "restore is\n"
            "released by itself when it has every page, unless it is served with --keep-serving.\n"
            "Example: faultline prefault vm1 --wait && faultline detach vm1",
            [](auto& session, auto& o) {
              auto request = session.restore(o.name).detachRequest();
              request.setForce(o.force);
              session.wait(request.send());
              return OK;
            })
      ->add_flag("--force", options->force,
                 "Also with pages missing: the target gets SIGBUS there, or is killed (--on-lost)");
  CLI::App* populate =
      onRestore("prefault", "Populate a restore's pages in the background",
                "Demand faults go first. Ranges are populated in the order given, as a recorded "
                "working set would give them.\n"
                "Examples:\n"
                "  faultline prefault vm1 --wait\n"
                "  faultline prefault vm1 --range 0:512 --range 4096:256",
                prefault);
  populate
      ->add_option("--range", options->ranges,
                   "FIRST:COUNT in pages (repeatable); default: every page, all shards in parallel")
      ->check(checkRange);
  populate->add_flag("--wait", options->wait,
                     "Return when it is done, with 0 only where nothing is missing any more");
  onRestore("reshard", "Deal a restore's pages out to another number of shards",
            "While it is served; shards are started as needed.\nExample: faultline reshard vm1 --shards 4",
            [](auto& session, auto& o) {
              auto request = session.coordinator().reshardRequest();
              request.setRestore(o.name.c_str());
              request.setShards(o.shards);
              session.wait(request.send());
              return OK;
            })
      ->add_option("--shards", options->shards, "To so many shards")
      ->required()
      ->check(CLI::Range(1u, 64u));
  add(app, chosen, "shutdown", "End the service",
      "Refused while restores have pages missing: wait for them or detach them first.\n"
      "Example: faultline shutdown",
      shutdown, options)
      ->add_flag("--force", options->force,
                 "Also while restores have pages missing: they are fetched first; given again, what is "
                 "missing yet is\n"
                 "an error to the target (--on-lost)");
}

}  // namespace faultline::cli
