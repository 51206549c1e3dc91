// The tool against servers of its own: the commands, the death of the coordinator, and what is left at the
// end.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cli/commands.h"
#include "cli/errors.h"
#include "rpc/connection.h"
#include "tests/cli/command.h"

namespace faultline::test {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

// Whether a signal for all of a process waits to be delivered (man 5 proc, ShdPnd).
bool signalPending(pid_t process) {
  std::ifstream status("/proc/" + std::to_string(process) + "/status");
  std::string word, signals;
  while (status >> word)
    if (word == "ShdPnd:") status >> signals;
  return signals.find_first_not_of('0') != std::string::npos;
}

class Service : public ::testing::Test {
 protected:
  void SetUp() override {
    const long uffd = syscall(SYS_userfaultfd, O_CLOEXEC);
    if (uffd < 0 && access("/dev/userfaultfd", R_OK | W_OK) != 0)
      GTEST_SKIP() << "userfaultfd is not to be had here";
    if (uffd >= 0) close(static_cast<int>(uffd));
    image_ = directory_.image(4);
  }

  std::string control() const { return directory_ / "control"; }
  std::string socket() const { return directory_ / "socket"; }

  std::unique_ptr<Command> serve(std::vector<std::string> more = {}) {
    more.insert(more.begin(), {"serve", "--control", control()});
    auto server = std::make_unique<Command>(more);
    server->await("serving; control socket");
    return server;
  }
  std::unique_ptr<Command> restore(std::vector<std::string> more = {}) {
    more.insert(more.begin(), {"restore", "--memory", image_, "--socket", socket()});
    auto command = std::make_unique<Command>(more);
    command->await("waiting for a target");
    return command;
  }
  std::unique_ptr<Command> target(const std::vector<std::string>& more = {}) {
    std::vector<std::string> arguments{"--socket", socket(), "--image", image_};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return std::make_unique<Command>(arguments, "faultline-target");
  }
  // A target that has touched a few pages and stands still until SIGCONT.
  std::unique_ptr<Command> stoppedTarget() {
    auto touching = target({"--threads", "1", "--stop-after", "16"});
    touching->awaitStop();
    return touching;
  }
  Command::Result ask(std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--control", control()});
    return run(arguments);
  }
  json status() { return json::parse(ask({"status", "--json"}).out); }
  void killCoordinator() {
    const json before = status();
    kill(before["coordinator_pid"].get<pid_t>(), SIGKILL);
    while (status()["incarnation"] == before["incarnation"]) sched_yield();
  }

  Directory directory_;
  std::string image_;
};

MATCHER(IsOneLine, "is one line that begins with the program's name") {
  return arg.rfind("faultline: ", 0) == 0 && std::count(arg.begin(), arg.end(), '\n') == 1;
}

std::vector<json> lines(const std::string& text) {
  std::vector<json> result;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) result.push_back(json::parse(line));
  return result;
}

TEST_F(Service, IsShownAndEndsWithNothingLeft) {
  auto server = serve({"--shards", "3", "--socket", socket(), "--memory", image_});

  const json seen = status();
  EXPECT_EQ(seen["incarnation"], 1);
  EXPECT_EQ(seen["shards"].size(), 3u);
  EXPECT_THAT(seen["restores"], IsEmpty());
  EXPECT_THAT(ask({"status"}).out,
              AllOf(HasSubstr("number 1"), HasSubstr("shard 2"), HasSubstr("no restores")));

  const pid_t group = server->pid();
  server->signal(SIGTERM);
  const auto result = server->finish();
  EXPECT_EQ(result.code, 0);
  EXPECT_THAT(result.out, IsEmpty());  // the log is on stderr
  EXPECT_THAT(directory_.content(), ElementsAre("image"));
  EXPECT_NE(kill(-group, 0), 0);
}

TEST_F(Service, ShutdownEndsIt) {
  auto server = serve();
  EXPECT_EQ(ask({"shutdown"}).code, 0);
  EXPECT_EQ(server->finish().code, 0);
  EXPECT_THAT(directory_.content(), ElementsAre("image"));
}

