// Refusals of the command line: the exit code, and a message with the thing, the value and the way out.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "process/process.h"
#include "rpc/connection.h"
#include "tests/support/image.h"

namespace faultline::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

struct Outcome {
  int code;
  std::string text;
};

// `by`: a command that runs another one.
Outcome run(const std::string& arguments, const std::string& by = "") {
  const std::string command =
      by + process::siblingExecutable("faultline") + " " + arguments + " 2>&1 </dev/null";
  FILE* pipe = popen(command.c_str(), "re");
  std::string text;
  char buffer[4096];
  for (std::size_t got; (got = fread(buffer, 1, sizeof buffer, pipe)) > 0;) text.append(buffer, got);
  const int status = pclose(pipe);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128, text};
}

// Runs as a user to whom files' modes apply: root is one without these two capabilities.
Outcome runAsAnyUser(const std::string& arguments) {
  return run(arguments, geteuid() == 0 ? "setpriv --bounding-set=-dac_override,-dac_read_search " : "");
}

class CommandLine : public testing::Test {
 protected:
  Image image_{1 << 20};
  const std::string directory_ = image_.directory();
  std::string restore(const std::string& memory, const std::string& socket) {
    return "restore --memory " + memory + " --socket " + socket;
  }
};

TEST_F(CommandLine, HelpTeachesForEveryCommand) {
  EXPECT_EQ(run("--help").code, 0);
  for (const char* command : {"serve", "restore", "status", "demo", "pause", "resume", "detach", "prefault",
                              "pages", "reshard", "shutdown"}) {
    const Outcome outcome = run(std::string(command) + " --help");
    EXPECT_EQ(outcome.code, 0) << command;
    EXPECT_THAT(outcome.text, HasSubstr("Exit codes:")) << command;
  }
}

TEST_F(CommandLine, UsageErrors) {
  EXPECT_EQ(run("").code, 2);
  EXPECT_EQ(run("nonsense").code, 2);
  EXPECT_EQ(run("restore").code, 2);
  for (const char* shards : {"0", "10000", "-1", "two"}) {
    const Outcome outcome = run("serve --control " + directory_ + "/c --shards " + shards);
    EXPECT_EQ(outcome.code, 2) << shards;
    EXPECT_THAT(outcome.text, HasSubstr("--shards")) << shards;
  }
}

TEST_F(CommandLine, CpusThatAreNotOurs) {
  for (const char* cpus : {"", "x", "1-", "-1", "2-1", "0,,1", "0-99999999999"}) {
    const Outcome outcome = run("serve --control " + directory_ + "/c --cpus '" + cpus + "'");
    EXPECT_EQ(outcome.code, 2) << cpus;
    EXPECT_THAT(outcome.text, AllOf(HasSubstr("--cpus"), HasSubstr("as in 0-3,8"))) << cpus;
  }
  const Outcome outcome = run("serve --control " + directory_ + "/c --cpus 1023");
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.text, AllOf(HasSubstr("1023"), HasSubstr("choose among 0")));
}

TEST_F(CommandLine, MemoryFiles) {
  const std::string socket = directory_ + "/s";
  Outcome outcome = run(restore(directory_ + "/none", socket));
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.text, AllOf(HasSubstr(directory_ + "/none"), HasSubstr("No such file")));
  outcome = run(restore(directory_, socket));
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.text, HasSubstr("is a directory"));
  std::ofstream(directory_ + "/empty").close();
  outcome = run(restore(directory_ + "/empty", socket));
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.text, HasSubstr("is empty"));
}

// Before a socket is made.
TEST_F(CommandLine, LayersThatAreNone) {
  const std::string socket = directory_ + "/s", whole = image_.path();
  const Image base(1 << 20), other(2 << 20);
  const std::string restored = restore(whole, socket),
                    served = "serve --control " + directory_ + "/c --socket " + socket + " --memory " + whole;
  for (const std::string& command : {restored, served, served + " --check"}) {
    Outcome outcome = run(command + " --over " + other.path());
    EXPECT_EQ(outcome.code, 2) << command;
    EXPECT_THAT(outcome.text, AllOf(HasSubstr(whole), HasSubstr(other.path()), HasSubstr("of one size")));
    outcome = run(command + " --over " + base.path());
    EXPECT_EQ(outcome.code, 2) << command;
    EXPECT_THAT(outcome.text, HasSubstr(whole + " can't be an upper layer: it has no hole"));
    outcome = run(command + " --over " + directory_ + "/none");
    EXPECT_EQ(outcome.code, 2) << command;
    EXPECT_THAT(outcome.text, HasSubstr("memory file " + directory_ + "/none: No such file"));
    EXPECT_NE(access(socket.c_str(), F_OK), 0);
  }
  const Outcome first = run("serve --control " + directory_ + "/c --over " + base.path());
  EXPECT_EQ(first.code, 2);
  EXPECT_THAT(first.text, HasSubstr("--over names what lies below the --memory before it"));
}

