// faultline wait: for scripts that go on when a restore has come so far.

#include <kj/debug.h>

#include <memory>
#include <optional>

#include "cli/commands.h"
#include "cli/errors.h"
#include "cli/restore_options.h"
#include "cli/restore_view.h"
#include "cli/session.h"
#include "process/plain_text.h"
#include "rpc/refusal.h"

namespace faultline::cli {

namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

struct WaitOptions {
  std::string control = DEFAULT_CONTROL, name, what = "complete";
  std::optional<double> timeout;  // seconds
};

constexpr milliseconds LOOK{50};  // for a restore that is not there yet

class Waiting {
 public:
  explicit Waiting(const WaitOptions& options) : options_(options), session_(options.control) {
    if (options.timeout.has_value())
      until_ = Clock::now() + milliseconds(static_cast<std::int64_t>(*options.timeout * 1000));
  }

  int run() {
    for (;;) {
      try {
        auto restore = find();
        if (!restore.has_value()) return late("it has not come");
        return options_.what == "ready"      ? ready(*restore)
               : options_.what == "complete" ? complete(*restore)
                                             : ended(*restore);
      } catch (const kj::Exception& error) {
        if (error.getType() != kj::Exception::Type::DISCONNECTED) {
          if ((found_ || options_.what == "ended") && isNotFound(error)) return over(error);
          throw;
        }
        session_.awaitSuccessor([] { return false; });
      }
    }
  }

 private:
  // One that is not there is waited for where it is to be ready: its target connects later.
  std::optional<rpc::Restore::Client> find() {
    for (;;) {
      try {
        auto restore = session_.restore(options_.name);
        found_ = true;
        return restore;
      } catch (const kj::Exception& error) {
        if (options_.what != "ready" || found_ || !isNotFound(error)) throw;
      }
      if (until_.has_value() && Clock::now() >= *until_) return std::nullopt;
      session_.wait(session_.after(LOOK));
    }
  }

  static bool isNotFound(const kj::Exception& error) {
    return error.getType() != kj::Exception::Type::DISCONNECTED &&
           rpc::refusalOf(error).reason == rpc::Reason::NOT_FOUND;
  }

  // The restore has ended: before this command came, or while it was without a coordinator.
  int over(const kj::Exception& notFound) {
    auto request = session_.coordinator().endedRequest();
    request.setName(options_.name.c_str());
    auto response = session_.wait(request.send());
    if (response.getRestores().size() == 0) kj::throwFatalException(kj::cp(notFound));
    const rpc::EndedRestore::Reader last = response.getRestores()[0];
    if (options_.what == "ended") return endedBy(last.getReason(), last.getText());
    if (options_.what == "complete") return completeWith(last.getInfo().getMissing());
    throw CommandError(FAILED, "restore " + options_.name + " is over: " + last.getText().cStr());
  }

  // Whether it came in time.
  bool inTime(kj::Promise<void> promise) {
    auto came = promise.then([] { return true; });
    if (until_.has_value()) {
      const auto left = std::chrono::ceil<milliseconds>(*until_ - Clock::now());
      came = came.exclusiveJoin(session_.after(left).then([] { return false; }));
    }
    return session_.wait(kj::mv(came));
  }

  int late(const std::string& how) {
    fprintf(stderr, "faultline: %s\n",
            process::plainText(options_.name + ": " + how + " within " + timeText()).c_str());
    return INCOMPLETE;
  }
  std::string timeText() const {
    char text[32];
    snprintf(text, sizeof text, "%g s", options_.timeout.value_or(0));
    return text;
  }

  int failed(rpc::RestoreInfo::Reader info) {
    throw CommandError(FAILED, "restore " + options_.name + " has failed: " + info.getFailureText().cStr());
  }