TEST_F(Service, TellsOfDeaths) {
  auto server = serve({"--log-level", "info"});
  killCoordinator();

  const json seen = status();
  EXPECT_EQ(seen["incarnation"], 2);
  EXPECT_THAT(seen["events"].dump(),
              AllOf(HasSubstr("killed by signal 9 (Killed)"), HasSubstr("takes over")));
  // With its day: an event may be from any.
  EXPECT_THAT(
      ask({"status"}).out,
      ContainsRegex("\n  [0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3} [^\n]*killed"));
  server->signal(SIGTERM);
  EXPECT_EQ(server->finish().code, 0);
}

TEST_F(Service, ManagesARestore) {
  auto server = serve();
  auto restoring = restore({"--control", control(), "--no-prefault", "--keep-serving", "--name", "vm"});
  auto touching = stoppedTarget();
  restoring->await("vm: ");
  ASSERT_EQ(ask({"pause", "vm"}).code, 0);

  const auto again = ask({"pause", "vm"});
  EXPECT_EQ(again.code, cli::REFUSED);
  EXPECT_THAT(again.err, AllOf(IsOneLine(), HasSubstr("restore vm is paused already")));
  const auto nobody = ask({"resume", "nobody"});
  EXPECT_EQ(nobody.code, cli::NOT_FOUND);
  EXPECT_THAT(nobody.err, AllOf(IsOneLine(), HasSubstr("no restore is called nobody")));

  const json seen = status()["restores"][0];
  EXPECT_EQ(seen["phase"], "paused");
  EXPECT_GT(seen["faults_per_second"].get<double>(), 0);
  std::uint64_t pages = 0, missing = 0;
  for (const json& run : json::parse(ask({"pages", "vm", "--json"}).out)) {
    EXPECT_EQ(run["first"], pages);
    pages += run["count"].get<std::uint64_t>();
    if (run["state"] == "missing") missing += run["count"].get<std::uint64_t>();
  }
  EXPECT_EQ(pages, 1024u);
  EXPECT_GT(missing, 0u);
  EXPECT_EQ(ask({"detach", "vm"}).code, cli::REFUSED);
  EXPECT_EQ(ask({"shutdown"}).code, cli::REFUSED);

  EXPECT_EQ(ask({"resume", "vm"}).code, 0);
  touching->signal(SIGCONT);
  EXPECT_EQ(touching->finish().code, 0);
  EXPECT_EQ(restoring->finish().code, 0);
  EXPECT_EQ(ask({"shutdown"}).code, 0);
  EXPECT_EQ(server->finish().code, 0);
}

TEST_F(Service, PrefaultWaits) {
  auto server = serve();
  auto restoring = restore({"--control", control(), "--no-prefault", "--keep-serving"});
  auto touching = stoppedTarget();
  restoring->await("restore: ");
  ASSERT_EQ(ask({"pause", "restore"}).code, 0);
  ASSERT_EQ(ask({"prefault", "restore", "--range", "1000:24"}).code, 0);
  const auto bad = ask({"prefault", "restore", "--range", "1000:25"});
  EXPECT_EQ(bad.code, cli::USAGE);
  EXPECT_THAT(bad.err, IsOneLine());
  ASSERT_EQ(ask({"resume", "restore"}).code, 0);

  EXPECT_THAT(ask({"prefault", "restore", "--range", "0:512", "--range", "600:1", "--wait"}).out,
              HasSubstr("0 of 513 pages are still missing"));
  touching->signal(SIGCONT);
  EXPECT_EQ(touching->finish().code, 0);
  EXPECT_EQ(restoring->finish().code, 0);
}

TEST_F(Service, RestoreBringsOneTargetAndCleansUp) {
  auto restoring = restore();
  auto touching = stoppedTarget();
  restoring->await("100.0 %  1024 pages in place, 0 given back, 0 missing");
  touching->signal(SIGCONT);

  EXPECT_EQ(touching->finish().code, 0);
  EXPECT_EQ(restoring->finish().code, 0);
  EXPECT_THAT(directory_.content(), ElementsAre("image"));
}

TEST_F(Service, RestoreTellsProgramsInJson) {
  auto restoring = restore({"--json", "--log-level", "debug"});
  auto touching = target();

  EXPECT_EQ(touching->finish().code, 0);
  const auto result = restoring->finish();
  EXPECT_EQ(result.code, 0);
  const auto objects = lines(result.out);  // the log of the service is not among them
  EXPECT_EQ(objects.front()["event"], "note");
  EXPECT_EQ(objects.back()["event"], "end");
  EXPECT_EQ(objects.back()["missing"], 0);
  EXPECT_EQ(objects.back()["pages"], 1024);
}

