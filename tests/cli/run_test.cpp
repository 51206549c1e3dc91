// `faultline run`: the command that it runs finds the socket, decides the exit code, and leaves nothing behind.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "cli/errors.h"
#include "process/process.h"
#include "tests/cli/command.h"
#include "tests/support/server.h"

namespace faultline::test {
namespace {

using ::testing::HasSubstr;

class Run : public ::testing::Test {
 protected:
  void SetUp() override {
    image_ = directory_.image(4);
    std::filesystem::create_directory(runtime());
    setenv("XDG_RUNTIME_DIR", runtime().c_str(), 1);
  }
  void TearDown() override {
    EXPECT_TRUE(std::filesystem::is_empty(runtime())) << "something of a service is left";
    unsetenv("XDG_RUNTIME_DIR");
  }
  // The directory of a service of its own.
  std::string runtime() const { return directory_ / "run"; }

  std::unique_ptr<Command> start(std::vector<std::string> command,
                                 std::vector<std::string> options = {}) const {
    std::vector<std::string> arguments{"run", "--memory", image_};
    arguments.insert(arguments.end(), options.begin(), options.end());
    arguments.push_back("--");
    arguments.insert(arguments.end(), command.begin(), command.end());
    return std::make_unique<Command>(arguments);
  }
  Command::Result run(std::vector<std::string> command, std::vector<std::string> options = {}) const {
    return start(std::move(command), std::move(options))->finish();
  }
  std::string target() const { return process::siblingExecutable("faultline-target"); }
  // A command that is there until it is killed.
  std::vector<std::string> waiting() const {
    const std::string fifo = directory_ / "fifo";
    mkfifo(fifo.c_str(), 0600);
    return {"sh", "-c", "echo ready; exec cat " + fifo};
  }

  Directory directory_;
  std::string image_;
};

TEST_F(Run, TheCommandFindsTheSocketInItsArguments) {
  const auto result = run({target(), "--socket", "{}", "--image", image_});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("every byte"));
}

TEST_F(Run, AndInItsEnvironmentAsOftenAsItLikes) {
  const std::string once = target() + " --socket \"$FAULTLINE_SOCKET\" --image " + image_;
  const auto result = run({"sh", "-ec",
                           once + "; " + once + "; " + process::siblingExecutable("faultline") +
                               " status --control \"$FAULTLINE_CONTROL\""},
                          {"--no-prefault"});
  EXPECT_EQ(result.code, 0) << result.err;
}

TEST_F(Run, ItsExitCodeIsTheCommands) {
  EXPECT_EQ(run({"sh", "-c", "exit 42"}).code, 42);
  EXPECT_EQ(run({"sh", "-c", "kill -9 $$"}).code, 128 + SIGKILL);
}

TEST_F(Run, ACommandThatIsNotThere) {
  const auto none = run({"no-such-program"});
  EXPECT_EQ(none.code, 127);
  EXPECT_THAT(none.err, HasSubstr("no-such-program: No such file or directory"));
  EXPECT_EQ(run({image_}).code, 126);
}

TEST_F(Run, WhatCannotBeServedRunsNoCommand) {
  const std::string marker = directory_ / "marker";
  std::filesystem::resize_file(image_, 0);
  EXPECT_EQ(run({"touch", marker}).code, cli::USAGE);
  EXPECT_FALSE(std::filesystem::exists(marker));
  EXPECT_EQ(test::run({"run", "--memory", image_}).code, cli::USAGE);
}

TEST_F(Run, SignalsAreHandedOn) {
  auto running = start(waiting());
  running->await("ready");
  running->signal(SIGTERM);
  EXPECT_EQ(running->finish().code, 128 + SIGTERM);
}

// The target, in a session of its own, is stopped after its first page as the command ends; it is given the rest, and goes on without a server.
TEST_F(Run, ATargetThatOutlivesTheCommandGetsItsMemory) {
  const std::string out = directory_ / "out", pid = directory_ / "pid";
  const auto result =
      run({"sh", "-c",
           "setsid " + target() + " --socket {} --image " + image_ + " --stop-after 1 >" + out +
               " 2>&1 & echo $! >" + pid + "; until grep -q 'State:.T' /proc/$!/status; do :; done"},
          {"--no-prefault"});
  EXPECT_EQ(result.code, 0) << result.err;
  std::ifstream file(pid);
  pid_t stopped = 0;
  file >> stopped;
  ASSERT_GT(stopped, 1);
  kill(stopped, SIGCONT);
  await([&] {
    return kill(stopped, 0) != 0 ||
           textOf("/proc/" + std::to_string(stopped) + "/stat").find(") Z ") != std::string::npos;
  });
  EXPECT_THAT(textOf(out), HasSubstr("every byte"));
}

// Without a server the command's memory would read as zeros where pages are missing.
TEST_F(Run, ACommandWhoseServiceIsKilledIsKilled) {
  auto running = start(waiting());
  running->await("ready");
  const std::string self = std::to_string(running->pid());
  std::istringstream children(textOf("/proc/" + self + "/task/" + self + "/children"));
  bool killed = false;
  for (pid_t child; children >> child;) {
    if (textOf("/proc/" + std::to_string(child) + "/comm").starts_with("faultline"))
      killed = kill(child, SIGKILL) == 0;
  }
  ASSERT_TRUE(killed);
  const auto result = running->finish();
  EXPECT_EQ(result.code, cli::FAILED);
  EXPECT_THAT(result.err, HasSubstr("the service has ended, and sh is killed"));
}

}  // namespace
}  // namespace faultline::test
