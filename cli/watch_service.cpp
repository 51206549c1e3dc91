// drain and events: what is waited for on a whole service.

#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/errors.h"
#include "cli/format.h"
#include "cli/restore_options.h"
#include "cli/session.h"
#include "process/plain_text.h"
#include "rpc/refusal.h"

namespace faultline::cli {

using nlohmann::json;

namespace {

// --- drain ---

struct Left {
  unsigned restores = 0;
  std::uint64_t missing = 0;  // pages
};

Left leftIn(Session& session) {
  Left left;
  auto response = session.wait(session.coordinator().listRequest().send());
  for (auto restore : response.getRestores()) {
    left.restores++;
    left.missing += restore.getMissing();
  }
  return left;
}

// Says how far it is, each time that this has changed. True: drained. False: the coordinator has gone.
bool awaitDrained(Session& session, bool quiet) {
  auto draining = session.coordinator().drainRequest().send().ignoreResult().fork();
  std::string told;
  try {
    for (;;) {
      auto done = draining.addBranch().then([] { return true; });
      auto pause = session.after(std::chrono::seconds(1)).then([] { return false; });
      if (session.wait(done.exclusiveJoin(kj::mv(pause)))) return true;
      const Left left = leftIn(session);
      const std::string now =
          std::to_string(left.restores) + " restores, " + std::to_string(left.missing) + " pages are missing";
      if (!quiet && now != told) printf("%s\n", now.c_str());
      fflush(stdout);
      told = now;
    }
  } catch (const kj::Exception& error) {
    if (error.getType() != kj::Exception::Type::DISCONNECTED) throw;
    return false;
  }
}

int drain(const std::string& control, bool quiet) {
  Interrupts::capture();
  Session session(control);
  while (!awaitDrained(session, quiet)) {
    // A restore that has ended meanwhile had nothing left to fetch: an end drops nothing that a drain has waited for.
    try {
      session.awaitSuccessor([] { return false; });
    } catch (const kj::Exception& error) {
      if (error.getType() != kj::Exception::Type::DISCONNECTED) throw;
      throw CommandError(DISCONNECTED, "the server has gone while it was drained");
    }
  }
  printf("every restore is complete; the service ends\n");
  return OK;
}

// --- events ---

struct EventsOptions {
  std::string control = DEFAULT_CONTROL;
  bool follow = false, asJson = false;
};

const char* levelName(rpc::EventLevel level) {
  switch (level) {
    case rpc::EventLevel::INFO:
      return "info";
    case rpc::EventLevel::WARNING:
      return "warning";
    case rpc::EventLevel::ERROR:
      return "error";
  }
  return "?";
}

void print(rpc::ServiceEvent::Reader event, bool asJson) {
  if (asJson) {
    const json line{{"number", event.getNumber()},
                    {"unix_ns", event.getUnixNs()},
                    {"level", levelName(event.getLevel())},
                    {"restore", event.getRestore().cStr()},
                    {"text", event.getText().cStr()}};
    printf("%s\n", line.dump(-1, ' ', true, json::error_handler_t::replace).c_str());
  } else {
    const auto seconds = static_cast<std::time_t>(event.getUnixNs() / 1'000'000'000);
    char when[32];
    std::tm local{};
    strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S", localtime_r(&seconds, &local));
    printf("%s.%03d %-7s %s\n", when, static_cast<int>(event.getUnixNs() / 1'000'000 % 1000),
           levelName(event.getLevel()), process::plainText(event.getText().cStr()).c_str());
  }
  fflush(stdout);
}

// Those that there are; the number of the last one.
std::uint64_t printLatest(Session& session, bool asJson) {
  auto response = session.wait(session.coordinator().statusRequest().send());
  std::uint64_t last = 0;
  for (auto event : response.getService().getEvents()) {
    print(event, asJson);
    last = event.getNumber();
  }
  return last;
}

int events(const EventsOptions& options) {
  Interrupts::capture();
  Session session(options.control);
  std::uint64_t last = printLatest(session, options.asJson);
  while (options.follow) {
    try {
      auto request = session.coordinator().eventsRequest();
      request.setAfter(last);
      using Answer = capnp::Response<rpc::Coordinator::EventsResults>;
      auto answer = request.send().then([](Answer&& came) -> kj::Maybe<Answer> { return kj::mv(came); });
      auto interrupted = session.interrupts().next().then([]() -> kj::Maybe<Answer> { return nullptr; });
      auto came = session.wait(interrupted.exclusiveJoin(kj::mv(answer)));
      KJ_IF_MAYBE (response, came) {
        if (response->getLost() > 0)
          fprintf(stderr, "faultline: %llu events are kept no more\n",
                  static_cast<unsigned long long>(response->getLost()));
        for (auto event : response->getEvents()) {
          print(event, options.asJson);
          last = event.getNumber();
        }
      } else {
        return OK;
      }
    } catch (const kj::Exception& error) {
      if (error.getType() == kj::Exception::Type::DISCONNECTED) {
        session.awaitSuccessor([] { return false; });
      } else if (last != 0 && rpc::refusalOf(error).reason == rpc::Reason::BAD_INPUT) {
        last = 0;  // another service is there, which counts anew
      } else {
        throw;
      }
    }
  }
  return OK;
}

}  // namespace

void addWatchService(CLI::App& app, Result& chosen) {
  struct DrainOptions {
    std::string control = DEFAULT_CONTROL;
    bool quiet = false;
  };
  auto draining = std::make_shared<DrainOptions>();
  CLI::App* command = app.add_subcommand("drain", "End the service once every restore is complete");
  command->description(
      "Take no new targets, populate everything, and end the service when no restore misses a page any "
      "more.\n"
      "Targets that connect meanwhile wait. Where a restore cannot be completed (the memory limit of its "
      "target leaves\n"
      "no room, its source fails, it is paused), the service goes on as it was, and the exit code is 6; so "
      "it does where\n"
      "this command is interrupted.\n\n"
      "Example: faultline drain && systemctl stop faultline.socket");
  addControl(*command, draining->control);
  command->add_flag("--quiet", draining->quiet, "Do not say how far it is");
  command->footer(EXIT_CODES);
  command->callback(
      [draining, &chosen] { chosen = [draining] { return drain(draining->control, draining->quiet); }; });

  auto following = std::make_shared<EventsOptions>();
  command = app.add_subcommand("events", "What has happened, and what happens");
  command->description(
      "Print the latest events of a service (what died, what was done, what a target has lost), across "
      "coordinators.\n\n"
      "Examples:\n"
      "  faultline events\n"
      "  faultline events --follow --json | jq -c 'select(.level == \"error\")'");
  addControl(*command, following->control);
  command->add_flag("--follow", following->follow, "Go on with each that comes, until it is interrupted");
  command->add_flag("--json", following->asJson, "A JSON object a line");
  command->footer(EXIT_CODES);
  command->callback([following, &chosen] { chosen = [following] { return events(*following); }; });
}

}  // namespace faultline::cli