// A path, and what a stranger sends, are any bytes; JSON is not.
TEST_F(Service, RestoreTellsProgramsInJsonWhateverBytesItSpeaksOf) {
  const std::string odd = directory_ / "odd\xff";
  Command restoring({"restore", "--json", "--memory", image_, "--socket", odd});
  restoring.await("waiting for a target");
  {
    const kj::AutoCloseFd stranger = rpc::connectTo(odd);
    ASSERT_EQ(write(stranger.get(), "\xfe\xff", 2), 2);
  }
  restoring.await("refused a target");

  Command touching({"--socket", odd, "--image", image_}, "faultline-target");
  EXPECT_EQ(touching.finish().code, 0);
  const auto result = restoring.finish();
  EXPECT_EQ(result.code, 0) << result.err;
  const auto objects = lines(result.out);
  EXPECT_EQ(objects.front()["text"], "waiting for a target at " + (directory_ / "odd\xef\xbf\xbd"));
  EXPECT_EQ(objects.back()["event"], "end");
}

TEST_F(Service, RestoreSurvivesTheCoordinatorBeforeATargetComes) {
  auto server = serve();
  auto restoring = restore({"--control", control(), "--no-prefault"});
  killCoordinator();
  restoring->await("waiting for its successor");
  auto touching = stoppedTarget();
  restoring->await("restore: ");
  touching->signal(SIGCONT);

  EXPECT_EQ(touching->finish().code, 0);
  EXPECT_EQ(restoring->finish().code, 0);
}

// Its listener goes with it, whichever coordinator serves that: the name is free for the next one.
TEST_F(Service, RestoreLeavesNoListenerWithASuccessor) {
  auto server = serve();
  auto restoring = restore({"--control", control(), "--keep-serving"});
  killCoordinator();
  restoring->await("waiting for its successor");
  auto touching = stoppedTarget();
  restoring->await("restore: ");
  touching->signal(SIGCONT);
  EXPECT_EQ(touching->finish().code, 0);
  EXPECT_EQ(restoring->finish().code, 0);

  auto again = restore({"--control", control()});  // waits for a target
  again->signal(SIGINT);
  EXPECT_THAT(again->finish().err, HasSubstr("interrupted before a target came"));
}

TEST_F(Service, RestoreInterruptedAfterACoordinatorsDeathLeavesNoListener) {
  auto server = serve();
  auto restoring = restore({"--control", control()});
  killCoordinator();
  restoring->await("waiting for its successor");
  restoring->signal(SIGINT);
  EXPECT_EQ(restoring->finish().code, cli::FAILED);

  auto again = restore({"--control", control()});
  again->signal(SIGINT);
  EXPECT_THAT(again->finish().err, HasSubstr("interrupted before a target came"));
}

// The supervisor is stopped, and starts no coordinator before the interrupt has been seen.
TEST_F(Service, RestoreInterruptedWhileThereIsNoCoordinatorLeavesNoListener) {
  auto server = serve();
  auto restoring = restore({"--control", control()});
  const auto coordinator = status()["coordinator_pid"].get<pid_t>();
  server->signal(SIGSTOP);
  kill(coordinator, SIGKILL);
  restoring->await("waiting for its successor");
  restoring->signal(SIGINT);
  while (signalPending(restoring->pid())) sched_yield();
  server->signal(SIGCONT);
  EXPECT_EQ(restoring->finish().code, cli::FAILED);

  auto again = restore({"--control", control()});
  again->signal(SIGINT);
  EXPECT_THAT(again->finish().err, HasSubstr("interrupted before a target came"));
}

TEST_F(Service, RestoreSurvivesTheCoordinatorWhileItServes) {
  auto server = serve();
  auto restoring = restore({"--control", control(), "--no-prefault"});
  auto touching = stoppedTarget();
  restoring->await("restore: ");
  ASSERT_EQ(ask({"pause", "restore"}).code, 0);
  killCoordinator();
  restoring->await("waiting for its successor");
  ASSERT_EQ(ask({"resume", "restore"}).code, 0);
  touching->signal(SIGCONT);

  EXPECT_EQ(touching->finish().code, 0);
  const auto result = restoring->finish();
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("0 missing"));
}

