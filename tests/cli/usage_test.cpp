// Output of the tool about itself, and about what it cannot do: no server is needed.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "cli/errors.h"
#include "cli/session.h"
#include "process/build.h"
#include "process/message.h"
#include "process/plain_text.h"
#include "rpc/connection.h"
#include "tests/cli/command.h"
#include "tests/support/child_process.h"

namespace faultline::test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

const std::vector<std::string> COMMANDS = {
    "serve",   "restore", "status",   "demo",        "pause",   "resume",  "detach", "prefault",
    "pages",   "reshard", "shutdown", "working-set", "metrics", "upgrade", "info",   "verify",
    "flatten", "check",   "wait",     "completion",  "pack",    "unpack",  "http",   "run"};

// Matches a single line that is ours.
MATCHER(IsOneLine, "is one line that begins with the program's name") {
  return arg.rfind("faultline: ", 0) == 0 && std::count(arg.begin(), arg.end(), '\n') == 1;
}
// Neither places nor expressions of the code.
MATCHER(IsForPeople, "") {
  for (const char* code :
       {".cpp", ".c++", ".h:", "stack:", "c_str()", "strerror", "remote exception", "expected "})
    if (arg.find(code) != std::string::npos) return false;
  return true;
}

TEST(Usage, HelpTeaches) {
  for (const std::string& command : COMMANDS) {
    const auto result = run({command, "--help"});
    EXPECT_EQ(result.code, 0) << command;
    EXPECT_THAT(result.out, HasSubstr("Example")) << command;
    EXPECT_THAT(result.out, HasSubstr("faultline " + command)) << command;
    EXPECT_THAT(result.out, HasSubstr("Exit codes: 0 done")) << command;
    EXPECT_THAT(result.err, IsEmpty()) << command;
  }
}

TEST(Usage, HelpOfTheWholeNamesEveryCommand) {
  const auto result = run({"--help"});
  EXPECT_EQ(result.code, 0);
  for (const std::string& command : COMMANDS)
    EXPECT_THAT(result.out, ::testing::ContainsRegex("(\n  |, )" + command + "[, ]"));
  EXPECT_LE(std::count(result.out.begin(), result.out.end(), '\n'), 25) << "it fits on a screen";
}

TEST(Usage, VersionIsPrinted) {
  const auto result = run({"--version"});
  EXPECT_EQ(result.code, 0);
  EXPECT_THAT(result.out, ::testing::MatchesRegex(process::version() +
                                                  std::string(" \\(commit ([0-9a-f]+|unknown)\\)\n")));
}

TEST(Usage, WrongCommandLinesAreExitCodeTwo) {
  const std::vector<std::vector<std::string>> wrong = {
      {},
      {"bogus"},
      {"serve", "--bogus"},
      {"serve", "--shards", "0"},
      {"serve", "--shards", "10000"},
      {"serve", "--shards", "two"},
      {"serve", "--log-level", "loud"},
      {"serve", "--watchdog-ms", "1"},
      {"serve", "--lock-deadline-ms", "0"},
      {"serve", "--lock-deadline-ms", "600001"},
      {"serve", "--handshake-timeout-ms", "0"},
      {"serve", "--handshake-timeout-ms", "600001"},
      {"serve", "--name", "a.b"},
      {"serve", "--name", ""},
      {"serve", "--name", std::string(51, 'n')},
      {"restore", "--memory", "x"},
      {"restore", "--socket", "x"},
      {"status", "--watch", "0"},
      {"pause"},
      {"pages"},
      {"info"},
      {"verify"},
      {"flatten", "top"},
      {"prefault", "vm", "--range", "1-2"},
      {"prefault", "vm", "--range", "1:"},
      {"prefault", "vm", "--range", ":1"},
      {"prefault", "vm", "--range", "-1:5"},
      {"prefault", "vm", "--range", "1:0"},
      {"prefault", "vm", "--range", "1:2:3"},
      {"prefault", "vm", "--range", "99999999999999999999:1"},
      {"reshard", "vm", "--shards", "65"},
      {"demo", "--size-mib", "3"},
      {"demo", "--threads", "0"},
      {"demo", "--page-size", "8k"},
  };
  for (const auto& arguments : wrong) {
    const auto result = run(arguments);
    const std::string line = ::testing::PrintToString(arguments);
    EXPECT_EQ(result.code, cli::USAGE) << line;
    EXPECT_THAT(result.err, Not(IsEmpty())) << line;
    EXPECT_THAT(result.out, IsEmpty()) << line;
  }
}