TEST_F(CommandLine, SocketPaths) {
  Outcome outcome = run(restore(image_.path(), directory_ + "/" + std::string(200, 'x')));
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.text, HasSubstr("too long"));
  outcome = run(restore(image_.path(), image_.path()));
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.text, HasSubstr("no socket"));
  outcome = run(restore(image_.path(), directory_ + "/nowhere/s"));
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.text, HasSubstr("writable"));
  const auto listening = rpc::listenAt(directory_ + "/used");
  outcome = run(restore(image_.path(), directory_ + "/used"));
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.text, HasSubstr("in use"));
}

TEST_F(CommandLine, ASocketPathThatIsNotWritable) {
  const std::string locked = directory_ + "/locked";
  ASSERT_EQ(mkdir(locked.c_str(), 0755), 0);
  ASSERT_EQ(chmod(locked.c_str(), 0555), 0);
  for (const std::string& arguments :
       {restore(image_.path(), locked + "/s"), "serve --control " + locked + "/s"}) {
    const Outcome outcome = runAsAnyUser(arguments);
    EXPECT_EQ(outcome.code, 2) << arguments;
    EXPECT_THAT(outcome.text, AllOf(HasSubstr("is its directory there and writable?: " + locked + "/s"),
                                    HasSubstr("Permission denied")))
        << arguments;
  }
}

TEST_F(CommandLine, AMemoryFileThatMayNotBeRead) {
  const std::string secret = directory_ + "/secret";
  std::ofstream(secret) << "x";
  ASSERT_EQ(chmod(secret.c_str(), 0), 0);
  const Outcome outcome = runAsAnyUser(restore(secret, directory_ + "/s"));
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.text, AllOf(HasSubstr("memory file " + secret), HasSubstr("Permission denied")));
  EXPECT_NE(access((directory_ + "/s").c_str(), F_OK), 0);
}

TEST_F(CommandLine, ASocketFileThatNobodyListensOnIsReplaced) {
  { const auto gone = rpc::listenAt(directory_ + "/stale"); }
  EXPECT_EQ(access((directory_ + "/stale").c_str(), F_OK), 0);
  const auto again = rpc::listenAt(directory_ + "/stale");
  struct stat status {};
  ASSERT_EQ(stat((directory_ + "/stale").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST_F(CommandLine, NoServer) {
  const Outcome outcome = run("status --control " + directory_ + "/none");
  EXPECT_EQ(outcome.code, 4);
  EXPECT_THAT(outcome.text, AllOf(HasSubstr(directory_ + "/none"), HasSubstr("faultline serve")));
}

TEST_F(CommandLine, NoPermissionForUserfaultfd) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root to give permissions up";
  const std::string socket = "/tmp/faultline-unpermitted-" + std::to_string(getpid());
  const std::string command =
      "setpriv --reuid 65534 --clear-groups --bounding-set -all " + process::siblingExecutable("faultline");
  FILE* pipe = popen((command + " restore --memory /etc/passwd --socket " + socket + " 2>&1").c_str(), "re");
  std::string text;
  char buffer[4096];
  for (std::size_t got; (got = fread(buffer, 1, sizeof buffer, pipe)) > 0;) text.append(buffer, got);
  const int status = pclose(pipe);
  if (text.find("Permission denied") != std::string::npos && text.find("userfaultfd") == std::string::npos)
    GTEST_SKIP() << "user 65534 cannot reach the executable: " << text;
  EXPECT_EQ(WEXITSTATUS(status), 3) << text;
  EXPECT_THAT(text, AllOf(HasSubstr("/dev/userfaultfd"), HasSubstr("CAP_SYS_PTRACE"),
                          HasSubstr("vm.unprivileged_userfaultfd")));
}

}  // namespace
}  // namespace faultline::test