// A service of its own takes the missing pages with it.
TEST_F(Service, RestoreInterruptedFetchesWhatIsMissingFirst) {
  auto restoring = restore({"--no-prefault", "--keep-serving"});
  auto touching = stoppedTarget();
  restoring->await("restore: ");
  restoring->signal(SIGINT);
  restoring->await("are fetched first");
  touching->signal(SIGCONT);

  const auto result = restoring->finish();
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("are fetched first"), HasSubstr("0 missing")));
  EXPECT_EQ(touching->finish().code, 0);  // with every byte right
}

TEST_F(Service, RestoreInterruptedBeforeATargetComesLeavesNothing) {
  auto restoring = restore();
  restoring->signal(SIGINT);

  const auto result = restoring->finish();
  EXPECT_EQ(result.code, cli::FAILED);
  EXPECT_THAT(result.err, HasSubstr("interrupted before a target came"));
  EXPECT_THAT(directory_.content(), ElementsAre("image"));
}

// Another server has taken the path meanwhile.
TEST_F(Service, RestoreLeavesAFileThatIsNotItsOwn) {
  auto restoring = restore();
  ASSERT_EQ(unlink(socket().c_str()), 0);
  directory_.file("socket", "another's");
  restoring->signal(SIGINT);
  EXPECT_EQ(restoring->finish().code, cli::FAILED);
  EXPECT_THAT(directory_.content(), UnorderedElementsAre("image", "socket"));
}

// Such options would be without effect: that server has shards of its own.
TEST_F(Service, RestoreByAServerRefusesTheOptionsOfAService) {
  auto server = serve();
  const auto result = ask({"restore", "--memory", image_, "--socket", socket(), "--shards", "3"});
  EXPECT_EQ(result.code, cli::USAGE);
  EXPECT_THAT(result.err, AllOf(HasSubstr("--shards"), HasSubstr(control())));
  EXPECT_THAT(directory_.content(), UnorderedElementsAre("control", "image"));
  auto restoring = restore({"--control", control()});
  EXPECT_THAT(restoring->soFar(), HasSubstr("served by the server at " + control()));
}

TEST_F(Service, RestoreThatLosesItsDaemonSaysSo) {
  auto server = serve();
  auto restoring = restore({"--control", control()});
  server->signal(SIGKILL);
  server->finish();
  restoring->await("waiting for its successor");
  restoring->signal(SIGTERM);

  const auto result = restoring->finish();
  EXPECT_EQ(result.code, cli::FAILED);
  EXPECT_THAT(result.err, HasSubstr("interrupted while the server was being replaced"));
}

TEST_F(Service, DemoComparesEveryByte) {
  const auto result = run({"demo", "--size-mib", "16", "--give-back", "20", "--threads", "2", "--json",
                           "--dir", directory_.path()});
  ASSERT_EQ(result.code, 0) << result.err;
  const json report = json::parse(result.out);
  EXPECT_EQ(report["verdict"], "ok");
  EXPECT_EQ(report["pages"], 4096);
  EXPECT_EQ(
      report["from_source"].get<int>() + report["zero_in_source"].get<int>() + report["removed"].get<int>(),
      4096);
  EXPECT_GE(report["copied"].get<int>() + report["zeroed"].get<int>() + report["zeroed_removed"].get<int>(),
            4096);
  EXPECT_GT(report["removed"].get<int>(), 0);
  EXPECT_GT(report["segment_bytes"].get<int>(), 0);
  EXPECT_THAT(directory_.content(), ElementsAre("image"));
}

TEST_F(Service, DemoPrintsATable) {
  const auto result = run({"demo", "--size-mib", "8", "--dir", directory_.path()});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out,
              AllOf(HasSubstr("pages compared, every byte                     2048"),
                    HasSubstr("fault latency p50 / p99 / p99.9"), HasSubstr("every byte is right")));
}

TEST_F(Service, DemoInterruptedLeavesNothing) {
  Command demo({"demo", "--size-mib", "512", "--dir", directory_.path()});
  demo.await("making a memory image");
  demo.signal(SIGINT);

  const auto result = demo.finish();
  EXPECT_EQ(result.code, cli::FAILED);
  EXPECT_THAT(result.err, HasSubstr("interrupted"));
  EXPECT_THAT(directory_.content(), ElementsAre("image"));
}

}  // namespace
}  // namespace faultline::test