TEST(Usage, WhatIsWrongIsNamed) {
  EXPECT_THAT(run({"restor", "--memory", "m"}).err,
              HasSubstr("there is no command restor; did you mean restore?"));
  EXPECT_THAT(run({"zebra"}).err,
              AllOf(HasSubstr("there is no command zebra"), Not(HasSubstr("did you mean"))));
  EXPECT_THAT(run({"status", "--wathc"}).err,
              HasSubstr("status has no option --wathc; did you mean --watch?"));
  EXPECT_THAT(run({"serve", "--max-restore=3"}).err, HasSubstr("did you mean --max-restores?"));
  EXPECT_THAT(run({"serve", "--shards", "10000"}).err,
              AllOf(HasSubstr("--shards"), HasSubstr("10000"), HasSubstr("64")));
  for (const char* option : {"--lock-deadline-ms", "--handshake-timeout-ms"})
    EXPECT_THAT(run({"restore", "--memory", "m", "--socket", "s", option, "0"}).err,
                AllOf(HasSubstr(option), HasSubstr("Value 0 not in range 10 to 600000")));
  EXPECT_THAT(run({"prefault", "vm", "--range", "1-2"}).err,
              AllOf(HasSubstr("1-2"), HasSubstr("FIRST:COUNT")));
  EXPECT_THAT(run({"serve", "--name", "a.b"}).err, HasSubstr("\"a.b\": a name has 1 to 50 characters"));
}

TEST(Usage, WhatIsWrongIsNamedWithoutCommandsForTheTerminal) {
  for (const char* name : {"\x1b[31mX", "X\xff",
                           "X\xc2\x9b"
                           "1m",
                           "X\x7f"}) {
    const auto result = run({"serve", "--name", name});
    EXPECT_EQ(result.code, cli::USAGE);
    EXPECT_EQ(result.err, process::plainText(result.err, process::Lines::keep));
    EXPECT_THAT(result.err, HasSubstr("a name has 1 to 50 characters"));
  }
}

// --- a server that does not answer: stopped, or a socket on which no process accepts ---

const std::vector<std::vector<std::string>> ASKING = {{"status"},
                                                      {"status", "--json"},
                                                      {"status", "--watch", "1"},
                                                      {"pause", "vm"},
                                                      {"resume", "vm"},
                                                      {"detach", "vm"},
                                                      {"prefault", "vm"},
                                                      {"prefault", "vm", "--wait"},
                                                      {"pages", "vm"},
                                                      {"pages", "vm", "--json"},
                                                      {"shutdown"},
                                                      {"reshard", "vm", "--shards", "2"},
                                                      {"upgrade"},
                                                      {"upgrade", "--check"},
                                                      {"metrics", "--once"},
                                                      {"working-set", "save", "vm", "--output", "/dev/null"}};

class SilentServer : public ::testing::Test {
 protected:
  ~SilentServer() noexcept override {}  // KJ's may throw

  // Returns when a command has connected: it is asking.
  void awaitConnection() {
    held_.push_back(kj::AutoCloseFd(accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC)));
  }

  Directory directory_;
  const std::string control_ = directory_ / "control";
  const kj::AutoCloseFd socket_ = rpc::listenAt(control_);
  std::vector<kj::AutoCloseFd> held_;
};

TEST_F(SilentServer, EveryCommandEndsAtTheFirstSignal) {
  for (const int signal : {SIGINT, SIGTERM})
    for (auto arguments : ASKING) {
      arguments.insert(arguments.end(), {"--control", control_});
      Command command(arguments);
      awaitConnection();
      command.signal(signal);
      const auto result = command.finish();
      EXPECT_EQ(result.code, cli::FAILED) << ::testing::PrintToString(arguments);
      EXPECT_EQ(result.err, "faultline: interrupted\n") << ::testing::PrintToString(arguments);
    }
}