  int ready(rpc::Restore::Client& restore) {
    if (!inTime(restore.waitReadyRequest().send().ignoreResult())) return late("not every shard serves it");
    auto response = session_.wait(restore.infoRequest().send());
    if (response.getInfo().getPhase() == rpc::Phase::FAILED) return failed(response.getInfo());
    printf("%s is served\n", process::plainText(options_.name).c_str());
    return OK;
  }

  // A restore that has every page is released by itself: then it is over, with nothing missing.
  int complete(rpc::Restore::Client& restore) {
    auto waiting = restore.waitCompleteRequest().send();
    kj::Maybe<capnp::Response<rpc::Restore::WaitCompleteResults>> response;
    const bool came = inTime(waiting.then(
        [&](capnp::Response<rpc::Restore::WaitCompleteResults>&& got) { response = kj::mv(got); }));
    if (!came) {
      auto now = session_.wait(restore.infoRequest().send());
      return late(std::to_string(now.getInfo().getMissing()) + " of " +
                  std::to_string(now.getInfo().getPages()) + " pages are still missing and have not come");
    }
    auto info = KJ_ASSERT_NONNULL(response).getInfo();
    if (info.getPhase() == rpc::Phase::FAILED) return failed(info);
    return completeWith(info.getMissing());
  }

  int completeWith(std::uint64_t missing) {
    if (missing > 0)
      throw CommandError(INCOMPLETE, "restore " + options_.name + " is over, and " + std::to_string(missing) +
                                         " pages were missing");
    printf("%s has every page\n", process::plainText(options_.name).c_str());
    return OK;
  }

  int ended(rpc::Restore::Client& restore) {
    kj::Maybe<capnp::Response<rpc::Restore::WaitEndedResults>> response;
    const bool came = inTime(restore.waitEndedRequest().send().then(
        [&](capnp::Response<rpc::Restore::WaitEndedResults>&& got) { response = kj::mv(got); }));
    if (!came) return late("it has not ended");
    const rpc::Restore::WaitEndedResults::Reader over = KJ_ASSERT_NONNULL(response);
    return endedBy(over.getReason(), over.getText());
  }

  int endedBy(rpc::EndReason reason, kj::StringPtr how) {
    const bool lost = reason >= rpc::EndReason::TARGET_KILLED;
    const std::string text = options_.name + ": " + how.cStr();
    if (lost) throw CommandError(FAILED, text);
    printf("%s\n", process::plainText(text).c_str());
    return OK;
  }

  const WaitOptions& options_;
  Session session_;
  std::optional<Clock::time_point> until_;
  bool found_ = false;  // the restore has been there
};

}  // namespace

void addWait(CLI::App& app, Result& chosen) {
  auto options = std::make_shared<WaitOptions>();
  CLI::App* command = app.add_subcommand("wait", "Wait until a restore is ready, complete or has ended");
  command->description(
      "Wait until a restore is ready (every shard that it needs serves it; one that is not there yet is "
      "waited for),\n"
      "complete (no page is missing), or ended (it is over). Whatever coordinators the service has "
      "meanwhile.\n\n"
      "0 it is so; 1 it has failed; 5 there is none of that name; 7 not within --timeout.\n\n"
      "Examples:\n"
      "  faultline wait vm1 --for ready --timeout 10\n"
      "  faultline prefault vm1 && faultline wait vm1 --for complete");
  command->add_option("RESTORE", options->name, "The restore's name; `faultline status` lists them")
      ->required();
  addControl(*command, options->control);
  command->add_option("--for", options->what, "What to wait for")
      ->check(CLI::IsMember({"ready", "complete", "ended"}))
      ->capture_default_str();
  command->add_option("--timeout", options->timeout, "At most so many seconds; default: for ever")
      ->check(CLI::Range(0.0, 1e6));
  command->footer(EXIT_CODES);
  command->callback([options, &chosen] {
    chosen = [options] {
      Interrupts::capture();
      return Waiting(*options).run();
    };
  });
}

}  // namespace faultline::cli