TEST_F(SilentServer, IsGivenUpAfterAWhile) {
  ChildProcess command([&] {
    cli::Interrupts::capture();
    _exit(cli::guarded([&] {
      cli::Session session(control_, cli::Session::Interrupted::ends, std::chrono::milliseconds(300));
      session.wait(session.coordinator().statusRequest().send());
      return cli::OK;
    }));
  });
  EXPECT_EQ(command.join(), cli::DISCONNECTED);
}

TEST(Usage, WithoutAServerTheExitCodeIsFour) {
  Directory directory;
  const std::string control = directory / "control";
  const std::vector<std::vector<std::string>> commands = {
      {"status"},       {"status", "--watch"}, {"pause", "vm"},
      {"resume", "vm"}, {"detach", "vm"},      {"prefault", "vm"},
      {"pages", "vm"},  {"shutdown"},          {"reshard", "vm", "--shards", "2"},
  };
  for (auto arguments : commands) {
    arguments.insert(arguments.end(), {"--control", control});
    const auto result = run(arguments);
    const std::string line = ::testing::PrintToString(arguments);
    EXPECT_EQ(result.code, cli::DISCONNECTED) << line;
    EXPECT_THAT(result.err,
                AllOf(IsOneLine(), IsForPeople(), HasSubstr(control), HasSubstr("faultline serve")))
        << line;
  }
}

// The supervisor does not try that again (supervisor/supervisor.h).
TEST(Usage, ACoordinatorRefusesOptionsThatItDoesNotKnowWithSixtyFour) {
  const auto result = Command({"--of-another-build"}, "faultline-coordinator").finish();
  EXPECT_EQ(result.code, 64);
  EXPECT_THAT(result.err, HasSubstr("--of-another-build"));
  EXPECT_EQ(Command({"--help"}, "faultline-coordinator").finish().code, 0);
}

// --- memory files and sockets ---

struct Case {
  std::string memory, socket;
  std::string says;
};

// `serve` and `restore` refuse alike, before anything is made or started.
void expectRefused(const Directory& directory, const Case& bad) {
  const std::vector<std::vector<std::string>> commands = {
      {"serve", "--control", directory / "control", "--memory", bad.memory, "--socket", bad.socket},
      {"restore", "--memory", bad.memory, "--socket", bad.socket}};
  const auto before = directory.content();
  for (const auto& arguments : commands) {
    const auto result = run(arguments);
    const std::string line = ::testing::PrintToString(arguments);
    EXPECT_EQ(result.code, cli::USAGE) << line;
    EXPECT_THAT(result.err, AllOf(IsOneLine(), IsForPeople(), HasSubstr(bad.says))) << line;
    EXPECT_EQ(directory.content().size(), before.size()) << line;
  }
}

TEST(BadInput, MemoryFilesThatAreNone) {
  Directory directory;
  const std::string socket = directory / "socket";
  const std::string empty = directory.file("empty", "");
  expectRefused(directory, {directory / "missing", socket, "missing: No such file or directory; give"});
  expectRefused(directory, {directory.path(), socket, directory.path() + " is a directory"});
  expectRefused(directory, {empty, socket, empty + " is empty"});
  expectRefused(directory,
                {"/dev/zero", socket,
                 "/dev/zero is no regular file and no block device; give the snapshot's memory file"});
}

TEST(BadInput, MemoryFilesThatMayNotBeRead) {
  if (geteuid() == 0) GTEST_SKIP() << "root may read everything";
  Directory directory;
  const std::string secret = directory.file("secret", "x");
  std::filesystem::permissions(secret, std::filesystem::perms::none);
  expectRefused(directory, {secret, directory / "socket", "Permission denied"});
}

TEST(BadInput, SocketPathsThatCannotBeUsed) {
  Directory directory;
  const std::string memory = directory.file("memory", std::string(4096, 'x'));
  const std::string file = directory.file("file", "precious");
  auto taken = rpc::listenAt(directory / "taken");
  const std::string longPath = directory / std::string(120, 's');

  expectRefused(directory, {memory, file, "no socket: choose another path or remove it: " + file});
  expectRefused(directory, {memory, directory / "taken", "in use by another server"});
  expectRefused(directory, {memory, directory / "no/such/socket", "No such file or directory"});
  expectRefused(directory, {memory, longPath, "too long: choose a shorter one: " + longPath});
  EXPECT_EQ(std::filesystem::file_size(file), 8u);
}

TEST(BadInput, SocketsAndMemoryFilesThatDoNotPair) {
  Directory directory;
  const std::string memory = directory.file("memory", std::string(4096, 'x'));
  const std::string control = directory / "control";

  auto result = run({"serve", "--control", control, "--memory", memory});
  EXPECT_EQ(result.code, cli::USAGE);
  EXPECT_THAT(result.err, AllOf(IsOneLine(), HasSubstr("0 sockets and 1 memory files")));

  result = run({"serve", "--control", control, "--name", "vm"});
  EXPECT_EQ(result.code, cli::USAGE);
  EXPECT_THAT(result.err, AllOf(IsOneLine(), HasSubstr("1 names and 0 sockets")));

  result = run({"serve", "--control", control, "--memory", memory, "--socket", directory / "a", "--name",
                "vm", "--memory", memory, "--socket", directory / "b", "--name", "vm"});
  EXPECT_EQ(result.code, cli::USAGE);
  EXPECT_THAT(result.err, AllOf(IsOneLine(), HasSubstr("--name vm is given twice")));
  EXPECT_THAT(directory.content(), ElementsAre("memory"));
}

TEST(BadInput, ControlSocketInUse) {
  Directory directory;
  auto taken = rpc::listenAt(directory / "control");

  const auto result = run({"serve", "--control", directory / "control"});

  EXPECT_EQ(result.code, cli::USAGE);
  EXPECT_THAT(result.err, AllOf(IsOneLine(), IsForPeople(), HasSubstr(directory / "control")));
  EXPECT_TRUE(std::filesystem::exists(directory / "control"));
}

TEST(BadInput, WorkingSetsThatAreNone) {
  Directory directory;
  const std::string missing = directory / "missing", nowhere = directory / "no/such/file";

  auto result = run({"working-set", "show", missing});
  EXPECT_EQ(result.code, cli::USAGE);
  EXPECT_THAT(result.err, AllOf(IsOneLine(), HasSubstr(missing + ": No such file"),
                                HasSubstr("record one with --record-working-set, or leave it out")));

  result = run({"working-set", "show", "/dev/zero"});
  EXPECT_EQ(result.code, cli::USAGE);
  EXPECT_THAT(result.err, AllOf(IsOneLine(), HasSubstr("/dev/zero: it is no regular file; give the file")));

  result = run({"working-set", "save", "vm", "--output", nowhere});
  EXPECT_EQ(result.code, cli::USAGE);
  EXPECT_THAT(result.err, AllOf(IsOneLine(), HasSubstr(nowhere + " could not be written"),
                                HasSubstr("give a file in a folder that is there")));
}

TEST(BadInput, DemoDirectoryThatIsNotThere) {
  Directory directory;
  const auto result = run({"demo", "--size-mib", "2", "--dir", directory / "missing"});
  EXPECT_EQ(result.code, cli::ENVIRONMENT);
  EXPECT_THAT(result.err, AllOf(IsOneLine(), HasSubstr(directory / "missing"), HasSubstr("--dir")));
}

// --- messages ---

TEST(Messages, OfExceptionsAreForPeople) {
  auto said = [](const char* text) {
    return process::messageOf(kj::Exception(kj::Exception::Type::FAILED, "x.c++", 1, kj::heapString(text)));
  };
  EXPECT_EQ(said("remote exception: expected a == b [1 == 2]; the restore is over; name_.c_str() = vm"),
            "the restore is over: vm");
  EXPECT_EQ(said("cannot make the socket; path = /x; std::strerror(bound) = No such file or directory"),
            "cannot make the socket: /x: No such file or directory");
  EXPECT_EQ(said("userfaultfd can't be used; set sysctl vm.unprivileged_userfaultfd=1"),
            "userfaultfd can't be used; set sysctl vm.unprivileged_userfaultfd=1");
  EXPECT_EQ(said("plain"), "plain");
}

}  // namespace
}  // namespace faultline::test
